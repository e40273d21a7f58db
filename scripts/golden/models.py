#!/usr/bin/env python3
"""Makes tests/golden/models: tiny BERT and RoBERTa models with tokenizers, and what Hugging Face computes.

  pip install -r scripts/golden/requirements.txt
  python scripts/golden/models.py [--minilm DIR] [--only NAME]

tests/golden/models/README.md tells what lies in each folder. MiniLM's weights are not committed.
The other families: scripts/golden/families.py.
"""

import argparse
import pathlib

import tokens
import torch
from prompting import load
from tiny import OUT, Family, make
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)
from values import Asked, Golden, texts_and_ids, write

MADE_BY = "scripts/golden/models.py"
SIZES = dict(
    hidden_size=40,
    num_attention_heads=5,
    intermediate_size=72,
    num_hidden_layers=3,
    max_position_embeddings=64,
    hidden_act="gelu",
)


def bert(vocab_size):
    return BertForMaskedLM(BertConfig(vocab_size=vocab_size, **SIZES, layer_norm_eps=1e-12, pad_token_id=0))


def roberta(vocab_size):
    ids = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2, type_vocab_size=1)
    return RobertaForMaskedLM(RobertaConfig(vocab_size=vocab_size, **SIZES, **ids, layer_norm_eps=1e-5))


FAMILIES = [
    Family("bert", 11, tokens.wordpiece, bert, "masked_lm", poolings=("mean", "cls")),
    Family("roberta", 12, tokens.roberta, roberta, "masked_lm"),
]


@torch.no_grad()
def make_minilm(source, seed):
    torch.manual_seed(seed)
    folder = OUT / "minilm"
    folder.mkdir(parents=True, exist_ok=True)
    fast = PreTrainedTokenizerFast(tokenizer_file=str(pathlib.Path(source) / "tokenizer.json"))
    texts = [
        "The striker scored twice and the keeper saved a penalty.",
        "Shares fell 3.2% after the bank's surprisingly weak quarter, its worst since 2009.",
        "New chip!",
    ]
    phrases = texts_and_ids(fast, ["sports", "business", "This text is about science and technology."])
    examples = texts_and_ids(fast, texts)
    initial_ids = [1000, 1001]
    ids = [e["ids"] for e in examples]
    golden = Golden(
        load(source, masked_lm=False), Asked(ids, [0] * len(ids), initial_ids, [p["ids"] for p in phrases])
    )
    golden.put_all(candidates=2, hidden=False)
    long = "a very long text , " * 30
    asked = ["", "Caf\u00e9 na\u00efve \u597d\u7684 \U0001f600", "unaffable tokenisation", "[MASK] it", long]
    facts = {
        "class_phrases": phrases,
        "initial_ids": initial_ids,
        "examples": examples,
        "encodings": texts_and_ids(fast, asked),
    }
    write(folder, golden, facts, MADE_BY)


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--minilm", help="folder of all-MiniLM-L6-v2 (see scripts/fetch-minilm)")
    options.add_argument("--only", choices=["bert", "roberta", "minilm"])
    chosen = options.parse_args()
    torch.set_num_threads(1)
    for family in FAMILIES:
        if chosen.only in (None, family.name):
            make(family, MADE_BY)
    if chosen.minilm and chosen.only in (None, "minilm"):
        make_minilm(chosen.minilm, 13)


if __name__ == "__main__":
    main()
