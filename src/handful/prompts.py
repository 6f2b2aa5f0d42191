"""From examples to model inputs: the only caller of tokenizers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handful.backbone import Backbone
from handful.errors import BackboneError, DataError, HandfulWarning
from handful.types import Batch, Example, Task

_MARKED = re.compile(r"[\[<](\w+)[\]>](.*?)[\[<]/\1[\]>]", re.DOTALL)
"""A marked span: `[name]...[/name]` or `<name>...</name>`."""


def render(example: Example, template: str | None) -> tuple[str, str | None]:
    """The text (and second text) that the tokenizer sees. `template` is a text with `{text}` and `{text_pair}`."""
    if template is None:
        return example.text, example.text_pair
    given = {"text": example.text, "text_pair": example.text_pair or ""}
    filled = re.sub(r"\{(text|text_pair)\}", lambda found: given[found[1]], template)
    return filled, None if "{text_pair}" in template else example.text_pair


def mark_names(examples: Sequence[Example], template: str | None = None) -> tuple[str, ...]:
    """Names of the spans that are marked in every text, as `[e1]Paris[/e1]` marks one called e1, in order."""
    rows = [dict.fromkeys(m[1] for m in _MARKED.finditer(render(example, template)[0])) for example in examples]
    return tuple(name for name in rows[0] if all(name in row for row in rows)) if rows else ()


def encode(
    backbone: Backbone, examples: Sequence[Example], *, template: str | None = None, marks: Sequence[str] = ()
) -> Batch:
    """Examples -> inputs `[B, S]`, padded on the right, cut to the backbone's length (said once).

    With `marks`, `inputs["marks"] [B, S]` holds i + 1 at the tokens from `[name]` into `[/name]` of the i-th name.
    Raises BackboneError for a backbone without a tokenizer and DataError for no examples.
    """
    if backbone.tokenizer is None:
        raise BackboneError(
            f"Texts were given to {backbone.id!r}.", "It has no tokenizer.", "Use a backbone that reads text."
        )
    if not examples:
        raise DataError("Texts were asked to be encoded.", "There are none.", "Give at least one row.")
    pairs = [render(example, template) for example in examples]
    second = [pair for _, pair in pairs]
    if any(pair is None for pair in second) and any(pair is not None for pair in second):
        raise DataError(
            "Text pairs were given.", f"Row {second.index(None) + 1} has no second text.", "Give one for every row."
        )
    tokenizer = backbone.tokenizer
    if tokenizer.pad_token is None:  # decoders are rarely given one; its positions are masked anyway
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(
        [text for text, _ in pairs],
        [str(pair) for pair in second] if second[0] is not None else None,
        padding=True, truncation=True, max_length=backbone.max_length, padding_side="right", return_tensors="pt",
        return_offsets_mapping=bool(marks),
    )  # fmt: skip
    offsets = encoded.pop("offset_mapping", None)
    inputs: dict[str, Tensor] = {name: value.to(backbone.device) for name, value in encoded.items()}
    cut = sum(bool(own.overflowing) for own in encoded.encodings or ())
    if cut:
        warnings.warn(
            f"Cut {cut} of {len(examples)} texts to the {backbone.max_length} tokens that {backbone.id} reads.",
            HandfulWarning,
            stacklevel=2,
        )
    if marks:
        inputs["marks"] = _marks([text for text, _ in pairs], offsets, encoded, marks).to(backbone.device)
    return Batch(inputs, torch.ones(len(examples), dtype=torch.bool, device=backbone.device))


def _marks(texts: Sequence[str], offsets: Tensor, encoded: Any, names: Sequence[str]) -> Tensor:
    """`[B, S]`: i + 1 from the opening tag of the i-th marked span to the first piece of its closing tag, else 0."""
    out = torch.zeros(offsets.shape[:2], dtype=torch.long)
    for row, text in enumerate(texts):
        first = torch.tensor([part == 0 for part in encoded.sequence_ids(row)])
        start, end = offsets[row].unbind(-1)
        for found in _MARKED.finditer(text):
            if found[1] in names:
                inside = first & (start >= found.start()) & (start <= found.end(2)) & (end > start)
                out[row, inside] = list(names).index(found[1]) + 1
    return out


def targets(task: Task) -> Tensor:
    """Class indices `[B]`, or 0/1 `[B, C]` for a multi-label task, in the order of `task.labels`.

    DataError for a row of a single-label task that has none or several.
    """
    position = {label: i for i, label in enumerate(task.labels)}
    groups = [(e.label,) if isinstance(e.label, str) else e.label or () for e in task.examples]
    if task.kind == "multilabel":
        rows = torch.zeros(len(task.examples), len(task.labels))
        for row, own in enumerate(groups):
            for label in own:
                rows[row, position[label]] = 1.0
        return rows
    wrong = next((row for row, own in enumerate(groups) if len(own) != 1), None)
    if wrong is not None:
        raise DataError(
            f"One label a row was looked for in {task.name}.", f"Row {wrong + 1} has {len(groups[wrong])}.",
            "Give every row one label, or fit a multi-label task.",
        )  # fmt: skip
    return torch.tensor([position[label] for own in groups for label in own])
