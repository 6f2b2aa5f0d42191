"""A task that ends in text at work: rows with their choices in, scores of the choices out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from handful.attach import attach
from handful.choices import encode_choices
from handful.chooser import Ranker
from handful.context import Context
from handful.errors import DataError
from handful.fit import predict
from handful.generating import write
from handful.methods import from_spec
from handful.templates import Template
from handful.types import Example, cast_params
from handful.vocabulary import vocabulary

if TYPE_CHECKING:
    from handful.artifact import Artifact
    from handful.backbone import Backbone

Asked = Callable[[Sequence[Example], int], Tensor]


def asked_in_words(artifact: Artifact, backbone: Backbone) -> Asked:
    """What scores rows `[n, C]` by an artifact without a class head, -inf for choices that a row does not have.

    It is given rows and the number of the first one, by which errors name them.
    """
    if artifact.features["kind"] == "context":
        context, words = Context.from_dict(artifact.features["context"]), vocabulary(backbone)
        return lambda examples, first: context.scores(backbone, words, artifact.labels, examples, first).float()
    assert artifact.method is not None
    model = Ranker(attach(backbone, from_spec(artifact.method)), vocabulary(backbone))
    params = cast_params(artifact.params, device=backbone.device)
    template, length = Template(**artifact.features["templates"][0]), artifact.features["length"]

    def asked(examples: Sequence[Example], first: int) -> Tensor:
        rows = range(first, first + len(examples))
        pool = encode_choices(backbone, examples, artifact.labels, template, limit=length, rows=rows)
        return predict(model, params, pool, pool.inputs["targets"].shape[1])

    return asked


def written_by(artifact: Artifact, backbone: Backbone) -> Callable[[Sequence[Example]], list[str]]:
    """What writes an answer to each row, by an artifact of a generation task."""
    assert artifact.method is not None
    adapted, words = attach(backbone, from_spec(artifact.method)), vocabulary(backbone)
    params, how = cast_params(artifact.params, device=backbone.device), artifact.features
    template = Template(**how["templates"][0])
    return lambda examples: write(adapted, words, params, examples, template, limit=how["length"], most=how["most"])


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
