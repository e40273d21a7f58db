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
from cpt import CPTForMaskedLM
from seq2seq import T5, Bart
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


def modernbert(vocab_size):
    # Layers: full, local, local, full. A local row sees 4 rows to each side.
    config = hf.ModernBertConfig(
        vocab_size=vocab_size,
        hidden_size=36,
        intermediate_size=44,
        num_hidden_layers=4,
        num_attention_heads=3,
        max_position_embeddings=128,
        local_attention=8,
        global_attn_every_n_layers=3,
        rope_parameters=dict(full_attention=rope(1e4), sliding_attention=rope(1e2)),
        **dict(cls_token_id=0, bos_token_id=0, pad_token_id=1, sep_token_id=2, eos_token_id=2),
    )
    return hf.ModernBertForMaskedLM(config)


MODERNBERT_HUB = dict(
    rope_parameters=None,
    layer_types=None,
    global_attn_every_n_layers=3,
    global_rope_theta=1e4,
    local_rope_theta=1e2,
)


def t5_like(vocab_size, feed_forward):
    return hf.T5Config(
        vocab_size=vocab_size,
        d_model=30,
        d_kv=8,
        d_ff=52,
        num_heads=3,
        num_layers=3,
        num_decoder_layers=2,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=20,
        feed_forward_proj=feed_forward,
        decoder_start_token_id=0,
        **dict(pad_token_id=0, eos_token_id=1),
    )


def t5(vocab_size):
    return hf.T5ForConditionalGeneration(t5_like(vocab_size, "relu"))


def t5v11(vocab_size):
    config = t5_like(vocab_size, "gated-gelu")
    config.scale_decoder_outputs = False
    model = hf.T5ForConditionalGeneration(config)
    # transformers 5 ties the head of every T5 it makes; what is read with a head of its own keeps it.
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    return model


T5_HUB = dict(decoder_start_token_id=0, scale_decoder_outputs=None, dense_act_fn=None, is_gated_act=None)


def bart(vocab_size):
    config = hf.BartConfig(
        vocab_size=vocab_size,
        d_model=30,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=5,
        encoder_ffn_dim=44,
        decoder_ffn_dim=36,
        max_position_embeddings=48,
        decoder_start_token_id=2,
        **dict(bos_token_id=0, pad_token_id=1, eos_token_id=2),
    )
    model = hf.BartForConditionalGeneration(config)
    # Zero in BART's checkpoints, but part of them; drawn so that it is not forgotten.
    model.final_logits_bias.copy_(0.2 * torch.randn(model.final_logits_bias.shape))
    return model


def deberta(vocab_size):
    # legacy=False: the head by the names of DeBERTa v3's own checkpoints, lm_predictions.lm_head.
    config = hf.DebertaV2Config(
        vocab_size=vocab_size,
        hidden_size=36,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=52,
        max_position_embeddings=64,
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
        type_vocab_size=0,
        pad_token_id=0,
        legacy=False,
    )
    return hf.DebertaV2ForMaskedLM(config)


def cpt(vocab_size):
    # As in the files of before December 2022, the encoder has fewer positions than config.json says.
    config = hf.BartConfig(
        vocab_size=vocab_size,
        d_model=30,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=3,
        decoder_attention_heads=5,
        encoder_ffn_dim=44,
        decoder_ffn_dim=20,
        max_position_embeddings=64,
        decoder_start_token_id=3,
        **dict(bos_token_id=2, pad_token_id=0, eos_token_id=3),
    )
    model = CPTForMaskedLM(config, positions=45)
    # Zero in the published checkpoints; drawn so that it is not forgotten.
    model.final_logits_bias.copy_(0.2 * torch.randn(model.final_logits_bias.shape))
    return model


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
    Family("qwen3", 25, tokens.gpt2, qwen3, "next_token", lead=0, poolings=("mean", "last")),
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
    Family("modernbert", 28, tokens.modernbert, modernbert, "masked_lm", hub=MODERNBERT_HUB),
    Family("t5", 29, tokens.t5, t5, "seq2seq", lead=0, golden=T5, hub=T5_HUB),
    Family(
        "t5v11",
        30,
        tokens.t5,
        t5v11,
        "seq2seq",
        lead=0,
        golden=T5,
        hub=T5_HUB | dict(tie_word_embeddings=False),
    ),
    Family("bart", 31, tokens.roberta, bart, "seq2seq", golden=Bart, hub=dict(decoder_start_token_id=2)),
    Family("deberta-v3", 32, tokens.deberta, deberta, "masked_lm", hub=dict(pos_att_type="p2c|c2p")),
    Family("cpt", 33, tokens.wordpiece, cpt, "masked_lm", kind=CPTForMaskedLM),
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
