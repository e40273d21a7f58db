"""BBTv2's prompts and read-outs on Hugging Face models, done the plain way: the reference of our engine.

Rows of an example: row 0 is [CLS] or <s>, rows 1..n are the prompt (embedded from the initial ids, with
position ids of their own), then the text. At the input of every layer j
  add:    rows 1..n += p_j
  prefix: rows 1..n  = p_j
Used by scripts/golden/models.py and scripts/bench-peers.
"""

import contextlib

import torch
from transformers import AutoModel, AutoModelForMaskedLM


def load(folder, masked_lm, attention="eager"):
    """The model of `folder` in f32 and evaluation mode; attention is `eager` (plain) or `sdpa` (fused)."""
    kind = AutoModelForMaskedLM if masked_lm else AutoModel
    options = {} if masked_lm else {"add_pooling_layer": False}
    return kind.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32, **options).eval()


def layers(model):
    """The transformer blocks, bottom to top."""
    return model.base_model.encoder.layer


@contextlib.contextmanager
def prompted(model, prompts, injection):
    """Within the block every layer's input gets its prompt; `prompts` [L, n, H], or L tensors [n, H]."""

    def hook(prompt):
        def inject(_layer, args):
            hidden = args[0].clone()
            rows = slice(1, 1 + prompt.shape[0])
            hidden[:, rows] = hidden[:, rows] + prompt if injection == "add" else prompt
            return (hidden, *args[1:])

        return inject

    handles = [layer.register_forward_pre_hook(hook(prompt)) for layer, prompt in zip(layers(model), prompts)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_prompt_rows(ids, initial_ids):
    """The ids with the initial prompt ids after the first special token."""
    return [ids[0], *initial_ids, *ids[1:]]


def pad(examples, pad_id):
    """Ids [B, T] and attention mask [B, T] of a padded batch (right padding)."""
    longest = max(map(len, examples))
    ids = torch.tensor([e + [pad_id] * (longest - len(e)) for e in examples])
    mask = torch.tensor([[1] * len(e) + [0] * (longest - len(e)) for e in examples])
    return ids, mask


def last_hidden(model, ids, mask):
    """The last layer's output [B, T, H], without the head."""
    return model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state


def head_at(model, rows, label_ids):
    """Masked-LM logits of the label words [B, C] from hidden rows [B, H], by way of the whole vocabulary."""
    head = model.lm_head if hasattr(model, "lm_head") else model.cls
    return head(rows)[:, label_ids]


def mean_rows(hidden, mask, prompt_tokens):
    """Mean over the real rows that are no prompt rows [B, H]; [CLS] and [SEP] count."""
    weights = mask.to(hidden.dtype).clone()
    weights[:, 1 : 1 + prompt_tokens] = 0
    return (hidden * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)


def similarity(pooled, classes, temperature):
    """Cosine of pooled rows [B, H] with class embeddings [C, H], divided by the temperature: [B, C]."""
    unit = torch.nn.functional.normalize
    return unit(pooled, dim=-1) @ unit(classes, dim=-1).T / temperature
