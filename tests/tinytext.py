"""A tiny random BERT that reads texts letter by letter, in memory and as a saved folder, and small tasks for it."""

from __future__ import annotations

import random
import string
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

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
