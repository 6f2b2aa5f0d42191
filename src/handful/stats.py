"""What a grid of results says: which cells are there, means with intervals, curves over shots, costs.

An arm is a recipe on a backbone. A mean counts each task the same, within it each number of shots, within that each
seed; arms are only compared on cells that all of them have. Intervals say how far the mean would move with other draws
of the examples: the tasks are taken as given, and so are the rows that are asked where a task has a test split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import NamedTuple

from handful.cells import DONE, FAILED, Result

LEVEL = 0.9
"""Of every interval, unless said."""
ENOUGH = 0.5


class Arm(NamedTuple):
    """What is compared: a recipe, options included, on a backbone."""

    recipe: str
    backbone: str


class TaskName(NamedTuple):
    """A task of a suite, or of a user ("")."""

    suite: str
    task: str

    def __str__(self) -> str:
        return f"{self.suite}/{self.task}" if self.suite else self.task


@dataclass(frozen=True, slots=True)
class Span:
    """A value with its `level` interval; `low` and `high` are None where one seed leaves the noise unknown."""

    value: float
    low: float | None
    high: float | None
    level: float = LEVEL

    @property
    def half(self) -> float | None:
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def holds_zero(self) -> bool:
        """Whether zero is inside, so that the sign is not known; True where there is no interval."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


Place = tuple[TaskName, int, int]
"""Task, shots and seed: an episode."""
Group = tuple[TaskName, int]
"""Task and shots."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What was asked for and what of it is there.

    asked  cells on the list; `full` were all arms run on all tasks with all shots and seeds
    """

    arms: tuple[Arm, ...]
    tasks: tuple[TaskName, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    asked: int
    done: int
    failed: tuple[Result, ...]

    @property
    def full(self) -> int:
        return len(self.arms) * len(self.tasks) * len(self.shots) * len(self.seeds)

    @property
    def waiting(self) -> int:
        return self.asked - self.done - len(self.failed)


@dataclass(frozen=True, slots=True)
class Mean:
    """An arm's mean score over `cells` cells of `tasks` tasks; `shots` None: over all shots.

    quartiles  of the means of its seeds, the median in the middle
    """

    arm: Arm
    shots: int | None
    span: Span
    quartiles: tuple[float, float, float]
    cells: int
    tasks: int
    seeds: int


@dataclass(frozen=True, slots=True)
class Curve:
    """An arm's means over the shots, all of the same tasks."""

    arm: Arm
    points: tuple[Mean, ...]


def arm_of(result: Result) -> Arm:
    return Arm(result.cell.recipe, result.cell.backbone)


def task_of(result: Result) -> TaskName:
    return TaskName(result.cell.suite, result.cell.task)


def score_of(result: Result) -> float | None:
    """A cell's score; None unless it is done and the score a finite number."""
    score = result.outcome.score if result.outcome is not None and result.status == DONE else None
    return score if score is not None and math.isfinite(score) else None


def grid(results: Iterable[Result]) -> Grid:
    """What the results cover, in sorted order."""
    listed = list(results)
    return Grid(
        arms=tuple(sorted({arm_of(r) for r in listed})),
        tasks=tuple(sorted({task_of(r) for r in listed})),
        shots=tuple(sorted({r.cell.shots for r in listed})),
        seeds=tuple(sorted({r.cell.seed for r in listed})),
        metrics=tuple(sorted({r.cell.metric for r in listed})),
        asked=len(listed),
        done=sum(score_of(r) is not None for r in listed),
        failed=tuple(r for r in listed if r.status == FAILED),
    )


def by_arm(results: Iterable[Result]) -> dict[Arm, dict[Place, Result]]:
    """The cells that have a score, by arm and episode. An arm without any is left out."""
    found: dict[tuple[str, str], dict[Place, Result]] = {}
    names: dict[tuple[str, str], TaskName] = {}
    for result in results:
        cell = result.cell
        if score_of(result) is not None:
            own = found.setdefault((cell.recipe, cell.backbone), {})
            name = names.get((cell.suite, cell.task)) or names.setdefault((cell.suite, cell.task), task_of(result))
            own[name, cell.shots, cell.seed] = result
    return {Arm(*arm): own for arm, own in sorted(found.items(), key=lambda item: item[0])}


def left_out(results: Iterable[Result]) -> tuple[Arm, ...]:
    """Arms with fewer than `ENOUGH` of the fullest arm's cells: compared with the rest, they would leave too little."""
    listed = list(results)
    full = _full(by_arm(listed))
    return tuple(sorted({arm_of(r) for r in listed} - set(full)))


def shared(results: Iterable[Result]) -> dict[Arm, dict[Place, Result]]:
    """`by_arm`, of each arm only the episodes that all arms have, but for those that are `left_out`."""
    table = _full(by_arm(results))
    places = set[Place].intersection(*(set(own) for own in table.values())) if table else set[Place]()
    return {arm: {place: own[place] for place in own if place in places} for arm, own in table.items()}


def means(results: Sequence[Result], level: float = LEVEL) -> tuple[Mean, ...]:
    """Each arm's mean at each number of shots, over the episodes that all arms have there."""
    found: list[Mean] = []
    for shots in sorted({r.cell.shots for r in results}):
        table = shared(r for r in results if r.cell.shots == shots)
        found += [_mean(arm, shots, own, level) for arm, own in table.items() if own]
    return tuple(found)


def overall(results: Sequence[Result], level: float = LEVEL) -> tuple[Mean, ...]:
    """Each arm's mean over all shots, over the episodes that all arms have, the best first (ties by name)."""
    found = [_mean(arm, None, own, level) for arm, own in shared(results).items() if own]
    return tuple(sorted(found, key=lambda mean: (-mean.span.value, mean.arm)))


def curves(results: Sequence[Result], level: float = LEVEL) -> tuple[Curve, ...]:
    """Each arm's means over shots, on the tasks that all arms have at every number of shots; none if there are none."""
    table = shared(results)
    if not table:
        return ()
    shots = sorted({place[1] for place in next(iter(table.values()))})
    seen: dict[TaskName, set[int]] = {}
    for task, k, _ in next(iter(table.values())):
        seen.setdefault(task, set()).add(k)
    whole = {task for task, own in seen.items() if len(own) == len(shots)}
    found: list[Curve] = []
    for arm, own in table.items():
        kept = {place: result for place, result in own.items() if place[0] in whole}
        parts = [{place: r for place, r in kept.items() if place[1] == k} for k in shots]
        found.append(
            Curve(arm, tuple(_mean(arm, k, part, level) for k, part in zip(shots, parts, strict=True) if part))
        )
    return tuple(curve for curve in found if curve.points)


def clustered(
    groups: Mapping[Group, Mapping[int, float]], level: float = LEVEL, steps: Mapping[Group, float] | None = None
) -> Span:
    """Mean over tasks of means over shots of means over seeds, with its t interval over seeds.

    With w_g the weight of a group g (task, shots) of n_g seeds, seed s moves the mean by
    u_s = sum_g w_g (x_gs - x_g) / n_g, whose variance is S / (S - 1) sum_s u_s^2 with S - 1 degrees of freedom: the
    cluster-robust variance of Liang and Zeger (1986; with the small-sample factor and the t of Cameron and Miller 2015,
    section VI). If every group has every seed, this is the t interval of the seeds' own means, to the digit. Seeds may
    so act on all tasks at once, as equal initial parameters do.

    steps  by which a value of a group can change, one answer of n being 1/n: the variance is not taken for smaller
           than that of rounding to it (step^2 / 12 a value), or two seeds that agree by chance would leave no noise

    A group of one seed shows no noise; it is taken to be as noisy as the rest. Without any of two there is no interval.
    """
    if not groups:
        raise ValueError("clustered: there is no value")
    value = sum(weight * _average(groups[g].values()) for g, weight in _weights(groups).items())
    known = {g: own for g, own in groups.items() if len(own) > 1}
    seeds = {seed for own in known.values() for seed in own}
    if not known:
        return Span(value, None, None, level)
    moves = dict.fromkeys(seeds, 0.0)
    for g, weight in _weights(known).items():
        own, centre = known[g], _average(known[g].values())
        for seed, x in own.items():
            moves[seed] += weight * (x - centre) / len(own)
    size = len(seeds)
    variance = max(size / (size - 1) * sum(u * u for u in moves.values()), rounding(known, steps or {}))
    return t_span(value, math.sqrt(variance), size - 1, level)


def rounding(groups: Mapping[Group, Mapping[int, float]], steps: Mapping[Group, float]) -> float:
    """Variance that rounding each value to a multiple of its group's step brings into the mean."""
    return sum(w**2 / len(groups[g]) * steps.get(g, 0.0) ** 2 / 12 for g, w in _weights(groups).items())


def t_span(value: float, error: float, freedom: int, level: float = LEVEL) -> Span:
    """The t interval of a value with a standard error of so many degrees of freedom."""
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    return Span(value, value - half, value + half, level)


def _full(table: dict[Arm, dict[Place, Result]]) -> dict[Arm, dict[Place, Result]]:
    most = max((len(own) for own in table.values()), default=0)
    return {arm: own for arm, own in table.items() if len(own) >= ENOUGH * most}


def _mean(arm: Arm, shots: int | None, cells: Mapping[Place, Result], level: float) -> Mean:
    groups, each = grouped(scores(cells)), list(seed_means(scores(cells)).values())
    low, middle, high = quantiles(each, n=4, method="inclusive") if each[1:] else each * 3
    span, tasks = clustered(groups, level, step_sizes(cells)), {task for task, _ in groups}
    return Mean(arm, shots, span, (low, middle, high), len(cells), len(tasks), len({place[2] for place in cells}))


def seed_means(values: Mapping[Place, float]) -> dict[int, float]:
    """Each seed's own mean, of the episodes that it has."""
    seeds = sorted({place[2] for place in values})
    return {s: clustered(grouped({p: x for p, x in values.items() if p[2] == s})).value for s in seeds}


def step_sizes(cells: Mapping[Place, Result]) -> dict[Group, float]:
    """The worth of one answer in each group, of its smallest test set."""
    found: dict[Group, float] = {}
    for (task, shots, _), result in cells.items():
        n = result.outcome.measures.get("n") if result.outcome else None
        found[task, shots] = max(found.get((task, shots), 0.0), 1 / n if n else 0.0)
    return found


def scores(cells: Mapping[Place, Result]) -> dict[Place, float]:
    return {place: score for place, result in cells.items() if (score := score_of(result)) is not None}


def grouped(values: Mapping[Place, float]) -> dict[Group, dict[int, float]]:
    found: dict[Group, dict[int, float]] = {}
    for (task, shots, seed), value in values.items():
        found.setdefault((task, shots), {})[seed] = value
    return found


def _weights(groups: Iterable[Group]) -> dict[Group, float]:
    """What a group counts in the mean: tasks the same, within a task its numbers of shots the same."""
    sizes: dict[TaskName, int] = {}
    listed = list(groups)
    for task, _ in listed:
        sizes[task] = sizes.get(task, 0) + 1
    return {(task, shots): 1 / (len(sizes) * sizes[task]) for task, shots in listed}


def _average(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)
