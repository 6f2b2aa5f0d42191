"""The bill of a fitted task: what it has cost and costs, beside its own rows in the prompt of every question."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful.bill import Work, answers_until, pass_flops, prompting
from handful.errors import ArtifactError, RequestError
from handful.families import num_positions

if TYPE_CHECKING:
    from handful.artifact import Artifact
    from handful.backbone import Backbone

NOTED = ("training_flops", "query_flops", "query_tokens")
"""What a bill needs of `Artifact.cost`."""


@dataclass(frozen=True)
class Tuned:
    """A task as it was fitted, noted then by torch's counter; `formula_flops` is an answer by formula."""

    inference_flops: int
    formula_flops: int
    training_flops: int
    kv_cache_bytes: int
    disk_bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Prompted:
    """The same task by its rows in the prompt, by formula, attention and output layer included.

    `cached_flops` where the prompt's keys and values are kept, which costs `context_flops` once.
    """

    inference_flops: int
    cached_flops: int
    context_flops: int
    training_flops: int
    kv_cache_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class TaskBill:
    """Both sides, what they are of, and after how many answers tuning has cost less: None for never."""

    task: dict[str, Any]
    shape: dict[str, int]
    tuning: Tuned
    prompting: Prompted
    break_even_queries: int | None
    break_even_cached_queries: int | None
    notes: tuple[str, ...]


def task_bill(
    folder: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    prompted: str | None = None,
    shots: int | None = None,
    tokens: int | None = None,
    query: int | None = None,
) -> TaskBill:
    """The bill of the fitted task in `folder`, whose backbone is now called `backbone`, if not as then.

    Against `prompted` (the same backbone if not given) with `shots` examples (all training rows) of `tokens` tokens
    (their mean), and questions of `query` tokens (as noted). Raises ArtifactError for what is no fitted task, notes no
    cost or was not tuned, BackboneError for a shape that is not known or does not go on from a prompt.
    """
    from handful.artifact import load
    from handful.backbone import base_of
    from handful.shapes import shape

    fitted = load(folder)
    _check(fitted, folder)
    own = backbone or base_of(fitted.backbone)
    frozen, other = shape(own), prompted or own
    cost, worded = fitted.cost, fitted.features["kind"] == "choices"
    both = frozen.family.architecture == "encoder-decoder" and worded
    noted = round(cost["query_tokens"]) + (cost.get("scored_tokens", 1) if both else 0)
    asked = noted if query is None else query
    known = cost.get("training_rows", (fitted.estimate or {}).get("n"))
    words = {"choices": len(fitted.labels), "scored": len(fitted.labels)}  # a token each where a class head answers
    if worded and "scored_tokens" in cost:
        words = {"choices": cost["choices"], "scored": cost["scored_tokens"], "beside": cost.get("decoder_tokens", 0)}
    work = Work(
        shots=_shots(fitted, known) if shots is None else shots,
        tokens=max(1, round(cost.get("row_tokens", cost["query_tokens"]))) if tokens is None else tokens,
        query=asked, **words,
    )  # fmt: skip
    read = work if worded else Work(query=asked, scored=0)
    formula = pass_flops(frozen, read, asked).total
    tuned = Tuned(
        inference_flops=formula if query is not None else round(cost["query_flops"]),
        formula_flops=formula,
        training_flops=round(cost["training_flops"]),
        kv_cache_bytes=0,
        disk_bytes=sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")),
        seconds=cost.get("seconds"),
    )
    bill = prompting(other, work)
    shown = Prompted(
        bill.counted_flops, bill.counted_cached_flops, bill.context_flops, 0, bill.kv_cache_bytes, bill.disk_bytes
    )
    return TaskBill(
        task={
            "name": fitted.task, "recipe": fitted.recipe, "backbone": fitted.backbone, "prompted": other,
            "training_rows": known, "shots": work.shots, "tokens": work.tokens, "query": asked,
        },
        shape=_said(frozen),
        tuning=tuned,
        prompting=shown,
        break_even_queries=answers_until(tuned.training_flops, tuned.inference_flops, shown.inference_flops),
        break_even_cached_queries=answers_until(
            tuned.training_flops - shown.context_flops, tuned.inference_flops, shown.cached_flops
        ),
        notes=tuple(_notes(shape(other), work, other != own)),
    )  # fmt: skip


def _check(fitted: Artifact, folder: str | os.PathLike[str]) -> None:
    """ArtifactError for a task that is prompted itself, or that notes no cost."""
    asked = f"The bill of the task {fitted.task!r} in {os.fspath(folder)} was asked for."
    if fitted.features["kind"] == "context":
        raise ArtifactError(
            asked, "Nothing was tuned for it: it is asked by examples in the prompt itself.",
            "Give a task that was tuned on the same rows, such as with --recipe tfew.",
        )  # fmt: skip
    if missing := [name for name in NOTED if fitted.cost.get(name) is None]:
        raise ArtifactError(
            asked, f"It does not note what it cost: {', '.join(missing)} {'are' if missing[1:] else 'is'} missing.",
            "Fit it with a recipe that notes it, or ask for a bill from shapes: handful bill --backbone NAME.",
        )  # fmt: skip


def _shots(fitted: Artifact, known: int | None) -> int:
    if known is None:
        raise RequestError(
            f"The task {fitted.task!r} was to be compared with all its training rows in the prompt.",
            "It does not note how many there were.", "Say it by --shots.",
        )  # fmt: skip
    return int(known)


def _said(backbone: Backbone) -> dict[str, int]:
    """The shape in numbers."""
    from handful.sites import all_places

    queries = [place.site for place in all_places(backbone) if place.site.role == "attention.query"]
    found = {"parameters": backbone.num_parameters, "width": queries[0].d_in}
    return found | {f"{site.stack}_blocks": site.num_layers for site in queries}


def _notes(prompted: Backbone, work: Work, other: bool) -> list[str]:
    """What is to be known of a comparison."""
    limit = num_positions(prompted.model.config)
    whole, found = work.context + work.query, list[str]()
    if limit and whole > limit:
        found.append(f"{prompted.id} reads {limit:,} tokens, so that a prompt of {whole:,} would have to be cut")
    if other:
        found.append(f"{prompted.id} is taken to have as many tokens of a text as the backbone that was tuned")
    return found
