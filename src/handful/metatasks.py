"""Where the episodes of meta-training come from: labelled tasks, several labelings of one, and mixtures.

A source draws an episode from a seed and nothing else, the same one in every process. Classes have no order of their
own: each episode's `labels` are in another one, so that nothing can be learned from a class's place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from handful import episodes
from handful.errors import DataError, RequestError
from handful.pools import digest_of
from handful.seeds import generator
from handful.texts import row_digests
from handful.types import Episode, Example, Task

Bounds = int | tuple[int, int]
"""A number, or the smallest and the largest of those that are drawn, each as often."""
_Part = tuple[str, Sequence[int], Sequence[int]]
"""A way of an episode: its name, its rows as support and its rows as query."""


class Source(Protocol):
    """What episodes are drawn from.

    name  how tables and errors call it
    size  rows, or sentences, that it draws from
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def draw(self, seed: int) -> Episode:
        """The episode of a seed; the same in every process."""
        ...

    def contents(self) -> Collection[str]:
        """Digests of all its texts (`texts.row_digests`)."""
        ...

    def digest(self) -> str:
        """sha256 of everything that decides what is drawn, but the seed."""
        ...


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A task with the rows of its classes, found once."""

    task: Task

    @property
    def size(self) -> int:
        return len(self.task.examples)

    def contents(self) -> Collection[str]:
        return self._contents

    @cached_property
    def _contents(self) -> frozenset[str]:
        return frozenset(digest for example in self.task.examples for digest in row_digests(example))

    @cached_property
    def _rows(self) -> dict[str, episodes.Indices]:
        if self.task.kind != "classification":
            raise RequestError(
                f"Ways were to be drawn from {self.task.name}.", f"It is a {self.task.kind} task.",
                "Give tasks whose rows have one label each.",
            )  # fmt: skip
        return {name: np.array(own, dtype=np.int64) for name, own in episodes.distinct_rows(self.task).items()}


@dataclass(frozen=True, eq=False)
class Supervised(_Labelled):
    """N-way k-shot episodes of a labelled task: `ways` classes, `shots` rows of each as support, `query` as query.

    Both numbers are drawn anew for each episode, no larger than the task allows. A text that carries different labels
    is never drawn, and one that occurs twice only once. DataError where the smallest numbers cannot be drawn;
    RequestError for numbers out of range and for a task whose rows have not one label each.
    """

    ways: Bounds = (2, 8)
    shots: Bounds = (1, 8)
    query: int = 4

    def __post_init__(self) -> None:
        _ = self._most_shots

    @property
    def name(self) -> str:
        return self.task.name

    def draw(self, seed: int) -> Episode:
        rng = generator(seed, "supervised", self.name)
        shots = between(rng, bounds(self.shots, 1, "shots")[0], self._most_shots)
        rows = {name: own for name, own in self._rows.items() if len(own) >= shots + self.query}
        least, most = bounds(self.ways, 2, "ways")
        names = [list(rows)[i] for i in rng.choice(len(rows), between(rng, least, min(most, len(rows))), replace=False)]
        drawn = {name: rng.choice(rows[name], shots + self.query, replace=False).tolist() for name in names}
        return _episode(self.task, [(name, own[:shots], own[shots:]) for name, own in drawn.items()], rng)

    def digest(self) -> str:
        return digest_of("supervised", self.ways, self.shots, self.query, _task_digest(self.task))

    @cached_property
    def _most_shots(self) -> int:
        return _most_shots(self.task, self._rows, bounds(self.ways, 2, "ways")[0], self.shots, self.query)


@dataclass(frozen=True, eq=False)
class Grouped(_Labelled):
    """Several labelings of the same texts: each way is a union of `members` classes that are drawn for it.

    A random part of the classes is cut at random into `groups` ways, whose names are numbers. The rows of a way are
    spread over its classes as evenly as they can be, and each class of the query is in the support: what a way is can
    only be seen there. Errors as of `Supervised`; RequestError for fewer shots than members.
    """

    groups: Bounds = (2, 4)
    members: Bounds = (2, 4)
    shots: Bounds = (4, 8)
    query: int = 4

    def __post_init__(self) -> None:
        members, shots = bounds(self.members, 1, "members")[0], bounds(self.shots, 1, "shots")[0]
        if shots < members:
            raise RequestError(
                f"Ways of at least {members} classes each were to be drawn from {self.name}.",
                f"With {shots} shots a way, some of its classes would have none.",
                f"Ask for at least {members} shots, or for fewer members.",
            )
        _ = self._most_shots

    @property
    def name(self) -> str:
        return f"{self.task.name}, grouped"

    def draw(self, seed: int) -> Episode:
        rng = generator(seed, "grouped", self.name)
        shots = between(rng, bounds(self.shots, 1, "shots")[0], self._most_shots)
        rows = [own for own in self._rows.values() if len(own) >= shots + self.query]
        (fewest, most), (least, largest) = bounds(self.groups, 2, "groups"), bounds(self.members, 1, "members")
        groups = between(rng, fewest, min(most, len(rows) // least))
        sizes = [between(rng, least, min(largest, shots, len(rows) // groups)) for _ in range(groups)]
        chosen = rng.choice(len(rows), sum(sizes), replace=False).tolist()
        ways = [[rows[chosen.pop()] for _ in range(size)] for size in sizes]
        parts = [(str(way), *_spread(members, shots, self.query, rng)) for way, members in enumerate(ways)]
        return _episode(replace(self.task, name=self.name), parts, rng, rename=True)

    def digest(self) -> str:
        asked = self.groups, self.members, self.shots, self.query
        return digest_of("grouped", *asked, _task_digest(self.task))

    @cached_property
    def _most_shots(self) -> int:
        classes = bounds(self.groups, 2, "groups")[0] * bounds(self.members, 1, "members")[0]
        return _most_shots(self.task, self._rows, classes, self.shots, self.query)


@dataclass(frozen=True, eq=False)
class Sentences(_Labelled):
    """Episodes of a tagging task: `shots` sentences as support and `query` others, each drawn as often.

    Tags keep their order: languages that have the same ones (the suite `ner3`) can share a head. DataError for fewer
    sentences.
    """

    shots: int = 16
    query: int = 16

    def __post_init__(self) -> None:
        if self.size < self.shots + self.query:
            raise DataError(
                f"Episodes of {self.shots} and {self.query} sentences of {self.name} were asked for.",
                f"It has {self.size}.", "Ask for fewer, or leave the task out.",
            )  # fmt: skip

    @property
    def name(self) -> str:
        return self.task.name

    def draw(self, seed: int) -> Episode:
        rows = generator(seed, "sentences", self.name).choice(self.size, self.shots + self.query, replace=False)
        return Episode(*(episodes.subset(self.task, own) for own in (rows[: self.shots], rows[self.shots :])))

    def digest(self) -> str:
        return digest_of("sentences", self.shots, self.query, _task_digest(self.task))


@dataclass(frozen=True, eq=False)
class Mixture:
    """Draws a source, by its share, and then its episode. `shares` need not sum to one; None: `by_size`."""

    sources: Sequence[Source]
    shares: Sequence[float] | None = None
    name: str = "mixture"
    chances: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        shares = by_size(self.sources) if self.shares is None else list(self.shares)
        if len(shares) != len(self.sources) or not shares or not all(0 < share < float("inf") for share in shares):
            raise RequestError(
                f"{len(self.sources)} sources were to be mixed by the shares {shares}.",
                "That is not one number above 0 for each.", "Give each source a share, or none at all.",
            )  # fmt: skip
        object.__setattr__(self, "chances", tuple(share / sum(shares) for share in shares))

    @property
    def size(self) -> int:
        return sum(source.size for source in self.sources)

    def draw(self, seed: int) -> Episode:
        return self.sources[generator(seed, "mixture", self.name).choice(len(self.sources), p=self.chances)].draw(seed)

    def contents(self) -> Collection[str]:
        return frozenset[str]().union(*(source.contents() for source in self.sources))

    def digest(self) -> str:
        return digest_of("mixture", self.name, self.chances, [source.digest() for source in self.sources])


def by_size(sources: Sequence[Source], power: float = 0.5) -> list[float]:
    """Shares `~ size ** power`. Half a power is what the authors of Hybrid-SMLMT draw supervised sets by."""
    return episodes.mixture([source.size for source in sources], temperature=1 / power).tolist()


def bounds(number: Bounds, least: int, what: str) -> tuple[int, int]:
    """The smallest and the largest of a number. RequestError for what is below `least` or no whole number."""
    low, high = (number, number) if isinstance(number, int) else number
    if not least <= low <= high:
        raise RequestError(
            f"{low} to {high} {what} were asked for." if low != high else f"{low} {what} were asked for.",
            f"The smallest number of {what} is {least}." if low < least else "The first number is above the second.",
            f"Give {least} or more, or two such numbers in order.",
        )
    return low, high


def between(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, each as often."""
    return int(rng.integers(low, high + 1))


def _most_shots(task: Task, rows: Mapping[str, episodes.Indices], classes: int, shots: Bounds, query: int) -> int:
    """The largest number of shots for which the task has so many classes. DataError if that is below the smallest."""
    (fewest, most), _ = bounds(shots, 1, "shots"), bounds(query, 1, "query rows")
    counts = sorted(map(len, rows.values()), reverse=True)
    enough = sum(count >= fewest + query for count in counts)
    if enough < classes:
        largest = f"; the largest has {counts[0]}" if counts and not enough else ""
        raise DataError(
            f"Episodes of {classes} or more classes of {task.name} were asked for, with {fewest} or more shots and "
            f"{query} query rows each.",
            f"{enough} of its {len(counts)} classes have the {fewest + query} different texts that it takes{largest}.",
            "Ask for fewer ways, shots or query rows, or leave the task out.",
        )
    return min(most, counts[classes - 1] - query)


def _spread(
    members: Sequence[episodes.Indices], shots: int, query: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Rows of several classes as support and query, as evenly as can be; a class with more of one has less of both."""
    support, asked, last = list[int](), list[int](), len(members) - 1
    for i, rows in enumerate(members):
        count = shots // len(members) + (i < shots % len(members))
        drawn = rng.choice(rows, count + query // len(members) + (last - i < query % len(members)), replace=False)
        support += drawn[:count].tolist()
        asked += drawn[count:].tolist()
    return support, asked


def _episode(task: Task, parts: Sequence[_Part], rng: np.random.Generator, *, rename: bool = False) -> Episode:
    """The rows of each way, shuffled; the ways are in the order given. With `rename` the rows are labelled by them."""

    def side(drawn: Sequence[tuple[str, Example]]) -> Task:
        rows = [replace(example, label=name) if rename else example for name, example in drawn]
        return replace(task, examples=[rows[i] for i in rng.permutation(len(rows))], labels=labels)

    labels = tuple(name for name, _, _ in parts)
    support = [(name, task.examples[i]) for name, rows, _ in parts for i in rows]
    return Episode(side(support), side([(name, task.examples[i]) for name, _, rows in parts for i in rows]))


def _task_digest(task: Task) -> str:
    hashed = hashlib.sha256(digest_of(task.name, task.labels, task.kind, task.template).encode())
    for example in task.examples:
        hashed.update(repr((example.text, example.text_pair, example.label)).encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()
