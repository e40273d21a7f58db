"""BBTv2's evaluation of one candidate in PyTorch: a full forward of the padded batch, in f32 or bf16."""

import prompting
import torch
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class TorchPeer:
    """Every layer from the embeddings, prompts put in by hooks, fused attention, the head at the mask's row alone
    (similarity: mean pooling). In bf16 the whole model is: nothing is cast on the way."""

    def __init__(self, work, prompts, dtype):
        self.work, self.name = work, f"pytorch {dtype}"
        self.version = torch.__version__.split("+")[0]
        self.context, self.candidates = (prompts[name].to(DTYPES[dtype]) for name in ("context", "candidates"))
        masked = work["read_out"] == "masked-lm"
        self.model = prompting.load(work["model"], masked, attention="sdpa").to(DTYPES[dtype])
        full = [prompting.with_prompt_rows(example["ids"], work["initial_ids"]) for example in work["examples"]]
        self.ids, self.mask = prompting.pad(full, self.model.config.pad_token_id)
        self.rows = [example["read_out"] + work["prompt_tokens"] for example in work["examples"]]
        with torch.inference_mode():
            pooled = [self.pooled(*prompting.pad([phrase], 0), 0) for phrase in work["class_phrases"]]
            self.classes = torch.cat(pooled) if pooled else None

    def pooled(self, ids, mask, tokens):
        return prompting.mean_rows(prompting.last_hidden(self.model, ids, mask), mask, tokens)

    def logits(self, layer, candidate):
        """Logits [B, C] with candidate number `candidate` at `layer` and the context elsewhere."""
        torch.set_num_threads(self.work["threads"])
        prompts = list(self.context)
        prompts[layer] = self.candidates[candidate]
        with torch.inference_mode(), prompting.prompted(self.model, prompts, self.work["injection"]):
            if self.classes is not None:
                pooled = self.pooled(self.ids, self.mask, self.work["prompt_tokens"])
                return prompting.similarity(pooled, self.classes, self.work["temperature"]).double()
            hidden = prompting.last_hidden(self.model, self.ids, self.mask)
            rows = hidden[torch.arange(len(self.ids)), self.rows]
            return prompting.head_at(self.model, rows, self.work["label_ids"]).double()
