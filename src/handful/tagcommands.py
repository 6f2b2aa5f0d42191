"""What `handful predict` and `handful evaluate` say of tagging tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from handful.artifact import Artifact
from handful.console import out_console
from handful.predictor import Predictor
from handful.tagestimate import estimate_tags
from handful.tagging import entities, read_tags
from handful.types import Example


def answers(fitted: Artifact, predictor: Predictor, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Lines of `handful predict`: `tokens`, their `tags`, and `entities` by type, first and last word, and text.

    `start` and `end` (exclusive) count words; `probability` is that of an entity's least certain word.
    """
    shares = predictor.scores(examples).probabilities(fitted.kind).double()
    best = shares.argmax(-1).tolist()
    all_tags = read_tags(best, [len(example.words or ()) for example in examples], fitted.labels)
    sure, rows = shares.amax(-1).tolist(), list[dict[str, Any]]()
    for example, tags, own in zip(examples, all_tags, sure, strict=True):
        words = example.words or ()
        found = [
            {
                "type": kind, "start": start, "end": end, "text": " ".join(words[start:end]),
                "probability": round(min(own[start:end]), 6),
            }
            for kind, start, end in entities(tags)
        ]  # fmt: skip
        rows.append({"tokens": list(words), "tags": list(tags), "entities": found})
    return rows


def measured(predictor: Predictor, examples: Sequence[Example]) -> dict[str, Any]:
    """`Estimate.to_dict` of a fitted tagging task on tagged sentences."""
    scores = predictor.scores(examples).logits.double().cpu().numpy()
    truth = [example.label or () for example in examples]
    return estimate_tags(scores, truth, predictor.artifact.labels, [True] * len(truth), 0).to_dict()


def show_answers(rows: Sequence[Mapping[str, Any]]) -> None:
    """The sentences with their entities, for people."""
    table = Table("text", "entities", box=None)
    for row in rows:
        found = [f"{own['text']} ({own['type']} {own['probability']:.2f})" for own in row["entities"]]
        table.add_row(" ".join(row["tokens"])[:80], ", ".join(found))
    out_console.print(table, markup=False)


def show_types(per_class: Mapping[str, Mapping[str, Any]]) -> None:
    """What was found of each entity type."""
    table = Table("type", "entities", "right", "precision", "recall", "F1", box=None)
    for kind, own in per_class.items():
        shares = ("-" if own[name] is None else f"{own[name]:.2f}" for name in ("precision", "recall", "f1"))
        table.add_row(kind, str(own["n"]), str(own["correct"]), *shares)
    out_console.print(table)
