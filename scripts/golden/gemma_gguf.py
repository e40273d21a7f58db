#!/usr/bin/env python3
"""Makes tests/golden/models/gemma3-270m: what transformers reads from Gemma 3 270M's GGUF (base, Q4_K_M).

  pip install -r scripts/golden/requirements.txt
  python scripts/golden/gemma_gguf.py --gguf FILE --data DIR

Neither the weights (Gemma's terms) nor the data sets' texts are kept, nor ids that would spell them: of a
text its number of tokens and the sha256 of its ids. DIR holds <task>/train.jsonl and test.jsonl.
"""

import argparse
import hashlib
import json
import pathlib
import struct

import torch
from tiny import OUT
from tokens import ENCODE, OPEN_TEXTS
from transformers import AutoModelForCausalLM, AutoTokenizer
from values import HOW, texts_and_ids, versions, write_json

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SENTENCES = 200
TOP = 4
ODD = [
    "<start_of_turn>user\nhi<end_of_turn>",
    "\u2581\u3000\u00a0x",
    "<unused7> <mask>[multimodal]",
    " ",
    "\n\n\n\n",
]


def packed(ids):
    """Token ids as little-endian u32, their number first."""
    return struct.pack(f"<{len(ids) + 1}I", len(ids), *ids)


def texts_of(path):
    """The texts of a data set in order, a pair's second after its first."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        for row in map(json.loads, lines):
            yield from (row[key] for key in ("text", "text_pair") if key in row)


def data_set(fast, path):
    ids = [fast(text)["input_ids"] for text in texts_of(path)]
    digest = hashlib.sha256(b"".join(packed(each) for each in ids)).hexdigest()
    return dict(
        file=f"{path.parent.name}/{path.name}", texts=len(ids), tokens=sum(map(len, ids)), sha256=digest
    )


def top(model, ids):
    """The likeliest next tokens: [[id, logit], ...]."""
    logits, order = model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0, -1].topk(TOP)
    return [[id, round(logit, 4)] for id, logit in zip(order.tolist(), logits.tolist())]


@torch.no_grad()
def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--gguf", type=pathlib.Path, required=True)
    options.add_argument("--data", type=pathlib.Path, required=True)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    assert hashlib.sha256(chosen.gguf.read_bytes()).hexdigest() == SHA256, "another file"
    where = dict(pretrained_model_name_or_path=chosen.gguf.parent, gguf_file=chosen.gguf.name)
    fast = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "weights were not dequantised"
    own = texts_and_ids(fast, OPEN_TEXTS)
    sentences = []
    for row, text in enumerate(texts_of(chosen.data / "sst2" / "test.jsonl")):
        if row < SENTENCES:
            ids = fast(text)["input_ids"]
            digest = hashlib.sha256(packed(ids)).hexdigest()
            sentences.append(dict(row=row, tokens=len(ids), sha256=digest, top=top(model, ids)))
    facts = {
        "made_by": f"scripts/golden/gemma_gguf.py with {versions()}; {HOW}, weights dequantised",
        "gguf_sha256": SHA256,
        "examples": [dict(example, top=top(model, example["ids"])) for example in own],
        "encodings": texts_and_ids(fast, ENCODE + ODD),
        "sst2_test": sentences,
        "data": [data_set(fast, path) for path in sorted(chosen.data.glob("*/*.jsonl"))],
    }
    (OUT / "gemma3-270m").mkdir(exist_ok=True)
    write_json(OUT / "gemma3-270m" / "golden.json", facts)


if __name__ == "__main__":
    main()
