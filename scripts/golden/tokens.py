"""The tiny tokenizers of the golden models, the texts they are asked for, and their label words."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

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
# The same for models read at the last row.
OPEN_TEXTS = [
    "the movie is not bad . It was",
    "the",
    "world tech , and 42 of 7 ? it is about",
    "a film about business ; yes or no ?",
    "no",
    "the good , the bad and the terrible : it was about a great world of sports . All of it was",
]
PHRASES = ["it was great", "terrible !", "about sports and the world"]
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
    with_special(tokenizer, special)
    # As in MiniLM's file: what is kept there about length and padding must not reach the engine.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_id=vocab["[PAD]"], pad_token="[PAD]")
    return tokenizer, "[MASK]"


def with_special(tokenizer, special, mask=None):
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    if mask:
        tokenizer.add_special_tokens([AddedToken(mask, special=True, normalized=False, lstrip=True)])
    return tokenizer, mask


def around(vocab, template):
    """A post-processor that puts special tokens around the text `$A`."""
    special = [(piece, vocab[piece]) for piece in template.split() if piece != "$A"]
    return processors.TemplateProcessing(single=template, special_tokens=special)


def byte_level(first, last, template=None, mask=False):
    """Byte-level BPE: special tokens, every byte, the words above whole, one more special token.

    A mask token comes last and eats the space before it. Without a template nothing is put around the text.
    """
    merges = words_into_merges(WORDS)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*first, *alphabet, *(a + b for a, b in merges), last]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    assert len(vocab) == len(pieces), "a piece is made twice"
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if template:
        tokenizer.post_processor = around(vocab, template)
    tokenizer.decoder = decoders.ByteLevel()
    return with_special(tokenizer, first, last) if mask else with_special(tokenizer, [*first, last])


def roberta():
    """RoBERTa's and BART's."""
    tokenizer, mask = byte_level(["<s>", "<pad>", "</s>", "<unk>"], "<mask>", mask=True)
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("</s>", tokenizer.token_to_id("</s>")),
        cls_token=("<s>", tokenizer.token_to_id("<s>")),
        trim_offsets=True,
        add_prefix_space=False,
    )
    return tokenizer, mask


def modernbert():
    """ModernBERT's: RoBERTa's with BERT's special tokens."""
    return byte_level(["[CLS]", "[PAD]", "[SEP]", "[UNK]"], "[MASK]", "[CLS] $A [SEP]", mask=True)


def gpt2():
    """GPT-2's and Qwen's: nothing is put around the text."""
    return byte_level([], "<|endoftext|>")


def with_bos():
    """A leading <bos>, as Llama, Mistral and Gemma have it."""
    return byte_level(["<pad>", "<eos>", "<bos>"], "<unused>", "<bos> $A")


def unigram(first, last, template, mask):
    """A SentencePiece-like tokenizer: single characters, and the words above whole after a space."""
    singles = [*LETTERS, *LETTERS.upper(), *"0123456789", *PUNCTUATION]
    scored = [("\u2581" + word, -2.0 - i / 64) for i, word in enumerate(WORDS)]
    scored += [("\u2581", -4.0), *((single, -6.0 - i / 64) for i, single in enumerate(singles))]
    pieces = [*((piece, 0.0) for piece in first), *scored, *((piece, 0.0) for piece in last)]
    vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
    assert len(vocab) == len(pieces), "a piece is made twice"
    unknown = next(i for i, piece in enumerate(first) if "unk" in piece.lower())
    tokenizer = Tokenizer(models.Unigram(pieces, unknown, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("\u2581", "always")]
    )
    tokenizer.post_processor = around(vocab, template)
    tokenizer.decoder = decoders.Metaspace("\u2581", "always")
    return with_special(tokenizer, [*first, *last])[0], mask


def t5():
    return unigram(["<pad>", "</s>", "<unk>"], ["<extra_id_1>", "<extra_id_0>"], "$A </s>", "<extra_id_0>")


def deberta():
    return unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], ["[MASK]"], "[CLS] $A [SEP]", "[MASK]")
