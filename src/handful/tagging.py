"""Tags of words and the entities that they spell: schemes, spans, and F1 as seqeval counts it. Pure functions.

Every scheme is read leniently, as conlleval and seqeval's default do: an entity begins at B- (S-, U-), and also at an
I- (E-, L-) that follows nothing, or an entity of another type, or one that has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handful.types import Example, Task

OUTSIDE = "O"
UNTYPED = "_"
"""The type of an entity whose tags are a bare B and I."""
_BEGIN, _INSIDE, _END, _SINGLE = "B", "I", "EL", "SU"
LETTERS = frozenset(_BEGIN + _INSIDE + _END + _SINGLE)
"""What a tag may begin with: BIO (also IOB1), BIOES, BILOU."""


class Entity(NamedTuple):
    """Words `start` to `end` (exclusive) are an entity of a type."""

    type: str
    start: int
    end: int


def is_tag(tag: str) -> bool:
    """Whether it is O, or a letter of a known scheme, alone or with a hyphen and a type."""
    return tag == OUTSIDE or (tag[:1] in LETTERS and (len(tag) == 1 or (tag[1] == "-" and len(tag) > 2)))


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in order, whatever the scheme of its tags."""
    found: list[Entity] = []
    start, last, kind = 0, OUTSIDE, UNTYPED
    for i, tag in enumerate([*tags, OUTSIDE]):
        letter, own = tag[:1], tag[2:] or UNTYPED
        inside = last not in (OUTSIDE, *_END, *_SINGLE)  # an entity that may go on is open
        goes_on = inside and letter in (_INSIDE, *_END) and own == kind
        if last != OUTSIDE and not goes_on:
            found.append(Entity(kind, start, i))
        if letter != OUTSIDE and not goes_on:
            start = i
        last, kind = letter, own
    return found


def bio(tags: Sequence[str]) -> tuple[str, ...]:
    """The same entities as BIO tags: what is written as IOB1, BIOES or BILOU, or breaks the rules, is repaired."""
    return spelled(entities(tags), len(tags))


def spelled(found: Iterable[Entity], length: int) -> tuple[str, ...]:
    """BIO tags of `length` words that spell the given entities."""
    out = [OUTSIDE] * length
    for kind, start, end in found:
        out[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tuple(out)


def tag_set(kinds: Iterable[str]) -> tuple[str, ...]:
    """`Task.labels` of entity types: O, then B-X and I-X of each."""
    return (OUTSIDE, *(f"{letter}-{kind}" for kind in dict.fromkeys(kinds) for letter in "BI"))


def types_of(labels: Iterable[str]) -> tuple[str, ...]:
    """The entity types of a tag set, in its order."""
    return tuple(dict.fromkeys(label[2:] for label in labels if label != OUTSIDE))


def read_tags(best: Sequence[Sequence[int]], num_words: Sequence[int], labels: Sequence[str]) -> list[tuple[str, ...]]:
    """The tags of n sentences from the best label of each word `[n, W]`, repaired where they break the rules."""
    return [bio([labels[c] for c in row[:count]]) for row, count in zip(best, num_words, strict=True)]


def example_types(example: Example) -> tuple[str, ...]:
    """The type of each entity of a tagged example, so as often as it occurs; none of an example without tags."""
    return tuple(entity.type for entity in entities(example.label or ()))


def common(tasks: Sequence[Task], kinds: Iterable[str] | None = None) -> list[Task]:
    """Tagging tasks with one tag set: of the types `kinds`, or else those that all have; other entities become O."""
    first = types_of(tasks[0].labels)
    kept = tuple(kinds) if kinds is not None else tuple(k for k in first if all(_has(task, k) for task in tasks))
    return [restricted(task, kept) for task in tasks]


def restricted(task: Task, kinds: Sequence[str]) -> Task:
    """A tagging task of the given entity types, in this order; entities of other types become O."""

    def only(example: Example) -> Example:
        kept = [entity for entity in entities(example.label or ()) if entity.type in kinds]
        label = spelled(kept, len(example.words or ()))
        return Example(example.text, example.text_pair, label, example.words)

    return Task(task.name, [only(e) for e in task.examples], tag_set(kinds), task.kind, task.template)


def _has(task: Task, kind: str) -> bool:
    return f"B-{kind}" in task.labels


@dataclass(frozen=True)
class F1:
    """Entity F1, with precision and recall; `support` counts the true entities. 0 where there is nothing to divide."""

    f1: float
    precision: float
    recall: float
    support: int

    @staticmethod
    def of(right: float, said: float, true: float) -> F1:
        return F1(2 * right / max(said + true, 1), right / max(said, 1), right / max(true, 1), int(true))


def count(
    truth: Sequence[Sequence[str]], guess: Sequence[Sequence[str]], kinds: Sequence[str]
) -> NDArray[np.float64]:  # fmt: skip
    """`[n, K, 3]`: entities that are right, said and true, of each of n sentences and K types."""
    place = {kind: k for k, kind in enumerate(kinds)}
    out = np.zeros((len(truth), len(kinds), 3))
    for row, (true, said) in enumerate(zip(truth, guess, strict=True)):
        known, found = set(entities(true)), set(entities(said))
        for column, own in enumerate((known & found, found, known)):
            for entity in own:
                out[row, place[entity.type], column] += 1
    return out


def entity_f1(truth: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]) -> tuple[F1, Mapping[str, F1]]:
    """Micro F1 and that of each type, of the tags of n sentences: seqeval 1.2.2's, in its default mode."""
    kinds = sorted({entity.type for tags in (*truth, *guess) for entity in entities(tags)})
    totals = count(truth, guess, kinds).sum(0)
    return F1.of(*totals.sum(0).tolist()), {kind: F1.of(*own) for kind, own in zip(kinds, totals.tolist(), strict=True)}
