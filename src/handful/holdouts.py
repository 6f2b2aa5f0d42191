"""What meta-training may see and what is held out from it: classes, domains, words, and rows that are in both."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from handful import episodes
from handful.cloze import Cloze
from handful.errors import DataError, RequestError
from handful.metatasks import Grouped, Mixture, Sentences, Source, Supervised
from handful.pools import digest_of
from handful.seeds import generator
from handful.texts import SHORT, normalised, row_digests
from handful.types import Task


class Content(Protocol):
    """What is learned from: its name, and the digests (`texts.row_digests`) of its rows."""

    @property
    def name(self) -> str: ...
    def contents(self) -> Collection[str]: ...


@dataclass(frozen=True)
class Overlap:
    """Rows of a test task whose texts a source holds: how many of how many, and one of them."""

    source: str
    task: str
    count: int
    rows: int
    example: str


def overlap(
    train: Sequence[Content], test: Sequence[Task], *, force: bool = False, how: str = "meta-training"
) -> list[Overlap]:
    """Which sources hold texts of which test tasks, whatever their case and punctuation (`texts.normalised`).

    A row counts if it is in the source as a whole, or with a text of its pair or a sentence of `texts.LONG` characters.
    A few rows that are all short ("thank you"), up to 1 % of a task, do not. DataError for the first unless forced.
    """
    known = [(source, frozenset(source.contents())) for source in _each(train)]
    found: list[Overlap] = []
    for task in test:
        rows = [(example.text, row_digests(example, parts=True)) for example in task.examples]
        for source, contents in known:
            shared = [text for text, digests in rows if not contents.isdisjoint(digests)]
            if any(len(normalised(text)) >= SHORT for text in shared) or len(shared) > len(rows) / 100:
                found.append(Overlap(source.name, task.name, len(shared), len(rows), max(shared, key=len)))
    if found and not force:
        first = found[0]
        raise DataError(
            f"{first.task} was to be measured on after {how} on {first.source}.",
            f"{first.count} of its {first.rows} rows are in it, such as {first.example[:60]!r}. "
            f"Sources and tasks that share rows: {len(found)}.",
            "Leave one of them out, or take these rows from the source (holdouts.without), or force it.",
        )
    return found


def without(task: Task, others: Sequence[Task]) -> Task:
    """The task without rows that `overlap` would find in the others."""
    asked = {digest for other in others for row in other.examples for digest in row_digests(row, parts=True)}
    kept = (i for i, example in enumerate(task.examples) if asked.isdisjoint(row_digests(example)))
    return episodes.subset(task, kept)


def by_domain(task: Task, domains: Mapping[str, Collection[str]]) -> list[Task]:
    """A task for each domain, of its classes and named `TASK/DOMAIN`; classes of no domain are left out.

    DataError for a domain that names classes that are not there, or fewer than two.
    """
    tasks: list[Task] = []
    for domain, names in domains.items():
        labels = tuple(label for label in task.labels if label in names)
        if new := [name for name in names if name not in task.labels]:
            found = f"It names {', '.join(map(repr, new[:5]))}, which {task.name} has not."
        else:
            found = f"It names {len(labels)} of the classes of {task.name}." if len(labels) < 2 else ""
        if found:
            asked = f"The classes of the domain {domain!r} were asked for."
            raise DataError(asked, found, "Name two or more classes of each domain as the task writes them.")
        tasks.append(_of_classes(replace(task, name=f"{task.name}/{domain}"), labels))
    return tasks


def split_classes(task: Task, fraction: float = 0.2, *, seed: int = 0) -> tuple[Task, Task]:
    """`(train, held)`: about `fraction` of the classes for meta-validation, at least two on either side.

    Classes are chosen by their names, so that tasks which share some hold out mostly the same ones. Rows for
    meta-training whose text is held out too are dropped. RequestError, and DataError below four classes.
    """
    if not 0 < fraction < 1:
        found = f"{fraction} is not between 0 and 1."
        raise RequestError(f"Classes of {task.name} were to be held out.", found, "Give a part such as 0.2.")
    if len(task.labels) < 4 or task.kind != "classification":
        raise DataError(
            f"Classes of {task.name} were to be held out.",
            f"It is a {task.kind} task of {len(task.labels)} classes; two are needed on either side.",
            "Validate on another task.",
        )
    count = min(max(2, round(fraction * len(task.labels))), len(task.labels) - 2)
    held = set(sorted(task.labels, key=lambda name: digest_of(seed, name))[:count])
    parts = [tuple(name for name in task.labels if (name in held) is side) for side in (False, True)]
    train, kept = (_of_classes(task, names) for names in parts)
    asked = {digest for example in kept.examples for digest in row_digests(example)}
    clean = (i for i, example in enumerate(train.examples) if asked.isdisjoint(row_digests(example)))
    return episodes.subset(train, clean), replace(kept, name=f"{task.name}, held out")


def hold_out(source: Source, fraction: float = 0.2, *, seed: int = 0) -> tuple[Source, Source | None]:
    """`(train, held)`: the same source on part of its classes or words, and on the others for meta-validation.

    Of a mixture each part is split and keeps its share. A task is split where `fraction` of its classes is two or
    more, and tagged sentences are parted; what is not split is for meta-training, and `held` is None where nothing is.
    No row is in labelled tasks of both; the sentences of hidden words are the same, with other words hidden.
    """
    train, held = _parted(source, fraction, seed)
    if held is None:
        return source, None
    labelled = (part for part in _each([held]) if not isinstance(part, Cloze))
    return _cleared(train, frozenset(digest for part in labelled for digest in part.contents())), held


def _parted(source: Source, fraction: float, seed: int) -> tuple[Source, Source | None]:
    if isinstance(source, Mixture):
        pairs = [_parted(part, fraction, seed) for part in source.sources]
        kept = [(held, share) for (_, held), share in zip(pairs, source.chances, strict=True) if held is not None]
        train = replace(source, sources=[train for train, _ in pairs], shares=source.chances)
        named = f"{source.name}, held out"
        return train, Mixture([held for held, _ in kept], [share for _, share in kept], named) if kept else None
    try:
        if isinstance(source, Cloze):
            return source.split(fraction, seed)
        if isinstance(source, Supervised | Grouped) and round(fraction * len(source.task.labels)) >= 2:
            train, held = split_classes(source.task, fraction, seed=seed)
            return replace(source, task=train), replace(source, task=held)
        if isinstance(source, Sentences):
            order = generator(seed, "held out", source.name).permutation(source.size)
            held, train = np.split(order, [round(fraction * source.size)])
            task = source.task
            return replace(source, task=episodes.subset(task, train)), replace(source, task=episodes.subset(task, held))
    except DataError:  # too few for two sources
        pass
    return source, None


def _cleared(source: Source, asked: Collection[str]) -> Source:
    """The source without rows that are asked in another; DataError where too few are left."""
    if isinstance(source, Mixture):
        return replace(source, sources=[_cleared(part, asked) for part in source.sources], shares=source.chances)
    if not isinstance(source, Supervised | Grouped):
        return source
    rows = source.task.examples
    kept = [i for i, example in enumerate(rows) if set(row_digests(example)).isdisjoint(asked)]
    return source if len(kept) == len(rows) else replace(source, task=episodes.subset(source.task, kept))


def _each(sources: Sequence[Content]) -> Iterator[Content]:
    for source in sources:
        if isinstance(source, Mixture):
            yield from _each(source.sources)
        else:
            yield source


def _of_classes(task: Task, labels: tuple[str, ...]) -> Task:
    own = set(labels)
    return replace(task, examples=[example for example in task.examples if example.label in own], labels=labels)
