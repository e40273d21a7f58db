#!/usr/bin/env python3
"""Makes tests/golden/models: tiny BERT and RoBERTa models with tokenizers, and what Hugging Face computes.

  pip install -r scripts/golden/requirements.txt
  python scripts/golden/models.py [--minilm DIR] [--only NAME]

tests/golden/models/README.md tells what lies in each folder. MiniLM's weights are not committed.
"""

import argparse
import json
import pathlib
import shutil

import tokenizers
import torch
import transformers
from prompting import (
    head_at,
    last_hidden,
    layers,
    load,
    mean_rows,
    pad,
    prompted,
    similarity,
    with_prompt_rows,
)
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "models"
TEMPERATURE = 0.05
HOW = "f32 on CPU, eager attention, one example at a time"
LABELS = ["good", "bad", "great", "terrible", "yes", "no", "sports", "world", "business", "tech"]
WORDS = LABELS + ["it", "was", "the", "movie", "film", "is", "about", "and", "of", "not"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

# Rendered examples; M stands for the mask token. Lengths from 3 to 34 tokens, the mask early and late.
TEXTS = [
    "the movie is not bad . It was M .",
    "M",
    "M : world tech , and 42 of 7 ?",
    "a film about business ; yes or no ? M",
    "no",
    "the good , the bad and the terrible : it was about a great world of sports . All of it was M !",
]
# What the tokenizers are asked besides the examples.
ENCODE = [
    "",
    " great",
    "great",
    "GREAT movie!!",
    "It was M .",
    "It wasM.",
    "  two  spaces\tand\na line ",
    "caf\u00e9 na\u00efve \u597d\u7684 \U0001f600",
    "don't stop: 3.14% (of #1) [ok] {x} <y> \\ ~",
]


def words_into_merges(words):
    """BPE merges that make each word, and the word after a space, one token."""
    merges = []
    for word in words:
        steps = [(word[:i], word[i]) for i in range(1, len(word))]
        merges += [step for step in [*steps, ("\u0120", word)] if step not in merges]
    return merges


def wordpiece():
    """A BERT tokenizer: lower case, letters and digits as pieces, the words above whole."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    singles = LETTERS + "0123456789"
    pieces = special + list(PUNCTUATION) + list(singles) + ["##" + c for c in singles] + WORDS
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    # As in MiniLM's file: what is kept there about length and padding must not reach the engine.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_id=vocab["[PAD]"], pad_token="[PAD]")
    return tokenizer, "[MASK]"


def byte_level():
    """A RoBERTa tokenizer: every byte, the words above whole, <mask> last and eating the space before it."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    merges = words_into_merges(WORDS)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = special + alphabet + [a + b for a, b in merges] + ["<mask>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    assert len(vocab) == len(pieces), "a piece is made twice"
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("</s>", vocab["</s>"]),
        cls_token=("<s>", vocab["<s>"]),
        trim_offsets=True,
        add_prefix_space=False,
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    return tokenizer, "<mask>"


def tiny(kind, vocab_size):
    """A random model of odd sizes. Every parameter is drawn, biases and norms too: none can be forgotten."""
    sizes = dict(
        vocab_size=vocab_size,
        hidden_size=40,
        num_attention_heads=5,
        intermediate_size=72,
        num_hidden_layers=3,
        max_position_embeddings=64,
        hidden_act="gelu",
    )
    if kind == "bert":
        model = BertForMaskedLM(BertConfig(**sizes, layer_norm_eps=1e-12, pad_token_id=0))
    else:
        ids = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2, type_vocab_size=1)
        model = RobertaForMaskedLM(RobertaConfig(**sizes, **ids, layer_norm_eps=1e-5))
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            is_norm = "LayerNorm.weight" in name or "layer_norm.weight" in name
            centre, spread = (1.0, 0.1) if is_norm else (0.0, 0.2)
            parameter.copy_(centre + spread * torch.randn(parameter.shape))
    return model.eval()


class Golden:
    """One model and everything asked of it. Every example goes alone through the model, without padding."""

    def __init__(self, model, examples, initial_ids, phrases, label_ids):
        self.model, self.examples, self.initial_ids, self.label_ids = model, examples, initial_ids, label_ids
        self.masks = None
        self.tensors = {}
        self.noise = {"padded": 0.0, "f64": 0.0}
        self.classes = torch.cat([self.pooled(phrase, 0) for phrase in phrases])
        self.tensors["class_embeddings"] = self.classes

    def pooled(self, ids, prompt_tokens):
        ids, mask = pad([ids], 0)
        return mean_rows(last_hidden(self.model, ids, mask), mask, prompt_tokens)

    def read(self, ids, mask, mask_rows, prompt_tokens, classes=None):
        """Both read-outs of a batch: {"masked_lm": [B, C], "similarity": [B, K]}."""
        hidden = last_hidden(self.model, ids, mask)
        pooled = mean_rows(hidden, mask, prompt_tokens)
        out = {"similarity": similarity(pooled, self.classes if classes is None else classes, TEMPERATURE)}
        if self.label_ids:
            rows = hidden[torch.arange(len(ids)), mask_rows]
            out["masked_lm"] = head_at(self.model, rows, self.label_ids)
        return out

    def logits(self, prompts, injection):
        """Logits of all examples [E, C] for each read-out; compares the padded batch and f64 on the way."""
        initial = self.initial_ids if injection else []
        examples = [with_prompt_rows(e, initial) for e in self.examples]
        rows = [row + len(initial) for row in self.masks]
        prompts = [] if prompts is None else prompts
        with prompted(self.model, prompts, injection):
            alone = [self.read(*pad([e], 0), [r], len(initial)) for e, r in zip(examples, rows)]
            padded = self.read(*pad(examples, self.model.config.pad_token_id), rows, len(initial))
        out = {key: torch.cat([one[key] for one in alone]) for key in padded}
        self.model.double()
        with prompted(self.model, [p.double() for p in prompts], injection):
            classes = self.classes.double()
            exact = [self.read(*pad([e], 0), [r], len(initial), classes) for e, r in zip(examples, rows)]
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

    def put_hidden(self, name, prompts, injection):
        """Hidden states of example 0 [L+1, T, H]: the embeddings' output (no prompt yet), each layer's output."""
        initial = self.initial_ids if injection else []
        ids, mask = pad([with_prompt_rows(self.examples[0], initial)], 0)
        seen = []
        keep = lambda _module, _args, out: seen.append(out if torch.is_tensor(out) else out[0])  # noqa: E731
        modules = [self.model.base_model.embeddings, *layers(self.model)]
        handles = [module.register_forward_hook(keep) for module in modules]
        with prompted(self.model, [] if prompts is None else prompts, injection):
            last_hidden(self.model, ids, mask)
        for handle in handles:
            handle.remove()
        self.tensors[f"{name}.hidden"] = torch.cat(seen)

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

    def put_all(self, tokens, candidates, hidden=True):
        shape = (len(layers(self.model)), tokens, self.model.config.hidden_size)
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


def write(folder, golden, facts):
    assert golden.noise["padded"] < 1e-5, golden.noise
    tensors = {name: tensor.contiguous() for name, tensor in golden.tensors.items()}
    save_file(tensors, folder / "golden.safetensors")
    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    versions += f", tokenizers {tokenizers.__version__}"
    facts = {
        "made_by": f"scripts/golden/models.py with {versions}; " + HOW,
        "relative_noise": {key: float(f"{value:.1e}") for key, value in golden.noise.items()},
        "temperature": TEMPERATURE,
        **facts,
    }
    lines = ",\n".join(f" {json.dumps(key)}: {one_a_line(value)}" for key, value in facts.items())
    (folder / "golden.json").write_text("{\n" + lines + "\n}\n")
    print(f"{folder.name}: {len(tensors)} tensors, noise {golden.noise}")


def one_a_line(value):
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return "[\n" + ",\n".join("  " + json.dumps(item) for item in value) + "\n ]"
    return json.dumps(value)


def encodings(fast, texts):
    return [{"text": text, "ids": fast(text)["input_ids"]} for text in texts]


@torch.no_grad()
def make_tiny(kind, seed):
    torch.manual_seed(seed)
    folder = OUT / f"{kind}-tiny"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer, mask = wordpiece() if kind == "bert" else byte_level()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    model = tiny(kind, tokenizer.get_vocab_size())
    model.save_pretrained(folder)
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    model = load(folder, masked_lm=True)

    fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), mask_token=mask)
    rendered = [text.replace("M", mask) if "M" in text else text for text in TEXTS]
    asked = [text.replace("sM", "s" + mask).replace(" M ", f" {mask} ") for text in ENCODE]
    label_ids = [fast.convert_tokens_to_ids(word) for word in LABELS]
    for word, id in zip(LABELS, label_ids):
        assert fast(word, add_special_tokens=False)["input_ids"] == [id], word
    phrases = ["it was great", "terrible !", "about sports and the world"]
    examples = [fast(text)["input_ids"] for text in rendered]
    initial_ids = [id for id in range(20) if id not in fast.added_tokens_decoder][:5]
    golden = Golden(model, examples, initial_ids, [fast(p)["input_ids"] for p in phrases], label_ids)
    # Without a mask the row read is the last one: a row is a row.
    golden.masks = [e.index(fast.mask_token_id) if fast.mask_token_id in e else len(e) - 1 for e in examples]
    golden.put_all(tokens=len(initial_ids), candidates=3)
    facts = {
        "words": LABELS,
        "label_ids": label_ids,
        "class_phrases": [{"text": p, "ids": fast(p)["input_ids"]} for p in phrases],
        "initial_ids": initial_ids,
        "examples": [
            {"text": t, "ids": e, "read_out": r}
            for t, e, r in zip(rendered, examples, golden.masks, strict=True)
        ],
        "encodings": encodings(fast, asked),
    }
    write(folder, golden, facts)


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
    phrases = ["sports", "business", "This text is about science and technology."]
    examples = [fast(text)["input_ids"] for text in texts]
    initial_ids = [1000, 1001]
    golden = Golden(
        load(source, masked_lm=False), examples, initial_ids, [fast(p)["input_ids"] for p in phrases], []
    )
    golden.masks = [0] * len(examples)
    golden.put_all(tokens=2, candidates=2, hidden=False)
    long = "a very long text , " * 30
    asked = ["", "Caf\u00e9 na\u00efve \u597d\u7684 \U0001f600", "unaffable tokenisation", "[MASK] it", long]
    facts = {
        "class_phrases": [{"text": p, "ids": fast(p)["input_ids"]} for p in phrases],
        "initial_ids": initial_ids,
        "examples": [{"text": t, "ids": e} for t, e in zip(texts, examples)],
        "encodings": encodings(fast, asked),
    }
    write(folder, golden, facts)


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--minilm", help="folder of all-MiniLM-L6-v2 (see scripts/fetch-minilm)")
    options.add_argument("--only", choices=["bert", "roberta", "minilm"])
    chosen = options.parse_args()
    torch.set_num_threads(1)
    for seed, kind in ((11, "bert"), (12, "roberta")):
        if chosen.only in (None, kind):
            make_tiny(kind, seed)
    if chosen.minilm and chosen.only in (None, "minilm"):
        make_minilm(chosen.minilm, 13)


if __name__ == "__main__":
    main()
