"""Two arms on the same episodes: differences with intervals, wins and losses, tests, ranks over many tasks.

Only episodes that both arms have count. Which interval a difference has depends on what there is to learn from:

    one task to 5 tasks    over seeds (`stats.clustered`): other draws of the examples, these tasks
    6 tasks or more        over tasks: t of the tasks' mean differences, other tasks of the kind. Nothing is assumed
                           of seeds and shots inside a task; with so few tasks t holds what it says where the
                           percentile bootstrap over tasks is too narrow (simulated in the tests)

A difference whose interval holds zero is inside the noise. A task is won or lost where its own interval over seeds
leaves zero out, and tied otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from handful.cells import Result
from handful.ranks import cliques, friedman, holm, midranks, nemenyi, sign_flips, wilcoxon
from handful.stats import (
    LEVEL,
    Arm,
    Group,
    Place,
    Span,
    TaskName,
    by_arm,
    clustered,
    grouped,
    overall,
    rounding,
    score_of,
    seed_means,
    shared,
    step_sizes,
    t_span,
)

MANY_TASKS = 6
"""From so many tasks on a difference is judged over tasks; Wilcoxon's test cannot reach 0.05 with fewer."""
MANY_SEEDS = 5
"""From so many seeds on their signs are tested; 4 could not reach 0.1."""
By = Literal["task", "shots", "seed", "episode"]


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second arm in one unit: a task, a number of shots, a seed, or an episode. `pairs` cells went in."""

    unit: str
    span: Span
    pairs: int

    @property
    def verdict(self) -> Literal["win", "tie", "loss"]:
        return "tie" if self.span.holds_zero else "win" if self.span.value > 0 else "loss"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms, first minus second.

    scope     what the interval speaks for: "tasks" (others of the kind) or "draws" (of examples, on these tasks)
    p         of no difference, two-sided, by `test`; None where there is too little for one. `holm`: corrected
    pairs     episodes that both have, `of` that either has
    """

    first: Arm
    second: Arm
    span: Span
    scope: Literal["tasks", "draws"]
    p: float | None
    test: str
    wins: int
    ties: int
    losses: int
    by_task: tuple[Difference, ...]
    pairs: int
    of: int
    tasks: int
    seeds: int
    holm: float | None = None

    @property
    def inside_noise(self) -> bool:
        return self.span.holds_zero


@dataclass(frozen=True, slots=True)
class Ranks:
    """Average ranks over tasks, 1 the best (Demsar 2006).

    friedman     p of the chi-square statistic; `iman`: of Iman and Davenport's F, which is less conservative
    critical     Nemenyi's critical difference at `1 - level`
    cliques      largest groups, of positions in `arms`, whose ranks lie closer than that
    """

    arms: tuple[Arm, ...]
    average: tuple[float, ...]
    tasks: int
    statistic: float
    friedman: float
    iman: float
    critical: float
    cliques: tuple[tuple[int, int], ...]
    level: float = LEVEL


def compare(
    results: Sequence[Result], first: Arm, second: Arm, *, shots: int | None = None, level: float = LEVEL,
    family: int = 1,
) -> Comparison | None:  # fmt: skip
    """First against second arm, over all shots or at one; None if they share no episode.

    family  so many comparisons shall all hold at once: each is made at 1 - (1 - level) / family (Bonferroni)
    """
    table = by_arm(r for r in results if shots is None or r.cell.shots == shots)
    return between(first, second, table.get(first, {}), table.get(second, {}), level, family)


def between(
    first: Arm, second: Arm, one: Mapping[Place, Result], other: Mapping[Place, Result], level: float = LEVEL,
    family: int = 1,
) -> Comparison | None:  # fmt: skip
    """`compare` of cells that are arranged already, as by `stats.by_arm`."""
    pairs = _differences(one, other)
    if not pairs:
        return None
    steps = _steps(one, other, pairs)
    own: dict[TaskName, dict[Place, float]] = {}
    for place, d in pairs.items():
        own.setdefault(place[0], {})[place] = d
    tasks = sorted(own)
    by_task = tuple(Difference(str(t), clustered(grouped(own[t]), level, steps), len(own[t])) for t in tasks)
    strict = 1 - (1 - level) / family
    over_tasks = len(tasks) >= MANY_TASKS
    values = [difference.span.value for difference in by_task]
    seeds = seed_means(pairs)
    p, test = (wilcoxon(values), "Wilcoxon signed-rank over tasks") if over_tasks else _signs(list(seeds.values()))
    verdicts = [difference.verdict for difference in by_task]
    span = _over_tasks(values, steps, pairs, strict) if over_tasks else clustered(grouped(pairs), strict, steps)
    return Comparison(
        first, second, span, "tasks" if over_tasks else "draws", p, test,
        verdicts.count("win"), verdicts.count("tie"), verdicts.count("loss"), by_task,
        pairs=len(pairs), of=len({*one, *other}), tasks=len(tasks), seeds=len({place[2] for place in pairs}),
    )  # fmt: skip


def against(results: Sequence[Result], reference: Arm, level: float = LEVEL) -> tuple[Comparison, ...]:
    """The reference against each other arm; the intervals hold together, the p values are Holm's as well.

    So the reference may be the one that turned out best (comparisons with the best need no more: Hsu 1981).
    """
    table = by_arm(results)
    mine, others = table.get(reference, {}), [arm for arm in table if arm != reference]
    found = [between(reference, arm, mine, table[arm], level, len(others)) for arm in others]
    known = [c for c in found if c is not None]
    fixed = holm([c.p for c in known])
    return tuple(replace(c, holm=p) for c, p in zip(known, fixed, strict=True))


def differences(
    results: Sequence[Result], first: Arm, second: Arm, by: By, level: float = LEVEL
) -> tuple[Difference, ...]:
    """First minus second arm in each task, number of shots, seed or episode; over seeds where a unit has several."""
    table = by_arm(results)
    one, other = table.get(first, {}), table.get(second, {})
    pairs = _differences(one, other)
    steps = _steps(one, other, pairs)
    units: dict[Place | TaskName | int, dict[Place, float]] = {}
    for place, d in sorted(pairs.items()):
        unit = {"task": place[0], "shots": place[1], "seed": place[2], "episode": place}[by]
        units.setdefault(unit, {})[place] = d
    return tuple(
        Difference(_named(unit), clustered(grouped(own), level, steps), len(own)) for unit, own in units.items()
    )


def ranks(results: Sequence[Result], level: float = LEVEL) -> Ranks | str:
    """Ranks of the arms over tasks, each task's score the mean over shots and seeds; or why there are none."""
    table = shared(results)
    tasks = sorted({place[0] for own in table.values() for place in own})
    n, k = len(tasks), len(table)
    if n < 5 or k < 3:
        return f"Ranks need at least 5 tasks and 3 to rank; there are {n} and {k}."
    rows = [[round(_task_mean(own, task), 12) for own in table.values()] for task in tasks]
    ranked = [midranks([-x for x in row]) for row in rows]
    average = [math.fsum(column) / n for column in zip(*ranked, strict=True)]
    order = sorted(range(k), key=lambda i: (average[i], list(table)[i]))
    statistic, p, iman = friedman(ranked)
    critical = nemenyi(k, n, level)
    best = tuple(average[i] for i in order)
    arms = tuple(list(table)[i] for i in order)
    return Ranks(arms, best, n, statistic, p, iman, critical, cliques(best, critical), level)


def best_arm(results: Sequence[Result]) -> Arm | None:
    """The arm of the highest mean on what all arms have; None if nothing is shared."""
    return next((mean.arm for mean in overall(results)), None)


def _differences(one: Mapping[Place, Result], other: Mapping[Place, Result]) -> dict[Place, float]:
    found: dict[Place, float] = {}
    for place in one:
        if place in other:
            a, b = score_of(one[place]), score_of(other[place])
            assert a is not None
            assert b is not None
            found[place] = a - b
    return found


def _steps(
    one: Mapping[Place, Result], other: Mapping[Place, Result], pairs: Mapping[Place, float]
) -> dict[Group, float]:
    """What one answer is worth in a difference: two roundings' worth of noise."""
    a, b = (step_sizes({place: own[place] for place in pairs}) for own in (one, other))
    return {group: math.hypot(a[group], b[group]) for group in a}


def _signs(values: Sequence[float]) -> tuple[float | None, str]:
    if len(values) < MANY_SEEDS:
        return None, f"none: fewer than {MANY_TASKS} tasks and {MANY_SEEDS} seeds"
    return sign_flips(values), "exact change of signs over seeds"


def _over_tasks(
    values: Sequence[float], steps: Mapping[Group, float], pairs: Mapping[Place, float], level: float
) -> Span:
    """t over tasks; no narrower than rounding to whole answers makes it."""
    n = len(values)
    centre = math.fsum(values) / n
    variance = math.fsum((v - centre) ** 2 for v in values) / (n - 1) / n
    return t_span(centre, math.sqrt(max(variance, rounding(grouped(pairs), steps))), n - 1, level)


def _task_mean(own: Mapping[Place, Result], task: TaskName) -> float:
    scores = {place: s for place, r in own.items() if place[0] == task and (s := score_of(r)) is not None}
    return clustered(grouped(scores)).value


def _named(unit: Place | TaskName | int) -> str:
    if isinstance(unit, int | TaskName):
        return str(unit)
    task, shots, seed = unit
    return f"{task}, {shots} shots, seed {seed}"
