"""What a model is asked for a golden file, and how the answers are written."""

import dataclasses
import json

import tokenizers
import torch
import transformers
from prompting import (
    head_at,
    last_hidden,
    last_logits,
    layers,
    pad,
    pooled_rows,
    prompted,
    similarity,
    with_prompt_rows,
)
from safetensors.torch import save_file

TEMPERATURE = 0.05
HOW = "f32 on CPU, eager attention, one example at a time"


@dataclasses.dataclass
class Asked:
    """Ids of everything asked; `rows` are the read-out rows of the examples, prompt rows not counted."""

    examples: list
    rows: list
    initial_ids: list
    phrases: list = dataclasses.field(default_factory=list)  # classes of the similarity read-out
    label_ids: list = dataclasses.field(default_factory=list)  # classes of `read_out`
    lead: int = 1
    read_out: str = "masked_lm"  # or next_token, seq2seq
    mask_id: int | None = None
    poolings: tuple = ("mean",)  # of the similarity read-out


class Golden:
    """One model and everything asked of it. Every example goes alone through the model, without padding."""

    def __init__(self, model, asked):
        self.model, self.asked = model, asked
        self.tensors = {}
        self.noise = {"padded": 0.0, "f64": 0.0}
        self.classes = {}
        for pooling in asked.poolings if asked.phrases else []:
            self.classes[pooling] = torch.cat([self.pooled(phrase, pooling) for phrase in asked.phrases])
            self.tensors["class_embeddings" + of(pooling)] = self.classes[pooling]

    @staticmethod
    def row(row):
        """The row that `read` wants for an example whose mask (or last token) is at `row`."""
        return row

    def pooled(self, phrase, pooling):
        ids, mask = pad([phrase], 0)
        return pooled_rows(last_hidden(self.model, ids, mask), mask, 0, self.asked.lead, pooling)

    def read(self, ids, mask, rows, injection):
        """Every read-out of a batch: {"masked_lm": [B, C], "similarity": [B, K]}. `rows` as in Asked."""
        asked, out = self.asked, {}
        prompt_tokens = len(asked.initial_ids) if injection else 0
        rows = [row + prompt_tokens for row in rows]
        hidden = last_hidden(self.model, ids, mask)
        for pooling, classes in self.classes.items():
            pooled = pooled_rows(hidden, mask, prompt_tokens, asked.lead, pooling)
            out["similarity" + of(pooling)] = similarity(pooled, classes.to(pooled.dtype), TEMPERATURE)
        if asked.read_out == "masked_lm" and asked.label_ids:
            out["masked_lm"] = head_at(self.model, hidden[torch.arange(len(ids)), rows], asked.label_ids)
        if asked.read_out == "next_token":
            out["next_token"] = last_logits(self.model, ids, mask, rows, asked.label_ids)
        return out

    def logits(self, prompts, injection):
        """Logits of all examples [E, C] for each read-out; compares the padded batch and f64 on the way."""
        initial = self.asked.initial_ids if injection else []
        lead, rows = self.asked.lead, self.asked.rows
        examples = [with_prompt_rows(e, initial, lead) for e in self.asked.examples]
        prompts = [] if prompts is None else prompts
        with prompted(self.model, prompts, injection, lead):
            alone = [self.read(*pad([e], 0), [r], injection) for e, r in zip(examples, rows)]
            padded = self.read(*pad(examples, self.model.config.pad_token_id or 0), rows, injection)
        out = {key: torch.cat([one[key] for one in alone]) for key in padded}
        self.model.double()
        with prompted(self.model, [p.double() for p in prompts], injection, lead):
            exact = [self.read(*pad([e], 0), [r], injection) for e, r in zip(examples, rows)]
        self.model.float()
        for key, value in out.items():
            scale = value.abs().max().item()
            compare = {"padded": padded[key], "f64": torch.cat([one[key] for one in exact])}
            for other, theirs in compare.items():
                self.noise[other] = max(self.noise[other], (value - theirs).abs().max().item() / scale)
        return out

    def put(self, name, prompts, injection):
        for key, value in self.logits(prompts, injection).items():
            self.tensors[f"{name}.{key}"] = value

    def stacks(self):
        """The blocks whose hidden states are kept, by name."""
        return {"hidden": layers(self.model)}

    def put_hidden(self, name, prompts, injection):
        """Hidden states of example 0 [L+1, T, H]: embeddings (no prompt yet), then each layer's output."""
        initial = self.asked.initial_ids if injection else []
        ids, mask = pad([with_prompt_rows(self.asked.examples[0], initial, self.asked.lead)], 0)
        seen, handles = {}, []
        for stack, blocks in self.stacks().items():
            rows = seen.setdefault(stack, [])
            handles += [
                blocks[0].register_forward_pre_hook(lambda _block, args, rows=rows: rows.append(args[0]))
            ]
            keep = lambda _block, _args, out, rows=rows: rows.append(first(out))  # noqa: E731
            handles += [block.register_forward_hook(keep) for block in blocks]
        with prompted(self.model, [] if prompts is None else prompts, injection, self.asked.lead):
            self.read(ids, mask, self.asked.rows[:1], injection)
        for handle in handles:
            handle.remove()
        for stack, rows in seen.items():
            assert len(rows) % (len(self.stacks()[stack]) + 1) == 0
            self.tensors[f"{name}.{stack}"] = torch.cat(rows[: len(self.stacks()[stack]) + 1])

    def put_populations(self, name, context, candidates, injection):
        """For each layer l: the logits of each candidate in place of the context's prompt at l, [m, E, C]."""
        for layer in range(len(context)):
            each = []
            for candidate in candidates:
                prompts = context.clone()
                prompts[layer] = candidate
                each.append(self.logits(prompts, injection))
            for key in each[0]:
                self.tensors[f"{name}.population.{layer}.{key}"] = torch.stack([one[key] for one in each])

    def put_all(self, candidates, hidden=True):
        shape = (len(layers(self.model)), len(self.asked.initial_ids), self.model.config.hidden_size)
        self.put("plain", None, None)
        if hidden:
            self.put_hidden("plain", None, None)
        self.put("initial", torch.zeros(shape), "add")
        for injection, size in (("add", 0.5), ("prefix", 0.8)):
            prompts = size * torch.randn(shape)
            drawn = size * torch.randn(candidates, *shape[1:])
            self.tensors[f"{injection}.prompts"] = prompts
            self.tensors[f"{injection}.candidates"] = drawn
            self.put(injection, prompts, injection)
            if hidden:
                self.put_hidden(injection, prompts, injection)
            self.put_populations(injection, prompts, drawn, injection)


def of(pooling):
    """The ending of a tensor's name: mean, the usual pooling, has none."""
    return "" if pooling == "mean" else f"_{pooling}"


def first(out):
    """A block's hidden states, whatever else it gives."""
    return out if torch.is_tensor(out) else out[0]


def draw_parameters(model, norm_centre=1.0):
    """Every parameter at random, biases and norms too: none can be forgotten unnoticed."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            is_norm = name.endswith(".weight") and any(word in name.lower() for word in ("norm", "ln_"))
            centre, spread = (norm_centre, 0.1) if is_norm else (0.0, 0.2)
            parameter.copy_(centre + spread * torch.randn(parameter.shape))
    return model.eval()


def write(folder, golden, facts, made_by):
    assert golden.noise["padded"] < 1e-5, golden.noise
    tensors = {name: tensor.contiguous() for name, tensor in golden.tensors.items()}
    save_file(tensors, folder / "golden.safetensors")
    facts = {
        "made_by": f"{made_by} with {versions()}; {HOW}",
        "relative_noise": {key: float(f"{value:.1e}") for key, value in golden.noise.items()},
        "temperature": TEMPERATURE,
        **facts,
    }
    write_json(folder / "golden.json", facts)
    print(f"{folder.name}: {len(tensors)} tensors, noise {golden.noise}")


def versions():
    text = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    return text + f", tokenizers {tokenizers.__version__}"


def write_json(path, facts):
    """One key a line, and one item of a list of lists or objects a line."""
    lines = ",\n".join(f" {json.dumps(key)}: {one_a_line(value)}" for key, value in facts.items())
    path.write_text("{\n" + lines + "\n}\n")


def one_a_line(value):
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return "[\n" + ",\n".join("  " + json.dumps(item) for item in value) + "\n ]"
    return json.dumps(value)


def texts_and_ids(fast, texts):
    return [{"text": text, "ids": fast(text)["input_ids"]} for text in texts]
