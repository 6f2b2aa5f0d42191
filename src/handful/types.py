"""The nouns of the library and the dimension legend.

Dimensions, in the order in which they appear in every shape:

    T  tasks (optional, always leading)      S  tokens, frames or patches
    B  rows of one task                      D  hidden width
    R  rows of all tasks, flattened: T * B   C  classes
    N  T-less tokens of one task: B * S      L  blocks of the backbone
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from handful.templates import Template

Params = dict[str, "dict[str, Tensor]"]
"""site name -> parameter name -> tensor, shaped `[...]` for one task or `[T, ...]` for T tasks."""

SELF_ATTENTION = frozenset({"attention.query", "attention.key", "attention.value", "attention.out"})
CROSS_ATTENTION = frozenset({"cross.query", "cross.key", "cross.value", "cross.out"})
FEED_FORWARD = frozenset({"ffn.in", "ffn.gate", "ffn.out"})
LINEARS = SELF_ATTENTION | CROSS_ATTENTION | FEED_FORWARD
NORMS = frozenset(
    {
        "attention.norm", "attention.post_norm", "attention.query_norm", "attention.key_norm",
        "cross.norm", "ffn.norm", "ffn.post_norm", "embeddings.norm", "final.norm",
    }
)  # fmt: skip
"""Roles by kind of layer; `families` says what each one is."""

QUANTIZED = ("int8", "nf4", "bnb8")
"""How the weights of a backbone's blocks can be held in fewer bits; `quantize.py` says what each one is."""

TaskKind = Literal["classification", "multilabel", "tagging", "choice", "generation"]
Label = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One row: a text, an optional second text, and a label (a tuple of labels for multi-label tasks).

    For tagging tasks `words` are the text's words, `text` is these joined by spaces, and `label` is the tuple of their
    BIO tags. `fields` are the columns of the row by name, for templates that ask for them. For choice tasks `choices`
    are the answers to choose from in this row, and `label` is the right one; for generation tasks it is the answer, or
    the tuple of all answers that count as right.
    """

    text: str
    text_pair: str | None = None
    label: Label | None = None
    words: tuple[str, ...] | None = None
    fields: Mapping[str, str] | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Task:
    """A named set of labelled examples. `labels` fixes the class order.

    The labels of a tagging task are its tags: O, then B-X and I-X of each entity type X (`tagging.tag_set`); choice
    and generation tasks have none. `template` is a text that an encoder reads rows in; `templates` are the prompts of
    tasks that end in text.
    """

    name: str
    examples: Sequence[Example]
    labels: tuple[str, ...]
    kind: TaskKind = "classification"
    template: str | None = None
    templates: Sequence[Template] = ()


@dataclass(frozen=True)
class Episode:
    """A few-shot draw from a task: what is learned from and what is asked."""

    support: Task
    query: Task


@dataclass(frozen=True)
class Batch:
    """Encoded rows of one task (`[B, ...]`) or of T tasks (`[T, B, ...]`).

    inputs     model inputs by name, e.g. `input_ids` `[T?, B, S]`
    row_mask   `[T?, B]`, False where a row only fills up a ragged stack
    labels     `[T?, B]` int64 class indices, or `[T?, B, C]` float 0/1 for multi-label, or for tagging `[T?, B, S]`
               int64 tag indices, -100 at tokens without a tag
    class_mask `[T?, C]`, False where a class only fills up a ragged stack
    """

    inputs: Mapping[str, Tensor]
    row_mask: Tensor
    labels: Tensor | None = None
    class_mask: Tensor | None = None

    @property
    def num_tasks(self) -> int | None:
        """T, or None for the batch of a single task without a task dimension."""
        return self.row_mask.shape[0] if self.row_mask.ndim == 2 else None

    def with_inputs(self, **inputs: Tensor) -> Batch:
        return replace(self, inputs={**self.inputs, **inputs})


@dataclass(frozen=True)
class Scores:
    """Unnormalised class scores `[T?, B, C]`, or `[B, W, C]` of W words; classes outside `class_mask` hold -inf."""

    logits: Tensor

    def probabilities(self, kind: TaskKind = "classification", temperature: float = 1.0) -> Tensor:
        scaled = self.logits / temperature
        return scaled.sigmoid() if kind == "multilabel" else scaled.softmax(-1)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a method acts: one place in one block of the backbone.

    name       unique key of the site in `Params`: the module's path, with `#role` where one module holds several
    role       what the place does: "attention.query", "ffn.out", "ffn.norm", ...
    stack      "encoder", "decoder", "vision" or "text"
    layer      block index in its stack, -1 outside the blocks
    num_layers blocks in the stack
    index      running number over all sites of the attached method
    d_in,d_out widths of what enters and leaves; for norms and embeddings both are the width of the states
    """

    name: str
    role: str
    stack: str
    layer: int
    num_layers: int
    d_in: int
    d_out: int
    index: int = 0
    has_bias: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


def map_params(function: Callable[[Tensor], Tensor], params: Params) -> Params:
    """The same tree with `function` applied to each tensor."""
    return {site: {name: function(p) for name, p in own.items()} for site, own in params.items()}


def cast_params(params: Params, **to: Any) -> Params:
    """The same tree on another device (`device=`) or in another number format (`dtype=`), integers as they are."""
    device = {name: value for name, value in to.items() if name == "device"}
    return map_params(lambda p: p.to(**(to if p.is_floating_point() else device)), params)


def stack_params(each: Sequence[Params]) -> Params:
    """Params of T tasks `[...]` -> `[T, ...]`."""
    import torch

    return {
        site: {name: torch.stack([params[site][name] for params in each]) for name in own}
        for site, own in each[0].items()
    }


def task_params(params: Params, task: int) -> Params:
    """The parameters of one task of a stack."""
    return map_params(lambda p: p[task], params)


def split_id(backbone: str) -> tuple[str, str | None]:
    """`("minilm", "int8")` of "minilm@int8", `("minilm", None)` of "minilm"; no id on the hub has such a sign."""
    name, _, kind = backbone.rpartition("@")
    return (name, kind) if name and kind.isalnum() and not os.path.exists(backbone) else (backbone, None)
