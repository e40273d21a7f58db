"""Makes one tiny random model with its tokenizer, and the golden files beside it."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable

import torch
from prompting import load
from tokens import ENCODE, LABELS, OPEN_TEXTS, PHRASES, TEXTS
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)
from values import Asked, Golden, draw_parameters, texts_and_ids, write

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "models"
KINDS = {
    "masked_lm": AutoModelForMaskedLM,
    "next_token": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}


@dataclasses.dataclass
class Family:
    name: str
    seed: int
    tokenizer: Callable  # () -> (tokenizer, mask token or None)
    model: Callable  # vocabulary size -> model
    read_out: str
    lead: int = 1
    norm_centre: float = 1.0  # Gemma's norms multiply by 1 + weight
    golden: type = Golden
    kind: type | None = None  # what reads the folder where transformers has no class for it
    poolings: tuple = ("mean",)
    # Keys of config.json as models on the hub have them where transformers now writes others; None: left out.
    hub: dict = dataclasses.field(default_factory=dict)

    @property
    def read_outs(self):
        return [self.read_out] if self.read_out == "seq2seq" else [self.read_out, "similarity"]


def save(family, folder):
    """Writes tokenizer and model, and gives the model back as a reader of the folder sees it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer, _ = family.tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    model = draw_parameters(family.model(tokenizer.get_vocab_size()), family.norm_centre)
    model.save_pretrained(folder)
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    if family.hub:
        path = folder / "config.json"
        config = json.loads(path.read_text()) | family.hub
        config = {key: value for key, value in sorted(config.items()) if value is not None}
        path.write_text(json.dumps(config, indent=2) + "\n")
    loaded = load(folder, kind=family.kind or KINDS[family.read_out])
    loaded.config.use_cache = False
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), f"{name} was not loaded as it was saved"
    return loaded


def examples(family, fast):
    """`{text, ids, read_out}` each: the row of the mask, or the last one where there is none."""
    mask = fast.mask_token
    texts = [text.replace("M", mask) for text in TEXTS] if mask else OPEN_TEXTS
    out = texts_and_ids(fast, texts)
    for example in out:
        ids = example["ids"]
        row = ids.index(fast.mask_token_id) if mask and fast.mask_token_id in ids else len(ids) - 1
        example["read_out"] = family.golden.row(row)
    return out


@torch.no_grad()
def make(family, made_by):
    torch.manual_seed(family.seed)
    folder = OUT / f"{family.name}-tiny"
    model = save(family, folder)
    _, mask = family.tokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), mask_token=mask)
    label_ids = [fast(word, add_special_tokens=False)["input_ids"] for word in LABELS]
    assert all(len(ids) == 1 for ids in label_ids), label_ids
    asked = Asked(
        examples=[example["ids"] for example in examples(family, fast)],
        rows=[example["read_out"] for example in examples(family, fast)],
        initial_ids=[id for id in range(20) if id not in fast.added_tokens_decoder][:5],
        phrases=[fast(phrase)["input_ids"] for phrase in PHRASES] if "similarity" in family.read_outs else [],
        label_ids=[id for [id] in label_ids],
        lead=family.lead,
        read_out=family.read_out,
        mask_id=fast.mask_token_id,
        poolings=family.poolings,
    )
    golden = family.golden(model, asked)
    golden.put_all(candidates=3)
    odd = [t.replace("sM", f"s{mask}").replace(" M ", f" {mask} ") for t in ENCODE] if mask else ENCODE
    facts = {
        "family": model.config.model_type,
        "lead": family.lead,
        "read_outs": family.read_outs,
        "words": LABELS,
        "label_ids": asked.label_ids,
        "class_phrases": texts_and_ids(fast, PHRASES) if asked.phrases else [],
        "initial_ids": asked.initial_ids,
        "examples": examples(family, fast),
        "encodings": texts_and_ids(fast, odd),
    }
    write(folder, golden, facts, made_by)
