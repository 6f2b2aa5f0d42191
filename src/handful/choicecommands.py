"""What the commands say of tasks whose rows bring their own choices, and how rows are read as a task was fitted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from rich.table import Table
from rich.text import Text

from handful import artifact as artifacts
from handful.artifact import Artifact
from handful.asking import check_choices_given
from handful.card import asked_by
from handful.console import out_console
from handful.definitions import Definition
from handful.episodes import shots as shots_of
from handful.episodes import some_rows
from handful.errors import DataError, HandfulWarning
from handful.estimate import estimate
from handful.predictor import Predictor
from handful.taskfiles import load_task
from handful.textmetrics import METRICS, measure
from handful.types import Example, Task
from handful.worded import right

UNCLASSED = ("choice", "generation")
"""Kinds of tasks without classes."""
MEASURES = (
    "n", "correct", "entity_f1", "accuracy", "macro_f1", "ece", "log_loss", "per_class", "warnings", *METRICS
)  # fmt: skip
"""What `handful evaluate --json` says, where it was measured."""


def drawn(task: Task, shots: int | None, seed: int) -> Task:
    """`shots` rows of each class, as `episodes.shots`; of a task without classes so many in all, or all it has."""
    if shots is None or task.kind not in UNCLASSED:
        return task if shots is None else shots_of(task, shots, seed=seed)
    if (size := len(task.examples)) < shots:
        warnings.warn(
            f"{task.name} has {size} rows, fewer than {shots}. All of them are kept.", HandfulWarning, stacklevel=2
        )
    return some_rows(task, min(shots, size), seed=seed)


def counted(task: Task) -> str:
    """How many rows of what: "12 rows of 3 classes"."""
    rows = f"{len(task.examples)} rows"
    free = {"choice": "with choices", "generation": "with answers"}
    return f"{rows} {free[task.kind]}" if task.kind in free else f"{rows} of {len(task.labels)} classes"


def classes(fitted: Artifact) -> list[str]:
    """The classes of a fitted task; the positions of choices are none."""
    return [] if fitted.kind in UNCLASSED else list(fitted.labels)


def about(fitted: Artifact) -> dict[str, Any]:
    """What `handful info` says of a task that is answered in words, or was read through a definition."""
    found: dict[str, Any] = {}
    if fitted.kind == "generation":
        found["answers"] = f"written freely, in at most {fitted.features['most']} tokens"
    if fitted.kind == "choice":
        found["choices"] = f"each row's own, at most {len(fitted.labels)} in training"
    if own := asked_by(fitted.features):
        found["prompt"] = own["prompt"]
    if fitted.definition:
        found["definition"] = fitted.definition["name"]
    return found


def as_fitted(
    fitted: Artifact, source: str, *, definition: str | None, columns: Mapping[str, Any], purpose: str,
    separator: str | None = None,
) -> Task:  # fmt: skip
    """Rows to "test" or to "predict", read through the definition that the task was fitted with.

    Another `definition` or `columns` of the table take its place where they are given. DataError as `load_task`, and
    for rows without choices for a choice task, and the other way round.
    """
    fields = fitted.features["kind"] in artifacts.HEADLESS
    own = None
    if definition is None and fitted.definition and not separator and not any(columns.values()):
        own = Definition(**fitted.definition)
    try:
        task = load_task(
            source, definition=own or definition, columns=columns, separator=separator, purpose=purpose, fields=fields
        )
    except DataError as error:
        if own is None:
            raise
        todo = f"{error.todo} The task was fitted through this definition; --text COLUMN, or -d, read rows otherwise."
        raise DataError(error.asked, error.found, todo) from error
    check_choices_given(task.examples, fitted.kind, fitted.task)
    return task


def answers(predictor: Predictor, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Lines of `handful predict`: `label`, the text of the likeliest choice, `choice`, its number counted from 0, and
    the probability of each by its text; of a generation task `answer`.
    """
    if predictor.artifact.kind == "generation":
        return [{"answer": text} for text in predictor.texts(examples)]
    shares = predictor.scores(examples).probabilities(predictor.artifact.kind).double().tolist()
    rows = list[dict[str, Any]]()
    for example, own in zip(examples, shares, strict=True):
        choices = example.choices or ()
        best = max(range(len(choices)), key=own.__getitem__)
        scores = {text: round(p, 6) for text, p in zip(choices, own, strict=False)}
        rows.append({"label": choices[best], "choice": best, "scores": scores})
    return rows


def show_answers(examples: Sequence[Example], rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows with the choice of each, or the answer, for people."""
    if rows and "answer" in rows[0]:
        written = Table("text", "answer", box=None)
        for example, row in zip(examples, rows, strict=True):
            written.add_row(Text(example.text[:80]), Text(row["answer"][:200]))
        out_console.print(written)
        return
    table = Table("text", "choice", "", "probability", box=None)
    for example, row in zip(examples, rows, strict=True):
        share = f"{row['scores'][row['label']]:.2f}"
        table.add_row(Text(example.text[:80]), str(row["choice"]), Text(row["label"][:80]), share)
    out_console.print(table)


def measured(predictor: Predictor, task: Task) -> dict[str, Any]:
    """`Estimate.to_dict` of a fitted choice task on rows with their right choices, and how many were `correct`.

    Of a generation task the measures of `textmetrics`: exact match, F1 of words, ROUGE-L where its library is there.
    """
    if predictor.artifact.kind == "generation":
        names = [name for name in METRICS if name != "rouge_l" or find_spec("rouge_score")]
        return measure(predictor.texts(task.examples), [example.label or () for example in task.examples], names)
    gold = right(replace(task, kind="choice"))
    scores = predictor.scores(task.examples).logits.double().cpu()
    correct = int((scores.argmax(-1) == gold).sum())
    positions = [str(position + 1) for position in range(scores.shape[1])]
    found = estimate(scores.numpy(), gold.numpy(), positions, [True] * len(gold), 0, "choice").to_dict()
    return {name: value for name, value in found.items() if name != "per_class"} | {"correct": correct}


def show_measured(found: Mapping[str, Any]) -> None:
    """How many rows were right, or how near written answers came."""
    if "correct" not in found:
        table = Table(box=None, show_header=False)
        for name, value in found.items():
            table.add_row(name.replace("_", " "), f"{value:.1%}" if name != "n" else f"{value:.0f} rows")
        out_console.print(table)
        return
    out_console.print(f"{found['correct']} of {found['n']} right", highlight=False)
