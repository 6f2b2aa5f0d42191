"""From examples to model inputs: the only caller of tokenizers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from handful.backbone import Backbone
from handful.errors import BackboneError, DataError, HandfulWarning
from handful.types import Batch, Example, Task


def render(example: Example, template: str | None) -> tuple[str, str | None]:
    """The text (and second text) that the tokenizer sees. `template` is a text with `{text}` and `{text_pair}`."""
    if template is None:
        return example.text, example.text_pair
    filled = template.replace("{text}", example.text).replace("{text_pair}", example.text_pair or "")
    return filled, None if "{text_pair}" in template else example.text_pair


def encode(backbone: Backbone, examples: Sequence[Example], *, template: str | None = None) -> Batch:
    """Examples -> inputs `[B, S]`, padded on the right, cut to the backbone's length (said once).

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
    )  # fmt: skip
    inputs: dict[str, Tensor] = {name: value.to(backbone.device) for name, value in encoded.items()}
    cut = int((inputs["attention_mask"].sum(-1) >= backbone.max_length).sum())
    if cut:
        warnings.warn(
            f"{cut} of {len(examples)} texts are longer than the {backbone.max_length} tokens that {backbone.id} reads "
            "and were cut there.",
            HandfulWarning,
            stacklevel=2,
        )
    return Batch(inputs, torch.ones(len(examples), dtype=torch.bool, device=backbone.device))


def targets(task: Task) -> Tensor:
    """Class indices `[B]`, or 0/1 `[B, C]` for a multi-label task, in the order of `task.labels`."""
    position = {label: i for i, label in enumerate(task.labels)}
    if task.kind == "multilabel":
        rows = torch.zeros(len(task.examples), len(task.labels))
        for row, example in enumerate(task.examples):
            for label in example.label or ():
                rows[row, position[label]] = 1.0
        return rows
    return torch.tensor([position[str(example.label)] for example in task.examples])
