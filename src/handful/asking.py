"""A task that ends in text at work: rows with their choices in, scores of the choices out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.attach import attach
from handful.batches import Rows
from handful.choices import encode_choices
from handful.chooser import Ranker
from handful.context import Context
from handful.errors import DataError
from handful.fit import evaluate
from handful.generating import write
from handful.methods import from_spec
from handful.templates import Template
from handful.types import Batch, Example, Params, cast_params
from handful.vocabulary import vocabulary

if TYPE_CHECKING:
    from handful.artifact import Artifact
    from handful.backbone import Backbone

Asked = Callable[[Sequence[Example]], Tensor]


def asked_in_words(artifact: Artifact, backbone: Backbone) -> Asked:
    """What scores rows `[n, C]` by an artifact without a class head, -inf for choices that a row does not have."""
    if artifact.features["kind"] == "context":
        context, words = Context.from_dict(artifact.features["context"]), vocabulary(backbone)
        return lambda examples: context.scores(backbone, words, artifact.labels, examples).float()
    assert artifact.method is not None
    model = Ranker(attach(backbone, from_spec(artifact.method)), vocabulary(backbone))
    params = cast_params(artifact.params, device=backbone.device)
    template, length = Template(**artifact.features["templates"][0]), artifact.features["length"]

    def asked(examples: Sequence[Example]) -> Tensor:
        return ranked(model, params, encode_choices(backbone, examples, artifact.labels, template, limit=length))

    return asked


def written_by(artifact: Artifact, backbone: Backbone) -> Callable[[Sequence[Example]], list[str]]:
    """What writes an answer to each row, by an artifact of a generation task."""
    assert artifact.method is not None
    adapted, words = attach(backbone, from_spec(artifact.method)), vocabulary(backbone)
    params, how = cast_params(artifact.params, device=backbone.device), artifact.features
    template = Template(**how["templates"][0])
    return lambda examples: write(adapted, words, params, examples, template, limit=how["length"], most=how["most"])


def ranked(model: Ranker, params: Params, pool: Batch) -> Tensor:
    """Scores `[n, C]` of every row of a pool by the params of one task."""
    one = {site: {name: p[None] for name, p in own.items()} for site, own in params.items()}
    index = torch.arange(len(pool.row_mask), device=pool.row_mask.device)[None]
    classes = torch.ones(1, pool.inputs["targets"].shape[1], dtype=torch.bool, device=index.device)
    return evaluate(model, one, Rows(pool, index, torch.zeros_like(index), classes))[0]


def widened(scores: Tensor, num_choices: int) -> Tensor:
    """Scores `[n, C]` with -inf for choices up to `num_choices`, that no row of these has."""
    return F.pad(scores, (0, num_choices - scores.shape[1]), value=float("-inf"))


def check_choices_given(examples: Sequence[Example], kind: str, task: str) -> None:
    """DataError for rows without choices where the task is to choose, and for rows with choices elsewhere."""
    has = [example.choices is not None for example in examples]
    if all(own == (kind == "choice") for own in has):
        return
    row = has.index(kind != "choice") + 1
    found = f"Row {row} brings no choices." if kind == "choice" else f"Row {row} brings choices of its own."
    raise DataError(
        f"The task {task!r} was to be asked.", found,
        "Give rows as it was fitted on: with `choices` to a choice task, and without to others.",
    )  # fmt: skip
