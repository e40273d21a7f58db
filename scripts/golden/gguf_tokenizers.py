#!/usr/bin/env python3
"""Makes tests/golden/gguf_tokenizers.json: small tokenizers as GGUF files describe them, and the ids
that transformers' reader of such files makes of odd texts. Versions: scripts/golden/requirements.txt.

  python scripts/golden/gguf_tokenizers.py
"""

import json
import pathlib

import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/gguf_tokenizers.json"
PIECES = (
    "\u2581 a b o d g e t h r s \u2581t he \u2581the go od \u2581g \u2581go \u2581good ood \u2581b ad \u2581bad er \u2581a re "
    "at \u2581gre \u2581great"
).split(" ")
MERGES = ["t h", "th e", "\u0120 the", "g o", "o d", "go od", "\u0120 good"]
MERGES += ["1 2", "12 3", "\u0120 \u0120", "' s", "\u010a \u010a"]
TEXTS = [
    "the good",
    "good",
    "  the  great bad",
    "a\ngood \u00e9",
    "thegoodgreat",
    "</s> good",
    "x good\tb",
    "it's 1234",
    "IT'S\n\n good",
    "<|end|> good",
    "a\n \n b",
]


def sentence_piece():
    """As Llama 2's files: byte pieces, merges by score; two pieces have the same."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + PIECES
    scores = [0.0] * 259 + [-float(index) for index in range(len(PIECES))]
    scores[tokens.index("ood")] = scores[tokens.index("\u2581good")]
    types = [2, 3, 3] + [6] * 256 + [1] * len(PIECES)
    return dict(model="llama", tokens=tokens, scores=scores, token_type=types)


def byte_level(pre):
    tokens = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES), "<|end|>"]
    types = [1] * (len(tokens) - 1) + [3]
    return dict(model="gpt2", pre=pre, tokens=tokens, token_type=types, merges=MERGES)


def case(described):
    names = dict(model="tokenizer_type", pre="pre_tokenizer_type")
    theirs = {names.get(key, key): value for key, value in described.items()}
    tokenizer, _ = convert_gguf_tokenizer("llama", theirs)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    return dict(described, encodings=[dict(text=text, ids=encode(text)) for text in TEXTS])


def main():
    cases = [case(sentence_piece()), *(case(byte_level(pre)) for pre in ("llama-bpe", "qwen2", "gpt-2"))]
    made_by = f"scripts/golden/gguf_tokenizers.py with transformers {transformers.__version__}"
    text = json.dumps(dict(made_by=made_by, cases=cases), ensure_ascii=True, separators=(",", ":"))
    OUT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
