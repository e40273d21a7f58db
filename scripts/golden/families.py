#!/usr/bin/env python3
"""Makes tests/golden/models for every other family: a tiny random model each, and what Hugging Face computes.

  pip install -r scripts/golden/requirements.txt
  python scripts/golden/families.py [--only NAME]...

Sizes are odd, windows shorter than the longest example, and every kind of layer is there. Half of the
configurations are written as models on the hub have them (`hub`), half as transformers 5 writes them.
"""

import argparse

import tokens
import torch
import transformers as hf
from tiny import Family, make

MADE_BY = "scripts/golden/families.py"
BOS = dict(pad_token_id=0, eos_token_id=1, bos_token_id=2)


def gpt2(vocab_size):
    end = vocab_size - 1
    sizes = dict(n_embd=33, n_head=3, n_layer=3, n_positions=64)
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=vocab_size, **sizes, bos_token_id=end, eos_token_id=end)
    )


def llama_like(vocab_size, **sizes):
    """Sizes that the families of Llama's making share."""
    plain = dict(hidden_size=36, intermediate_size=52, num_hidden_layers=3, max_position_embeddings=128)
    return dict(vocab_size=vocab_size, **(plain | sizes))


def llama(vocab_size):
    # Rotary wavelengths 6, 29 and 135: one kept, one between, one stretched.
    rope = dict(
        rope_type="llama3",
        rope_theta=100.0,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    sizes = llama_like(vocab_size, num_attention_heads=6, num_key_value_heads=2)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **BOS, rms_norm_eps=1e-5, rope_parameters=rope))


LLAMA_HUB = dict(
    rope_parameters=None,
    head_dim=None,
    rope_theta=100.0,
    rope_scaling=dict(
        factor=8.0,
        high_freq_factor=4.0,
        low_freq_factor=1.0,
        original_max_position_embeddings=64,
        rope_type="llama3",
    ),
)


def mistral(vocab_size):
    sizes = llama_like(vocab_size, hidden_size=30, num_attention_heads=5, num_key_value_heads=1)
    return hf.MistralForCausalLM(
        hf.MistralConfig(**sizes, **BOS, sliding_window=7, rms_norm_eps=1e-5, rope_parameters=rope(1e4))
    )


def rope(theta):
    return dict(rope_type="default", rope_theta=theta)


def qwen2(vocab_size):
    sizes = llama_like(vocab_size, hidden_size=42, num_attention_heads=3, num_key_value_heads=1)
    return hf.Qwen2ForCausalLM(
        hf.Qwen2Config(**sizes, **qwen_ends(vocab_size), tie_word_embeddings=True, rope_parameters=rope(1e6))
    )


def qwen3(vocab_size):
    sizes = llama_like(vocab_size, hidden_size=30, num_attention_heads=6, num_key_value_heads=2, head_dim=8)
    return hf.Qwen3ForCausalLM(
        hf.Qwen3Config(**sizes, **qwen_ends(vocab_size), tie_word_embeddings=True, rope_parameters=rope(1e6))
    )


def qwen_ends(vocab_size):
    return dict(bos_token_id=vocab_size - 1, eos_token_id=vocab_size - 1)


def gemma2(vocab_size):
    # The caps are low enough to bend scores and logits of random weights.
    sizes = llama_like(vocab_size, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=10)
    caps = dict(attn_logit_softcapping=1.5, final_logit_softcapping=4.0, query_pre_attn_scalar=7)
    return hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**sizes, **BOS, **caps, sliding_window=8, rope_parameters=rope(1e4))
    )


def gemma3(vocab_size):
    sizes = llama_like(
        vocab_size,
        hidden_size=30,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=12,
        num_hidden_layers=4,
    )
    thetas = dict(full_attention=rope(1e5), sliding_attention=rope(1e3))
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    return hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(
            **sizes,
            **BOS,
            query_pre_attn_scalar=14,
            sliding_window=8,
            layer_types=kinds,
            rope_parameters=thetas,
        )
    )


GEMMA3_HUB = dict(
    rope_parameters=None,
    layer_types=None,
    rope_theta=1e5,
    rope_local_base_freq=1e3,
    sliding_window_pattern=3,
    _sliding_window_pattern=None,
)

FAMILIES = [
    Family("gpt2", 21, tokens.gpt2, gpt2, "next_token", lead=0),
    Family("llama", 22, tokens.with_bos, llama, "next_token", hub=LLAMA_HUB),
    Family(
        "mistral",
        23,
        tokens.with_bos,
        mistral,
        "next_token",
        hub=dict(rope_parameters=None, head_dim=None, rope_theta=1e4),
    ),
    Family("qwen2", 24, tokens.gpt2, qwen2, "next_token", lead=0),
    Family("qwen3", 25, tokens.gpt2, qwen3, "next_token", lead=0),
    Family(
        "gemma2",
        26,
        tokens.with_bos,
        gemma2,
        "next_token",
        norm_centre=0.0,
        hub=dict(rope_parameters=None, layer_types=None, rope_theta=1e4),
    ),
    Family("gemma3", 27, tokens.with_bos, gemma3, "next_token", norm_centre=0.0, hub=GEMMA3_HUB),
]


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", action="append", choices=[family.name for family in FAMILIES])
    chosen = options.parse_args()
    torch.set_num_threads(1)
    for family in FAMILIES:
        if chosen.only is None or family.name in chosen.only:
            make(family, MADE_BY)


if __name__ == "__main__":
    main()
