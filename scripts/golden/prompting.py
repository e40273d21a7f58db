"""BBTv2's prompts and read-outs on Hugging Face models, done the plain way: the reference of our engine.

Rows of an example: `lead` rows (1: [CLS], <s> or <bos>; 0 in models that begin with the text), then n prompt
rows (embedded from the initial ids, at positions of their own), then the text. At the input of every layer j
  add:    the prompt rows += p_j
  prefix: the prompt rows  = p_j
Encoder-decoder models take prompts in the encoder's layers.
Used by scripts/golden and scripts/bench-peers.
"""

import contextlib

import torch
from transformers import AutoModel, AutoModelForMaskedLM


def load(folder, masked_lm=False, attention="eager", kind=None):
    """The model of `folder` in f32 and evaluation mode; attention is `eager` (plain) or `sdpa` (fused)."""
    kind = kind or (AutoModelForMaskedLM if masked_lm else AutoModel)
    options = {"add_pooling_layer": False} if kind is AutoModel else {}
    return kind.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32, **options).eval()


def layers(model):
    """The transformer blocks that take a prompt, bottom to top."""
    base = model.base_model
    stack = base.encoder if hasattr(base, "encoder") else base
    return next(getattr(stack, name) for name in ("layer", "layers", "h", "block") if hasattr(stack, name))


@contextlib.contextmanager
def prompted(model, prompts, injection, lead=1):
    """Within the block every layer's input gets its prompt; `prompts` [L, n, H], or L tensors [n, H]."""

    def hook(prompt):
        def inject(_layer, args):
            hidden = args[0].clone()
            rows = slice(lead, lead + prompt.shape[0])
            hidden[:, rows] = hidden[:, rows] + prompt if injection == "add" else prompt
            return (hidden, *args[1:])

        return inject

    handles = [layer.register_forward_pre_hook(hook(prompt)) for layer, prompt in zip(layers(model), prompts)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_prompt_rows(ids, initial_ids, lead=1):
    """The ids with the initial prompt ids after the leading special token, where there is one."""
    return [*ids[:lead], *initial_ids, *ids[lead:]]


def pad(examples, pad_id):
    """Ids [B, T] and attention mask [B, T] of a padded batch (right padding)."""
    longest = max(map(len, examples))
    ids = torch.tensor([e + [pad_id] * (longest - len(e)) for e in examples])
    mask = torch.tensor([[1] * len(e) + [0] * (longest - len(e)) for e in examples])
    return ids, mask


def last_hidden(model, ids, mask):
    """What the head reads [B, T, H]: the last layer's output, after the final norm where there is one."""
    return model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state


def head_at(model, rows, label_ids):
    """Masked-LM logits of the label words [B, C] from hidden rows [B, H], by way of the whole vocabulary."""
    if hasattr(model, "decoder"):  # ModernBERT's head is in two
        return model.decoder(model.head(rows))[:, label_ids]
    if hasattr(model, "lm_predictions"):  # DeBERTa v3's is handed the embeddings
        return model.lm_predictions(rows, model.get_input_embeddings())[:, label_ids]
    if hasattr(model, "final_logits_bias"):  # CPT's is the embeddings
        return (model.lm_head(rows) + model.final_logits_bias)[:, label_ids]
    head = model.lm_head if hasattr(model, "lm_head") else model.cls
    return head(rows)[:, label_ids]


def last_logits(model, ids, mask, rows, label_ids):
    """Next-token logits of the label words [B, C] at one row of each example."""
    logits = model(input_ids=ids, attention_mask=mask).logits
    return logits[torch.arange(len(ids)), rows][:, label_ids]


def mean_rows(hidden, mask, prompt_tokens, lead=1):
    """Mean over the real rows that are no prompt rows [B, H]; special tokens count."""
    weights = mask.to(hidden.dtype).clone()
    weights[:, lead : lead + prompt_tokens] = 0
    return (hidden * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)


def pooled_rows(hidden, mask, prompt_tokens, lead, pooling):
    """One row an example [B, H], as sentence encoders pool: mean_rows, the first row, the last real one."""
    if pooling == "mean":
        return mean_rows(hidden, mask, prompt_tokens, lead)
    if pooling == "cls":
        return hidden[:, 0]
    return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]


def similarity(pooled, classes, temperature):
    """Cosine of pooled rows [B, H] with class embeddings [C, H], divided by the temperature: [B, C]."""
    unit = torch.nn.functional.normalize
    return unit(pooled, dim=-1) @ unit(classes, dim=-1).T / temperature
