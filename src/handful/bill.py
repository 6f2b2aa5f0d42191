"""What an answer costs by tuning and by examples in the prompt, from shapes alone (Liu et al. 2022, T-Few, 4.2).

A token costs 2 FLOPs for each weight of a matrix of the blocks that it passes, and 6 in training; of an encoder-decoder
it passes one half. That is what the paper counts. Beside it is given what torch's counter finds: with attention,
quadratic in the length, with the output layer where words are scored, and without gradients of frozen weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from handful.errors import BackboneError, RequestError
from handful.types import LINEARS

if TYPE_CHECKING:
    from torch import nn

    from handful.backbone import Backbone
    from handful.types import Site

FLOAT_BYTES, ID_BYTES = 4, 4
KEPT = {"decoder": ("attention.key", "attention.value"), "encoder-decoder": ("cross.key", "cross.value")}
"""Roles whose outputs are kept of a prompt that others follow."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much is done: by default what T-Few's table of costs is of.

    shots    examples in the prompt, of `tokens` tokens each with their answer
    query    tokens of a question with all its choices, and of a row that is tuned on
    choices  that a question has
    scored   tokens of all its choices; 0 where a class head answers in place of words
    beside   tokens that an encoder-decoder's decoder reads for them, where padding makes them more; 0: `scored`
    steps    of tuning, each of `batch` rows
    """

    shots: int = 41
    tokens: int = 98
    query: int = 103
    choices: int = 1
    scored: int = 1
    beside: int = 0
    steps: int = 1000
    batch: int = 8

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < (least := 0 if name in ("shots", "scored", "beside") else 1):
                asked = f"A bill for {name} = {value} was asked for."
                raise RequestError(asked, f"It must be at least {least}.", "Raise it.")

    @property
    def context(self) -> int:
        """Tokens before a question that is asked by prompting."""
        return self.shots * self.tokens


@dataclass(frozen=True)
class Bill:
    """Numbers of a task.

    inference_flops  of an answer, as the paper counts; `cached_flops` where the prompt's keys and values are kept
    attention_flops  and `vocabulary_flops`: what is not in it, of attention and of the output layer
    counted_flops    all of them together, as torch's counter finds them; `counted_cached_flops` with the prompt kept,
                     whose examples cost `context_flops` once (0 where nothing can be kept)
    training_flops   as the paper counts: three times an answer's, for each row of each step
    counted_training_flops  as torch's counter finds them where the backbone is frozen: no weight needs a gradient
    kv_cache_bytes   what is kept of the prompt
    disk_bytes       numbers (tuning) or token ids (prompting), without a file's frame
    """

    inference_flops: int
    cached_flops: int
    attention_flops: int
    vocabulary_flops: int
    counted_flops: int
    counted_cached_flops: int
    context_flops: int
    training_flops: int
    counted_training_flops: int
    kv_cache_bytes: int
    disk_bytes: int


def tuning(backbone: str, work: Work, method: str = "ia3") -> Bill:
    """Of a task that `method` was tuned for; the answer reads the question alone."""
    from handful.counting import count_said
    from handful.shapes import shape

    frozen, count = shape(backbone), count_said(backbone, method)
    each, rows = token_flops(frozen), work.steps * work.batch
    own = pass_flops(frozen, work, work.query)
    return Bill(
        inference_flops=each * work.query,
        cached_flops=each * work.query,
        attention_flops=own.attention,
        vocabulary_flops=own.vocabulary,
        counted_flops=own.total,
        counted_cached_flops=own.total,
        context_flops=0,
        training_flops=3 * each * rows * work.query,
        counted_training_flops=own.step * rows,
        kv_cache_bytes=0,
        disk_bytes=FLOAT_BYTES * (count.trainable if count.kept is None else count.kept),
    )


def prompting(backbone: str, work: Work) -> Bill:
    """Of the same task by examples in the prompt, read anew with each question. BackboneError for an encoder."""
    from handful.shapes import shape

    frozen = shape(backbone)
    kind = frozen.family.architecture
    if kind not in KEPT:
        raise BackboneError(
            f"Prompting {backbone!r} with {work.shots} examples was to be costed.",
            f"It has the tower {kind!r} alone, which does not go on from a prompt.",
            "Name a decoder or an encoder-decoder with --prompted, such as smollm2 or t5-base.",
        )  # fmt: skip
    widths = _sum_of(frozen, *KEPT[kind])
    each, before, whole = token_flops(frozen), work.context, work.context + work.query
    own = pass_flops(frozen, work, whole)
    first = kind == "decoder" and each * before + attention_flops(frozen, before)  # an encoder reads both at once
    after = each * work.query + 2 * _attending(frozen) * work.query * whole + own.vocabulary
    return Bill(
        inference_flops=each * whole,
        cached_flops=each * work.query if first else each * whole,
        attention_flops=own.attention,
        vocabulary_flops=own.vocabulary,
        counted_flops=own.total,
        counted_cached_flops=after if first else own.total,
        context_flops=int(first),
        training_flops=0,
        counted_training_flops=0,
        kv_cache_bytes=FLOAT_BYTES * before * widths,
        disk_bytes=ID_BYTES * before,
    )


def break_even(tuned: Bill, prompted: Bill) -> int | None:
    """Answers after which tuning, its training included, has cost less, as the paper counts; None if never."""
    return answers_until(tuned.training_flops, tuned.inference_flops, prompted.inference_flops)


def answers_until(before: float, tuned: float, prompted: float) -> int | None:
    """Answers until `before` FLOPs are won back, of which an answer costs `tuned` now and `prompted` otherwise."""
    return max(0, ceil(before / (prompted - tuned))) if prompted > tuned else None


# -- formulas ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """FLOPs of reading a row: of the blocks' matrices, of attention, of the output layer."""

    matrices: int
    attention: int
    vocabulary: int

    @property
    def total(self) -> int:
        return self.matrices + self.attention + self.vocabulary

    @property
    def step(self) -> int:
        """Of a step on the row where no weight of the backbone needs a gradient.

        A matrix is passed forwards and, by the gradient of its input, backwards; of attention both factors have one.
        """
        return 2 * (self.matrices + self.vocabulary) + 3 * self.attention


_SITES: WeakKeyDictionary[nn.Module, list[Site]] = WeakKeyDictionary()
_OUTPUT: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def pass_flops(backbone: Backbone, work: Work, tokens: int) -> Pass:
    """Of a row of `tokens` tokens with all its choices, of the number and size of those of `work`.

    A decoder reads prompt and choices in one row, the decoder of an encoder-decoder all choices in one beside the
    prompt's states. An encoder fills in one token.
    """
    kind = backbone.family.architecture
    matrices = token_flops(backbone) * tokens
    if not work.scored:
        return Pass(matrices, attention_flops(backbone, tokens), 0)
    places = {"encoder": 1, "decoder": max(1, work.scored - work.choices + 1)}.get(kind, work.scored)
    output = 2 * _output_weights(backbone) * places
    if kind != "encoder-decoder":
        return Pass(matrices, attention_flops(backbone, tokens), output)
    prompt, beside = max(0, tokens - work.scored), work.beside or work.scored
    matrices = token_flops(backbone) * (prompt + beside)
    return Pass(matrices, attention_flops(backbone, prompt, beside), output)


def token_flops(backbone: Backbone) -> int:
    """FLOPs of a token's way through the blocks, but for attention between tokens; embeddings are looked up."""
    weights = _weights(backbone, *LINEARS)
    return weights if backbone.family.architecture == "encoder-decoder" else 2 * weights


def attention_flops(backbone: Backbone, tokens: int, scored: int = 0) -> int:
    """FLOPs of scores and sums of values when `tokens` tokens attend to each other in every block of a tower.

    Of an encoder-decoder these are the encoder's; its decoder reads `scored` tokens, which attend to each other and to
    the encoder's.
    """
    if backbone.family.architecture != "encoder-decoder":
        return 2 * _attending(backbone) * tokens**2
    own, other = (2 * _attending(backbone, stack) for stack in ("decoder", "encoder"))
    crossing = 4 * _sum_of(backbone, "cross.query") * scored * tokens
    return other * tokens**2 + own * scored**2 + crossing


def _output_weights(backbone: Backbone) -> int:
    """Of the output layer; 0 where there is none, so that a class head answers."""
    from handful.vocabulary import output_weights

    if backbone.model not in _OUTPUT:
        try:
            _OUTPUT[backbone.model] = output_weights(backbone)
        except BackboneError:
            _OUTPUT[backbone.model] = 0
    return _OUTPUT[backbone.model]


def _attending(backbone: Backbone, stack: str | None = None) -> int:
    """FLOPs by which a token attends to another, of scores or of sums of values; in a tower, or the mean of them."""
    queries = [site for site in _linears(backbone) if site.role == "attention.query"]
    towers = {site.stack for site in queries} if stack is None else {stack}
    return 2 * sum(site.d_out for site in queries if site.stack in towers) // max(len(towers), 1)


def _sum_of(backbone: Backbone, *roles: str) -> int:
    """Numbers that all linear layers of these roles make of a token."""
    return sum(site.d_out for site in _linears(backbone) if site.role in roles)


def _weights(backbone: Backbone, *roles: str) -> int:
    return sum(site.d_in * site.d_out for site in _linears(backbone) if site.role in roles)


def _linears(backbone: Backbone) -> list[Site]:
    """Linear layers of the blocks, looked for once."""
    from handful.sites import all_places

    if backbone.model not in _SITES:
        found = [place.site for place in all_places(backbone) if place.kind in ("layer", "slice")]
        _SITES[backbone.model] = [s for s in found if s.role in LINEARS and 0 <= s.layer < s.num_layers]
    return _SITES[backbone.model]
