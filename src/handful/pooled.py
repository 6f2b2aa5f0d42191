"""What the cells of an arm add up to: cost and what it buys, reliability, kept promises, confusion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handful.cells import Result
from handful.stats import Arm, TaskName, arm_of, clustered, grouped, score_of, scores, shared, task_of

QUERIES = 1000
"""Answers that are counted with the training where a cost has both."""
Measure = Literal["FLOPs", "seconds", "kilobytes"]
MEASURES: tuple[Measure, ...] = ("FLOPs", "seconds", "kilobytes")


@dataclass(frozen=True, slots=True)
class Point:
    """What an arm costs and reaches; `on_front`: no other arm is no dearer, no worse, and better in one of the two."""

    arm: Arm
    shots: int
    cost: float
    score: float
    on_front: bool


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of one tenth of confidence; `confidence` and `accuracy` are their means, 0..1."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """An arm's answers by confidence, of all its cells; `ece` of the pooled bins, `cell_ece` the mean of the cells'."""

    arm: Arm
    bins: tuple[Bin, ...]
    ece: float
    cell_ece: float
    answers: int
    cells: int


@dataclass(frozen=True, slots=True)
class Claims:
    """What fits said of their own accuracy, against the accuracy on rows they never saw.

    kept       fits whose interval held the measured accuracy, of `cells`; `low`, `high`: Wilson's interval of the
               share, as if the fits were independent of each other
    level      what the intervals promise
    width      mean width of the intervals; `bias`: mean claim minus measured
    """

    arm: Arm
    shots: int | None
    cells: int
    kept: int
    low: float
    high: float
    level: float
    width: float
    bias: float

    @property
    def share(self) -> float:
        return self.kept / self.cells


@dataclass(frozen=True, slots=True)
class Confusion:
    """Answers of an arm on a task, all its cells together: `counts[truth][answer]`; `hidden` classes are not shown."""

    task: TaskName
    arm: Arm
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    cells: int
    hidden: int = 0


def cost_of(result: Result, measure: Measure, queries: int = QUERIES) -> float | None:
    """What a cell cost: training and `queries` answers in FLOPs or seconds, or kilobytes on disk; None if unknown."""
    if result.outcome is None:
        return None
    cost, n = result.outcome.cost, result.outcome.measures.get("n")
    first, each, per = {
        "FLOPs": ("training_flops", "query_flops", 1),
        "seconds": ("fit_seconds", "query_seconds", n),
        "kilobytes": ("bytes", None, 1),
    }[measure]
    if first not in cost or not per or (each is not None and each not in cost):
        return None
    found = cost[first] / 1000 if each is None else cost[first] + queries * cost[each] / per
    return found if math.isfinite(found) else None


def front(results: Sequence[Result], measure: Measure, shots: int, *, queries: int = QUERIES) -> tuple[Point, ...]:
    """Cost and score of each arm at one number of shots over the episodes that all have, and which are on the front.

    An arm of which no cost is known is left out. Costs and scores are means as everywhere: each task counts the same.
    """
    found: list[tuple[Arm, float, float]] = []
    for arm, own in shared(r for r in results if r.cell.shots == shots).items():
        costs = {place: cost for place, r in own.items() if (cost := cost_of(r, measure, queries)) is not None}
        if costs:
            found.append((arm, clustered(grouped(costs)).value, clustered(grouped(scores(own))).value))

    def beaten(cost: float, score: float) -> bool:
        return any(c <= cost and s >= score and (c < cost or s > score) for _, c, s in found)

    points = [Point(arm, shots, cost, score, not beaten(cost, score)) for arm, cost, score in found]
    return tuple(sorted(points, key=lambda point: (point.cost, -point.score, point.arm)))


def reliability(results: Iterable[Result]) -> tuple[Reliability, ...]:
    """Of each arm that measured it. ECE: Guo et al. 2017, eq. 3."""
    found: list[Reliability] = []
    for arm, own in _measured(results, "reliability"):
        count, confidence, correct = (
            [sum(column) for column in zip(*(_column(measures, i) for measures in own), strict=True)] for i in range(3)
        )
        n = sum(count)
        if not n:
            continue
        filled = [(c, total, right) for c, total, right in zip(count, confidence, correct, strict=True) if c]
        bins = tuple(Bin(int(c), total / c, right / c) for c, total, right in filled)
        ece = sum(abs(total - right) for _, total, right in filled) / n
        own_ece = [measures["ece"] for measures in own if "ece" in measures]
        mean_ece = sum(own_ece) / len(own_ece) if own_ece else ece
        found.append(Reliability(arm, bins, ece, mean_ece, int(n), len(own)))
    return tuple(found)


def claims(results: Iterable[Result], *, by_shots: bool = False) -> tuple[Claims, ...]:
    """How often each arm's fits kept what they said of themselves; an arm that said nothing is left out."""
    from handful.estimate import wilson

    kept: dict[tuple[Arm, int | None], list[tuple[bool, float, float, float]]] = {}
    for result in results:
        if score_of(result) is None or result.outcome is None or result.outcome.estimate is None:
            continue
        said, measures = result.outcome.estimate, result.outcome.measures
        accuracy = measures.get("entity_f1", measures.get("accuracy"))  # what tagging tasks' estimates are of
        if accuracy is not None:
            row = (said["low"] <= accuracy <= said["high"], said["high"] - said["low"], said["value"] - accuracy, said["level"])  # fmt: skip  # noqa: E501
            kept.setdefault((arm_of(result), result.cell.shots if by_shots else None), []).append(row)
    found: list[Claims] = []
    for (arm, shots), rows in sorted(kept.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        n, hits = len(rows), sum(row[0] for row in rows)
        width, bias, level = (round(math.fsum(row[i] for row in rows) / n, 9) for i in (1, 2, 3))
        low, high = wilson(hits / n, n)
        found.append(Claims(arm, shots, n, hits, low, high, level, width, bias))
    return tuple(found)


def confusions(results: Iterable[Result], arm: Arm, shots: int | None = None, most: int = 20) -> tuple[Confusion, ...]:
    """Of each task, an arm's answers by true class, summed over its cells.

    most  so many classes are shown: those with the most errors, as truth or answer, in the task's own order
    """
    tables: dict[TaskName, Counter[tuple[str, str]]] = {}
    names: dict[TaskName, dict[str, None]] = {}
    cells: Counter[TaskName] = Counter()
    for result in results:
        if arm_of(result) != arm or score_of(result) is None or (shots is not None and result.cell.shots != shots):
            continue
        assert result.outcome is not None
        if found := result.outcome.measures.get("confusion"):
            task, labels = task_of(result), found["labels"]
            names.setdefault(task, {}).update(dict.fromkeys(labels))
            tables.setdefault(task, Counter()).update({(labels[t], labels[a]): n for t, a, n in found["counts"]})
            cells[task] += 1
    return tuple(_confusion(task, arm, list(names[task]), tables[task], cells[task], most) for task in sorted(tables))


def _confusion(
    task: TaskName, arm: Arm, labels: list[str], table: Counter[tuple[str, str]], cells: int, most: int
) -> Confusion:
    errors: Counter[str] = Counter()
    for (truth, answer), n in table.items():
        if truth != answer:
            errors[truth] += n
            errors[answer] += n
    worst = sorted(range(len(labels)), key=lambda i: (-errors[labels[i]], i))[:most]
    shown = [labels[i] for i in sorted(worst)]
    counts = tuple(tuple(table[truth, answer] for answer in shown) for truth in shown)
    return Confusion(task, arm, tuple(shown), counts, cells, len(labels) - len(shown))


def _measured(results: Iterable[Result], name: str) -> Iterator[tuple[Arm, list[dict[str, Any]]]]:
    """Measures of each arm's scored cells that have the one called `name`."""
    found: dict[Arm, list[dict[str, Any]]] = {}
    for result in results:
        if score_of(result) is not None and result.outcome is not None and name in result.outcome.measures:
            found.setdefault(arm_of(result), []).append(dict(result.outcome.measures))
    yield from sorted(found.items())


def _column(measures: dict[str, Any], i: int) -> list[float]:
    return [row[i] for row in measures["reliability"]]
