"""What an answer costs by tuning and by examples in the prompt, from shapes alone (Liu et al. 2022, T-Few, 4.2).

A token costs 2 FLOPs for each weight of a matrix that it passes, and 6 in training; of an encoder-decoder it passes one
half. Attention itself, quadratic in the length, is left out as in the paper, and given apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING

from handful.errors import BackboneError, RequestError
from handful.types import LINEARS

if TYPE_CHECKING:
    from handful.backbone import Backbone
    from handful.sites import Place

FLOAT_BYTES, ID_BYTES = 4, 4
KEPT = {"decoder": ("attention.key", "attention.value"), "encoder-decoder": ("cross.key", "cross.value")}
"""Roles whose outputs are kept of a prompt that others follow."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much is done: by default what T-Few's table of costs is of.

    shots   examples in the prompt, of `tokens` tokens each with their answer
    query   tokens of a question with all its choices, and of a row that is tuned on
    steps   of tuning, each of `batch` rows
    """

    shots: int = 41
    tokens: int = 98
    query: int = 103
    steps: int = 1000
    batch: int = 8

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < (least := 0 if name == "shots" else 1):
                asked = f"A bill for {name} = {value} was asked for."
                raise RequestError(asked, f"It must be at least {least}.", "Raise it.")

    @property
    def context(self) -> int:
        """Tokens before a question that is asked by prompting."""
        return self.shots * self.tokens


@dataclass(frozen=True)
class Bill:
    """Numbers of a task.

    inference_flops  of an answer, without `attention_flops`; `cached_flops` where the prompt's keys and values are kept
    kv_cache_bytes   what is kept of them
    disk_bytes       numbers (tuning) or token ids (prompting), without a file's frame
    """

    inference_flops: int
    cached_flops: int
    attention_flops: int
    training_flops: int
    kv_cache_bytes: int
    disk_bytes: int


def tuning(backbone: str, work: Work, method: str = "ia3") -> Bill:
    """Of a task that `method` was tuned for; the answer reads the question alone."""
    from handful.counting import count_said
    from handful.shapes import shape

    frozen, count = shape(backbone), count_said(backbone, method)
    each = token_flops(frozen)
    return Bill(
        inference_flops=each * work.query,
        cached_flops=each * work.query,
        attention_flops=attention_flops(frozen, work.query),
        training_flops=3 * each * work.steps * work.batch * work.query,
        kv_cache_bytes=0,
        disk_bytes=FLOAT_BYTES * (count.trainable if count.kept is None else count.kept),
    )


def prompting(backbone: str, work: Work) -> Bill:
    """Of the same task by examples in the prompt, read anew with each question. BackboneError for an encoder."""
    from handful.shapes import shape

    frozen = shape(backbone)
    kind = kind_of(frozen)
    if kind not in KEPT:
        raise BackboneError(
            f"Prompting {backbone!r} with {work.shots} examples was to be costed.",
            f"It has the tower {kind!r} alone, which does not go on from a prompt.",
            "Name a decoder or an encoder-decoder.",
        )  # fmt: skip
    widths = (place.site.d_out for place in _linears(frozen) if place.site.role in KEPT[kind])
    each, whole = token_flops(frozen), work.context + work.query
    return Bill(
        inference_flops=each * whole,
        cached_flops=each * (work.query if kind == "decoder" else whole),  # an encoder reads both at once
        attention_flops=attention_flops(frozen, whole),
        training_flops=0,
        kv_cache_bytes=FLOAT_BYTES * work.context * sum(widths),
        disk_bytes=ID_BYTES * work.context,
    )


def break_even(tuned: Bill, prompted: Bill) -> int | None:
    """Answers after which tuning, its training included, has cost less; None if never."""
    saved = prompted.inference_flops - tuned.inference_flops
    return ceil(tuned.training_flops / saved) if saved > 0 else None


def token_flops(backbone: Backbone) -> int:
    """FLOPs of a token's way through the blocks, but for attention between tokens; embeddings are looked up."""
    weights = sum(place.site.d_in * place.site.d_out for place in _linears(backbone))
    return weights if kind_of(backbone) == "encoder-decoder" else 2 * weights


def attention_flops(backbone: Backbone, tokens: int) -> int:
    """FLOPs of scores and sums of values when `tokens` tokens attend to each other in every block of a tower."""
    queries = [place for place in _linears(backbone) if place.site.role == "attention.query"]
    towers = len({place.site.stack for place in queries})
    return 4 * tokens**2 * sum(place.site.d_out for place in queries) // max(towers, 1)


def kind_of(backbone: Backbone) -> str:
    """ "encoder-decoder", or the name of its family's first tower: "encoder", "decoder", "vision", ..."""
    towers = [stack.name for stack in backbone.family.stacks]
    return "encoder-decoder" if {"encoder", "decoder"} <= set(towers) else towers[0]


def _linears(backbone: Backbone) -> list[Place]:
    """Linear layers of the blocks."""
    from handful.sites import all_places

    inside = (p for p in all_places(backbone) if p.kind in ("layer", "slice") and 0 <= p.site.layer < p.site.num_layers)
    return [place for place in inside if place.site.role in LINEARS]
