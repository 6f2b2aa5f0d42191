"""Seeded draws from a task: k shots, a held-out part, support and query, folds.

Pure functions: the same task, arguments and seed give the same draw in every process. What is drawn from a class
depends on its own rows and name only. Rows with the same text (and second text) never land on both sides of a draw.
The classes of a tagging task are its entity types, and a row has one label for each of its entities.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from handful.errors import DataError, HandfulWarning, RequestError
from handful.seeds import generator
from handful.tagging import example_types, types_of
from handful.types import Episode, Example, Task

Indices = NDArray[np.int64]
SEVERAL = {"multilabel": "multi-label", "tagging": "tagging"}  # kinds of tasks whose rows have several labels


def subset(task: Task, indices: Iterable[int]) -> Task:
    """The same task with the given rows only, in the given order."""
    return replace(task, examples=[task.examples[int(i)] for i in indices])


def shots(task: Task, k: int, *, seed: int) -> Task:
    """`k` rows of each class without replacement, in the task's order; repeated texts only when others run out.

    A class with fewer rows keeps them all, with one HandfulWarning. Multi-label: rows are added, rarest label first,
    until each label has `k` rows or all it has; rows without a label count as one more label. Tagging: so with types,
    until each has `k` entities (Yang and Katiyar 2020), beside `k` rows without an entity.
    Raises RequestError for a `k` below 1 and DataError for rows without a label.
    """
    _at_least(1, k, "shots")
    rows = _by_class(task)
    held = Counter(name for example in task.examples for name in _labels(example))
    if few := {name: held[name] for name in rows if held[name] < k}:
        found = ", ".join(f"'{name}' has {count}" for name, count in few.items())
        message = f"Fewer than {k} examples in {len(few)} of {len(rows)} classes of {task.name}: {found}. "
        warnings.warn(message + "All of them are kept.", HandfulWarning, stacklevel=2)
    return subset(task, _greedy(task, rows, k, seed))


def some_classes(task: Task, ways: int, *, seed: int) -> Task:
    """The rows of `ways` of a task's classes, in the task's order. RequestError where it has fewer."""
    _at_least(2, ways, "ways")
    if ways > len(task.labels) or task.kind in SEVERAL:
        found = f"It has {len(task.labels)}{f' of a {SEVERAL[task.kind]} task' if task.kind in SEVERAL else ''}."
        raise RequestError(f"Tried to draw {ways} classes of {task.name}.", found, "Ask for fewer, or for all.")
    names = _drawn(task.labels, ways, seed)
    return subset(replace(task, labels=names), (i for i, e in enumerate(task.examples) if e.label in names))


def some_rows(task: Task, count: int, *, seed: int) -> Task:
    """`count` rows, whatever their class, in the task's order."""
    picked = generator(seed, "rows").choice(len(task.examples), count, replace=False)
    return subset(task, sorted(picked.tolist()))


def split(task: Task, fraction: float = 0.2, *, seed: int) -> tuple[Task, Task]:
    """`(train, test)`: about `fraction` of each class held out, at least one row where the class has two texts.

    Every class keeps a row in train; the same text stays on one side. Raises RequestError, DataError.
    """
    if not 0 < fraction < 1:
        found = f"{fraction} is not between 0 and 1."
        raise RequestError(f"Tried to split {task.name}.", found, "Give the part to hold out, such as 0.2.")
    groups = _grouped(task)
    held: Counter[Hashable] = Counter()
    chosen: set[int] = set()
    for label, members in groups.rarest_first(seed):
        wanted = max(1, int(fraction * len(members) + 0.5))
        for group in members:
            labels = groups.labels[group]
            if held[label] < wanted and group not in chosen and all(held[x] + 1 < groups.counts[x] for x in labels):
                chosen.add(group)
                held.update(labels)
    test = {i for group in chosen for i in groups.rows[group]}
    if not test:
        raise DataError(*_nothing_to_hold_out(task.name))
    return subset(task, (i for i in range(len(task.examples)) if i not in test)), subset(task, sorted(test))


def sample(task: Task, shots: int, *, seed: int, query: int | None = None, ways: int | None = None) -> Episode:
    """An N-way k-shot episode: `shots` rows per class as support, `query` rows per class (None: all others) as query.

    With `ways`, that many classes are drawn from those with enough rows; both tasks keep the class order. No text of
    the support is in the query, and a text that carries different labels is never support. Multi-label and tagging
    tasks take no `ways`; each label gets at least `shots` (and `query`) rows, or entities, where it has them.
    Raises RequestError for numbers out of range and DataError for classes with too few different texts.
    """
    _at_least(1, shots, "shots")
    _at_least(1, query, "query rows")
    _at_least(2, ways, "ways")
    if task.kind in SEVERAL:
        return _sample_multilabel(task, shots, seed, query, ways)
    contents, rows, clean = _contents(task), _by_class(task), distinct_rows(task)
    need = shots + (query or 1)
    names = [name for name in task.labels if len(clean[name]) >= need]
    if len(names) < (ways or len(task.labels)):
        few = next(name for name in task.labels if len(clean[name]) < need) if len(names) < len(task.labels) else None
        found = f"{len(names)} of {len(task.labels)} classes have the {need} different texts that this takes"
        found += f"; '{few}' has {len(clean[few])}." if few is not None else "."
        asked = f"Tried to draw {ways or len(task.labels)} classes of {task.name} with {shots} shots"
        asked += f" and {query} query rows each." if query else " and at least one query row each."
        fewer = f", or for at most {len(names)} ways" if len(names) > 1 else ""
        raise DataError(asked, found, f"Ask for fewer shots or query rows{fewer}.")
    if ways is not None:
        names = list(_drawn(names, ways, seed))
    support: list[int] = []
    for name in names:
        support += generator(seed, "shots", name).permutation(clean[name])[:shots].tolist()
    taken = {contents[i] for i in support}
    asked_of: list[int] = []
    for name in names:
        rest = [i for i in rows[name] if contents[i] not in taken]
        asked_of += rest if query is None else _shuffled(rest, contents, generator(seed, "query", name))[:query]
    part = replace(task, labels=tuple(names))
    return Episode(subset(part, sorted(support)), subset(part, sorted(asked_of)))


def distinct_rows(task: Task) -> dict[str, list[int]]:
    """Rows of each class: the first of each text, and of no text that carries different labels. DataError."""
    contents, rows = _contents(task), _by_class(task)
    labels_of: dict[Hashable, set[str]] = {}
    for name, indices in rows.items():
        for i in indices:
            labels_of.setdefault(contents[i], set()).add(name)
    return {
        name: list({contents[i]: i for i in reversed(rows[name]) if len(labels_of[contents[i]]) == 1}.values())[::-1]
        for name in task.labels
    }


def mixture(sizes: Sequence[int], *, temperature: float = 10.0) -> NDArray[np.float64]:
    """Probabilities `[T]` to draw from tasks of `sizes` rows, `p_t ~ (n_t / sum n)^(1 / temperature)`.

    1 draws by size, more evens out. Source: Karimi Mahabadi et al. 2021 (arXiv 2106.04489). Raises RequestError.
    """
    if min(sizes, default=0) < 1 or not temperature > 0:
        found = f"The smallest has {min(sizes, default=0)} rows, and the temperature is {temperature}."
        raise RequestError("Tasks were to be drawn from.", found, "Give tasks with rows, and a temperature above 0.")
    roots = (np.array(sizes) / sum(sizes)) ** (1 / temperature)
    return roots / roots.sum()


def max_folds(task_or_labels: Task | Sequence[Hashable]) -> int:
    """The largest number of folds that `folds` can make: the different texts of the smallest class with two or more.

    Of a tagging task the most common one's, as not every fold needs to ask for each type. 0: nothing can be held out.
    """
    return _grouped(task_or_labels).max_folds


def folds(task_or_labels: Task | Sequence[Hashable], num_folds: int, *, seed: int) -> list[Indices]:
    """Held-out row indices `[rows]` of each fold, stratified; what is not held out is the training part.

    The folds do not overlap, rows with the same text share one, and every class stays in every training part: a row
    is never held out where that would take away the last text of a class, so a class with a single text never is.
    Labels alone (tuples for multi-label) may be given in place of a task. With `num_folds` above `max_folds` that
    many folds are made, with a HandfulWarning. Raises RequestError for `num_folds` below 2 and DataError where
    nothing can be held out.
    """
    _at_least(2, num_folds, "folds")
    groups = _grouped(task_or_labels)
    name = task_or_labels.name if isinstance(task_or_labels, Task) else "the given labels"
    most = groups.max_folds
    if not most:
        raise DataError(*_nothing_to_hold_out(name))
    if num_folds > most:
        message = (
            f"{num_folds} folds were asked for, {most} made: the smallest class of {name} has {most} different texts."
        )
        warnings.warn(message, HandfulWarning, stacklevel=2)
    held: list[list[int]] = [[] for _ in range(min(num_folds, most))]
    counts: list[Counter[Hashable]] = [Counter() for _ in held]
    done: set[int] = set()
    for label, members in groups.rarest_first(seed):
        for group in members:
            labels = groups.labels[group]
            free = [f for f in range(len(held)) if all(counts[f][x] + 1 < groups.counts[x] for x in labels)]
            if free and group not in done:
                fold = min(free, key=lambda f: (counts[f][label], len(held[f])))
                held[fold] += groups.rows[group]
                counts[fold].update(labels)
            done.add(group)
    parts = [np.array(sorted(rows), dtype=np.int64) for rows in held if rows]
    if not parts:
        raise DataError(*_nothing_to_hold_out(name))
    return parts


class _Groups:
    """Rows of equal content, their labels (`()` stands for none), and how many groups each label has."""

    def __init__(self, labels: Sequence[tuple[Hashable, ...]], contents: Sequence[Hashable], *, tagged: bool) -> None:
        grouped: dict[Hashable, list[int]] = {}
        for i, content in enumerate(contents):
            grouped.setdefault(content, []).append(i)
        self.rows = list(grouped.values())
        self.labels = [list(dict.fromkeys(x for i in rows for x in labels[i] or [()])) for rows in self.rows]
        self.counts = Counter(x for names in self.labels for x in names)
        self.max_folds = (max if tagged else min)((n for n in self.counts.values() if n > 1), default=0)

    def rarest_first(self, seed: int) -> list[tuple[Hashable, list[int]]]:
        """Labels from rare to common, each with its groups in seeded order."""
        members: dict[Hashable, list[int]] = {}
        for group, names in enumerate(self.labels):
            for name in names:
                members.setdefault(name, []).append(group)
        order = sorted(members, key=lambda name: len(members[name]))
        return [(x, generator(seed, "groups", str(x)).permutation(members[x]).tolist()) for x in order]


def _grouped(given: Task | Sequence[Hashable]) -> _Groups:
    if isinstance(given, Task):
        labels_of = [_labels(example) for example in given.examples]
        return _Groups(labels_of, _contents(given), tagged=given.kind == "tagging")
    labels: list[tuple[Hashable, ...]] = [label if isinstance(label, tuple) else (label,) for label in given]
    return _Groups(labels, range(len(labels)), tagged=False)


def _contents(task: Task) -> list[Hashable]:
    return [(example.text, example.text_pair) for example in task.examples]


def _labels(example: Example) -> tuple[str, ...]:
    if example.label is None:
        found, todo = f"'{example.text[:60]}' has no label.", "Read it with its labels, or leave these rows out."
        raise DataError("Tried to draw from a task by class.", found, todo)
    if example.words is not None:
        return example_types(example)
    return example.label if isinstance(example.label, tuple) else (example.label,)


def _by_class(task: Task) -> dict[str, list[int]]:
    classes = types_of(task.labels) if task.kind == "tagging" else task.labels
    rows: dict[str, list[int]] = {name: [] for name in classes}
    for i, example in enumerate(task.examples):
        for name in dict.fromkeys(_labels(example)):
            rows.setdefault(name, []).append(i)
    return rows


def _greedy(task: Task, rows: dict[str, list[int]], k: int, seed: int) -> list[int]:
    """Rows such that every class has `k` or all it has, rarest class first; of a single-label task exactly so."""
    contents = _contents(task)
    bare = [i for i, example in enumerate(task.examples) if not _labels(example)]
    picked: set[int] = set()
    counts: Counter[str] = Counter()
    for name, indices in [("", bare), *sorted(rows.items(), key=lambda item: len(item[1]))]:
        for i in _shuffled(indices, contents, generator(seed, "shots", name)):
            if i not in picked and (counts[name] if indices is not bare else len(picked)) < k:
                picked.add(i)
                counts.update(_labels(task.examples[i]))
    return sorted(picked)


def _sample_multilabel(task: Task, shots: int, seed: int, query: int | None, ways: int | None) -> Episode:
    if ways is not None:
        asked = f"Tried to draw {ways} ways from {task.name}."
        raise RequestError(asked, f"It is a {SEVERAL[task.kind]} task: a row is of many classes.", "Leave out ways.")
    contents, support = _contents(task), _greedy(task, _by_class(task), shots, seed)
    taken = {contents[i] for i in support}
    rest = subset(task, (i for i, content in enumerate(contents) if content not in taken))
    if not rest.examples:
        asked = f"Tried to draw {shots} shots from {task.name}."
        raise DataError(asked, "No rows are left as query.", "Ask for fewer shots.")
    if query is not None:
        rest = subset(rest, _greedy(rest, _by_class(rest), query, seed))
    return Episode(subset(task, support), rest)


def _drawn(names: Sequence[str], ways: int, seed: int) -> tuple[str, ...]:
    picked = {int(i) for i in generator(seed, "ways").choice(len(names), ways, replace=False)}
    return tuple(name for i, name in enumerate(names) if i in picked)


def _shuffled(indices: Sequence[int], contents: Sequence[Hashable], rng: np.random.Generator) -> list[int]:
    """The rows in random order, repeated contents last."""
    order: list[int] = rng.permutation(np.array(indices, dtype=np.int64)).tolist()
    first = set({contents[i]: i for i in reversed(order)}.values())
    return [i for i in order if i in first] + [i for i in order if i not in first]


def _at_least(least: int, number: int | None, what: str) -> None:
    if number is not None and number < least:
        asked = f"Tried to use {number} as the number of {what}."
        raise RequestError(asked, "It is too small.", f"Give {least} or more.")


def _nothing_to_hold_out(name: str) -> tuple[str, str, str]:
    found = "Every class has a single text, or shares its texts with a class that has."
    return f"Tried to hold out rows of {name}.", found, "Add more examples of at least one class."
