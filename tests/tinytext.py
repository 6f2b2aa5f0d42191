"""A tiny random BERT that reads texts letter by letter, in memory and as a saved folder, and small tasks for it.

And a tiny random decoder that writes letter by letter, for tasks that end in text.
"""

from __future__ import annotations

import random
import string
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from handful.backbone import Backbone, from_model
from handful.methods import Method, method
from handful.types import Batch, Example, Params, Task
from tiny import TINY

SIZES: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2},
    "houlsby": {"width": 4},
    "pfeiffer": {"width": 4},
    "parallel": {"width": 4},
    "compacter": {"order": 4, "width": 8},
    "compacter++": {"order": 4, "width": 8},
    "phm": {"order": 4, "width": 8},
    "lowrank": {"rank": 2, "width": 6},
    "prompt": {"num_tokens": 3},
    "prefix": {"num_tokens": 3},
    "hyperformer": {"reduction": 8, "embedding": 3, "projected": 4, "hidden": 5},
    "hyperformer++": {"reduction": 8, "embedding": 3, "projected": 4, "hidden": 5},
    "ladder": {"reduction": 4},
    "said": {"dimension": 200},
}
"""Options that fit the tiny model's widths."""


def small(name: str) -> Method:
    return method(name, **SIZES.get(name, {}))


def tokenizer() -> PreTrainedTokenizerFast:
    """Word pieces of one letter each, so that no text is unknown; 64 tokens at most."""
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *".,?!'[]<>/"]
    model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    raw = Tokenizer(model)
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


@cache
def tiny_text() -> Backbone:
    """The backbone, shared: it is frozen."""
    return from_model(TINY["bert"](), tokenizer(), id="tiny")


def save_tiny(folder: Path) -> Path:
    """The same backbone as `save_pretrained` writes it."""
    TINY["bert"]().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def _writer() -> PreTrainedModel:
    model = TINY["llama"]()
    model.config.tie_word_embeddings = True  # or its output layer would have to be on disk
    return model


@cache
def tiny_writer() -> Backbone:
    """A decoder that shares its embeddings with its output layer."""
    return from_model(_writer(), tokenizer(), id="writer")


def save_writer(folder: Path) -> Path:
    """The same backbone as `save_pretrained` writes it."""
    _writer().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


SPEAKERS = {"decoder": "llama", "encoder-decoder": "t5", "encoder": "bert"}
"""What kinds of backbones score words, and a tiny one of each."""
_AROUND = {"decoder": "$A", "encoder-decoder": "$A </s>", "encoder": "<s> $A </s>"}
_CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
FACE = "\N{GRINNING FACE}"
"""A character of four tokens."""


def speller(kind: str = "decoder") -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, and of `yes`, ` yes` and ` no`; it closes texts as its kind of backbone does."""
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known = string.ascii_letters + string.digits + " .,?!':-|/\n" + FACE
    letters = sorted({piece for letter in known for piece in cut.pre_tokenize_str(letter)[0][0]})
    merges = [("y", "e"), ("ye", "s"), ("Ġ", "n"), ("Ġn", "o"), ("Ġ", "yes")]
    pieces = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", *letters, *map("".join, merges)]
    raw = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = cut, decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(single=_AROUND[kind], special_tokens=[("<s>", 2), ("</s>", 3)])
    named = {"mask_token": "<mask>"} if kind == "encoder" else {"chat_template": _CHAT} if kind == "decoder" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=64, model_input_names=["input_ids", "attention_mask"], **named,
    )  # fmt: skip


def language_model(kind: str) -> PreTrainedModel:
    """A tiny random language model, its embeddings those of its output layer; the global random state is left."""
    heads: dict[str, Any] = {
        "decoder": AutoModelForCausalLM, "encoder-decoder": AutoModelForSeq2SeqLM, "encoder": AutoModelForMaskedLM
    }  # fmt: skip
    config = TINY[SPEAKERS[kind]]().config
    config.tie_word_embeddings, config.decoder_start_token_id = True, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = heads[kind].from_config(config)
        with torch.no_grad():
            for own in model.parameters():
                own.add_(torch.randn_like(own), alpha=0.1)
    return model.eval()


def save_speaker(kind: str, folder: Path) -> Path:
    """The language model with its tokenizer as `save_pretrained` writes them."""
    language_model(kind).save_pretrained(folder)
    speller(kind).save_pretrained(folder)
    return folder


@cache
def speaker(kind: str) -> Backbone:
    """A backbone of that kind in memory; one of kind "encoder" has to be loaded for its output layer."""
    model = TINY[SPEAKERS[kind]]()
    model.config.tie_word_embeddings = True
    return from_model(model, speller(kind), id=f"a tiny {kind}")


def words_of(label: int, rows: int, seed: int = 0) -> list[str]:
    """Texts whose letters say their class: a fifth of the alphabet each."""
    rng, letters = random.Random(f"{label} {seed}"), string.ascii_lowercase[5 * label :][:5]
    return [" ".join("".join(rng.choices(letters, k=3)) for _ in range(rng.randint(1, 5))) for _ in range(rows)]


def tiny_task(classes: int = 2, rows: int = 6, *, name: str = "tiny", seed: int = 0, pairs: bool = False) -> Task:
    """`rows` texts of each class."""
    labels = tuple(f"class {c}" for c in range(classes))
    examples = [Example(text, None, label) for c, label in enumerate(labels) for text in words_of(c, rows, seed)]
    if pairs:
        examples = [Example("is it this", e.text, e.label) for e in examples]
    return Task(name, examples, labels)


def write_task(path: Path, *, classes: int = 3, rows: int = 8, seed: int = 0) -> Path:
    """A CSV file of at most `rows` different texts of each of the classes c0, c1, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{text},c{c}" for c in range(classes) for text in dict.fromkeys(words_of(c, rows, seed))]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def tiny_multilabel(rows: int = 12) -> Task:
    """Texts of one or both of two kinds of words, and a few of neither."""
    first, second = words_of(0, rows), words_of(1, rows, 1)
    kinds = [("a",), ("b",), ("a", "b"), ()]
    texts = [first, second, [f"{x} {y}" for x, y in zip(first, second, strict=True)], words_of(4, rows)]
    rows_of = [Example(texts[i % 4][i], None, kinds[i % 4]) for i in range(rows)]
    return Task("several", rows_of, ("a", "b"), "multilabel")


def random_params(params: Params, seed: int = 0, scale: float = 0.2) -> Params:
    """Params moved by seeded noise."""
    generator = torch.Generator().manual_seed(seed)

    def moved(p: Tensor) -> Tensor:
        return p + scale * torch.randn(p.shape, generator=generator).to(p) if p.is_floating_point() else p

    return {site: {name: moved(p) for name, p in own.items()} for site, own in params.items()}


def rows_mask(rows: int) -> Tensor:
    return torch.ones(rows, dtype=torch.bool)


def token_pool(lengths: list[int], seed: int = 0) -> Batch:
    """Encoded rows of given lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(4, 80, mask.shape, generator=generator) * mask
    return Batch({"input_ids": ids, "attention_mask": mask}, rows_mask(len(lengths)))
