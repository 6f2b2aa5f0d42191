"""Annotated sentences -> a task of phrases to be typed: what is this slot, which kind of entity is that?

One set of tagged sentences so gives two kinds of tasks, and typing is far from telling topics apart. LEOPARD's tasks
`conll` and `restaurant` are such pairs of a sentence and a phrase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from handful.errors import DataError
from handful.tables import Table, counted
from handful.tagging import entities
from handful.types import Example, Task

Shown = Literal["pair", "marked"]
"""The phrase as a second text, or marked in the sentence: `[e]...[/e]`."""


def typed_phrases(task: Task, shown: Shown) -> Task:
    """The entities of a tagging task, each as a row with its type. DataError where there are fewer than two types."""
    rows: list[tuple[str, int, int, str]] = []
    for example in task.examples:
        words = example.words or ()
        starts = [0]
        for word in words:
            starts.append(starts[-1] + len(word) + 1)
        text = " ".join(words)
        rows += [(text, starts[e.start], starts[e.end] - 1, e.type) for e in entities(example.label or ())]
    return _task(task.name, rows, shown)


def typed_spans(table: Table, name: str, shown: Shown) -> Task:
    """The spans of rows such as `{"text": ..., "spans": [{"slot": ..., "start": 3, "end": 8}]}`, with `end` exclusive.

    DataError, by line, for a span that lies outside of its text or has no type (`slot`, `label` or `type`).
    """
    return _task(name, [row for i, given in enumerate(table.rows) for row in _spans(table, i, given)], shown)


def has_spans(table: Table) -> bool:
    return {"text", "spans"} <= set(table.columns)


def _spans(table: Table, i: int, row: Mapping[str, Any]) -> Iterator[tuple[str, int, int, str]]:
    text = row.get("text")
    for span in row.get("spans") or ():
        try:
            kind = next(str(span[key]) for key in ("slot", "label", "type") if key in span)
            start, end = int(span["start"]), int(span["end"])
            if not 0 <= start < end <= len(text):  # type: ignore[arg-type]
                raise ValueError(f"{start} to {end} of {len(text)} characters")  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise DataError(
                f"Tried to read the spans of {table.source}.", f"{table.at([i])}: {span!r} is none ({error}).",
                'Write each as {"slot": "city", "start": 3, "end": 8}, with places in the text.',
            ) from error  # fmt: skip
        yield str(text), start, end, kind


def _task(name: str, rows: Sequence[tuple[str, int, int, str]], shown: Shown) -> Task:
    examples = list(dict.fromkeys(_shown(*row, shown) for row in rows))
    labels = tuple(dict.fromkeys(str(example.label) for example in examples))
    if len(labels) < 2:
        raise DataError(
            f"The phrases of {name} were to be typed.", f"It has {counted(len(labels), 'type')} of them.",
            "Give sentences with phrases of two types or more.",
        )  # fmt: skip
    return Task(f"{name}, phrases", examples, labels)


def _shown(text: str, start: int, end: int, kind: str, shown: Shown) -> Example:
    phrase = text[start:end]
    if shown == "pair":
        return Example(text, phrase, kind)
    return Example(f"{text[:start]}[e]{phrase}[/e]{text[end:]}", None, kind)
