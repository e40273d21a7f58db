#!/usr/bin/env python3
"""Makes tests/golden/models/bert-tiny-bin: the weights of bert-tiny as PyTorch saves them.

  pip install -r scripts/golden/requirements.txt
  python scripts/golden/pytorch.py

Configuration and tokenizer are bert-tiny's own, and are not written again. As checkpoints of that time have it, the
decoder is the word embeddings' storage a second time, and the position ids are there, as integers.
"""

import torch
from prompting import load
from tiny import KINDS, OUT


def main():
    model = load(OUT / "bert-tiny", kind=KINDS["masked_lm"])
    state = dict(model.state_dict())
    state["bert.embeddings.position_ids"] = torch.arange(model.config.max_position_embeddings)[None]
    words = state["bert.embeddings.word_embeddings.weight"]
    assert state["cls.predictions.decoder.weight"].data_ptr() == words.data_ptr()
    folder = OUT / "bert-tiny-bin"
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin")


if __name__ == "__main__":
    main()
