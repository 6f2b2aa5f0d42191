"""The gist of a grid of results in plain words, and what every chapter of its report needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from handful.cells import Result
from handful.errors import RequestError, StoreError
from handful.paired import Comparison, against, compare
from handful.pooled import cost_of
from handful.report.document import counted, listed, numbered, percent, points, with_half, with_range
from handful.stats import LEVEL, Arm, Grid, Mean, TaskName, by_arm, grid, left_out, overall, task_of

METRICS = {
    "accuracy": "accuracy", "macro_f1": "macro-F1", "f1": "F1", "matthews": "Matthews correlation",
    "entity_f1": "entity F1",
}  # fmt: skip
_CONTROL = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233, 65534, 65535), "�")
_BIDI = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")


def clean(name: str) -> str:
    """A name without what would break, hide or turn around the text beside it."""
    return name.encode("utf-8", "replace").decode().translate(_CONTROL | _BIDI)


@dataclass(frozen=True)
class Study:
    """Results with what they are called and compared with.

    arms      those with enough cells, the best first; `out`: the rest
    baseline  the arm that a user asked for, or the one whose training is cheapest
    choices   recipe -> tasks that its options were chosen on
    """

    results: Sequence[Result]
    choices: Mapping[str, Sequence[str]]
    grid: Grid
    means: tuple[Mean, ...]
    baseline: Arm
    out: tuple[Arm, ...]
    level: float = LEVEL

    @classmethod
    def of(
        cls, results: Sequence[Result], choices: Mapping[str, Mapping[str, str]], baseline: str | None = None
    ) -> Study:  # fmt: skip
        """StoreError if nothing can be compared; RequestError for an unknown baseline."""
        found = grid(results)
        if not results:
            raise StoreError("A report was asked for.", "The store holds no cell.", "Run `handful compare` first.")
        if not found.done:
            errors = listed(list(dict.fromkeys(clean(_error(r)) for r in found.failed)), 3)
            said = f" ({errors})" if found.failed else ""
            raise StoreError(
                "A report was asked for.",
                f"None of the store's {counted(found.asked, 'cell')} is done; {len(found.failed)} failed{said}.",
                "Mend the cause, then `handful runs retry` and `handful compare`, or wait until some are done.",
            )
        means = overall(results)
        if not means:
            raise StoreError(
                "A report was asked for.", "No task, number of shots and seed is done for all recipes.",
                "Let `handful compare` finish the grid, or wait until it has more cells.",
            )  # fmt: skip
        chosen = {recipe: sorted(set(tasks.values())) for recipe, tasks in choices.items()}
        arms = [mean.arm for mean in means]
        return cls(results, chosen, found, means, _baseline(results, arms, baseline), left_out(results))

    @property
    def arms(self) -> tuple[Arm, ...]:
        return tuple(mean.arm for mean in self.means)

    @property
    def best(self) -> Arm:
        return self.means[0].arm

    @cached_property
    def kept(self) -> list[Result]:
        """The results of the arms that are compared."""
        kept = set(self.arms)
        return [r for r in self.results if Arm(r.cell.recipe, r.cell.backbone) in kept]

    @cached_property
    def lead(self) -> tuple[Comparison, ...]:
        """The best arm against each other one, in the order of `arms`."""
        return self.sorted(against(self.kept, self.best, self.level))

    @cached_property
    def tasks(self) -> tuple[TaskName, ...]:
        """The tasks that all compared arms have."""
        own = by_arm(self.kept)
        return tuple(sorted(set.intersection(*({place[0] for place in cells} for cells in own.values()))))

    @cached_property
    def shots(self) -> tuple[int, ...]:
        """The numbers of shots that all compared arms have."""
        own = by_arm(self.kept)
        return tuple(sorted(set.intersection(*({place[1] for place in cells} for cells in own.values()))))

    @cached_property
    def by_task(self) -> dict[TaskName, list[Result]]:
        """The results of the arms that are compared, of each task."""
        found: dict[TaskName, list[Result]] = {}
        for result in self.kept:
            found.setdefault(task_of(result), []).append(result)
        return dict(sorted(found.items()))

    def sorted(self, comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
        return tuple(sorted(comparisons, key=lambda c: self.arms.index(c.second)))

    @property
    def noun(self) -> str:
        """What the arms differ in."""
        recipes, backbones = {arm.recipe for arm in self.grid.arms}, {arm.backbone for arm in self.grid.arms}
        return "recipe" if len(backbones) == 1 else "backbone" if len(recipes) == 1 else "combination"

    def label(self, arm: Arm) -> str:
        parts = {"recipe": arm.recipe, "backbone": arm.backbone, "combination": f"{arm.recipe} \u00b7 {arm.backbone}"}
        return clean(parts[self.noun])

    def style(self, arm: Arm) -> int:
        """Colour, marker and line of an arm are the same in all figures."""
        return self.grid.arms.index(arm)

    def task(self, task: TaskName) -> str:
        return clean(str(task) if len({own.suite for own in self.grid.tasks}) > 1 else task.task)

    @property
    def measure(self) -> str:
        """What the scores are: "accuracy", or "score" where tasks have several."""
        return (
            METRICS.get(self.grid.metrics[0], clean(self.grid.metrics[0])) if len(self.grid.metrics) == 1 else "score"
        )

    @property
    def searched(self) -> str:
        """What is known of how options were chosen."""
        recipes = dict.fromkeys(arm.recipe for arm in self.grid.arms)
        known = {recipe: self.choices[recipe] for recipe in recipes if recipe in self.choices}
        if not known:
            return "no search of options is recorded"
        said = [f"options of {clean(r)} chosen on {listed([clean(t) for t in tasks])}" for r, tasks in known.items()]
        return "; ".join([*said, *(["no search is recorded for the others"] if len(known) < len(recipes) else [])])

    def basis(self, tasks: int, cells: int | None = None, note: str = "") -> str:
        """What a figure or table is made from; it stands with every one."""
        parts = [counted(tasks, "task"), f"{counted(len(self.grid.seeds), 'seed')} ({numbered(self.grid.seeds)})"]
        if cells is not None:
            parts.append(f"{cells:,} cells each" if cells != 1 else "1 cell each")
        return "; ".join([*parts, *([note] if note else []), self.searched])

    @property
    def examples(self) -> str:
        return f"{listed([str(k) for k in self.grid.shots], 12)} examples a class"

    @property
    def overlapping(self) -> dict[str, tuple[TaskName, ...]]:
        """recipe -> compared tasks that its options were chosen on."""
        found = {
            recipe: tuple(t for t in self.grid.tasks if {t.task, str(t), f"{t.suite}:{t.task}"} & set(tasks))
            for recipe, tasks in self.choices.items() if recipe in {arm.recipe for arm in self.arms}
        }  # fmt: skip
        return {recipe: tasks for recipe, tasks in found.items() if tasks}

    def answer(self) -> tuple[str, ...]:
        """A headline, then sentences: who is ahead of whom, by how much, and of what the intervals speak."""
        mean, best, comparisons = self.means[0], self.label(self.best), self.lead
        over = f"in the mean over {mean.tasks} tasks" if mean.tasks > 1 else f"on {self.task(self.tasks[0])}"
        reach = f"{best} reaches {with_half(mean.span)} % {self.measure} {over} with {self.examples}."
        if not comparisons:
            return f"{best}: {percent(mean.span.value)} % {self.measure}", reach, "There is nothing to compare it with."
        near, far = [c for c in comparisons if c.inside_noise], [c for c in comparisons if not c.inside_noise]
        if near and near[0].span.low is None:
            gaps = listed([f"{percent(c.span.value)} points above {self.label(c.second)}" for c in near], 3)
            head = f"{best} has the highest mean, but one seed leaves the noise unknown"
            return head, reach, f"It is {gaps}. Repeat with more seeds to know whether that would last."
        if not near:
            head = f"{best} is the best {self.noun}"
        elif not far:
            head = f"No {self.noun} is shown to be best"
        else:
            head = f"{listed([best, *(self.label(c.second) for c in near)], 4)} lead, and cannot be told apart"
        said = [reach]
        if near:
            gaps = listed([f"{self.label(c.second)} of {_reaching(c, points)}" for c in near], 3)
            one = len(near) == 1
            said.append(f"Its lead{'' if one else 's'} over {gaps} points {'is' if one else 'are'} inside the noise.")
        if far:
            gaps = listed([f"{self.label(c.second)} by {_reaching(c, percent)}" for c in far], 3)
            said.append(f"It is ahead of {gaps} points." if len(far) < 5 else f"It is ahead of {gaps}, all in points.")
        return head, *said, self._scope(comparisons), *self._cheapest([c.second for c in near])

    def warnings(self) -> tuple[str, ...]:
        """What takes from the answer."""
        grid, said = self.grid, list[str]()
        if grid.done < grid.asked:
            text = f"The grid is not complete: {grid.done:,} of {counted(grid.asked, 'cell')} are done"
            text += f", {len(grid.failed):,} failed" if grid.failed else ""
            text += f", {grid.waiting:,} have not run" if grid.waiting else ""
            used = sum(mean.cells for mean in self.means)
            said.append(f"{text}. Means compare the {used:,} cells that all {self.noun}s have.")
        elif grid.full > grid.asked:
            said.append(f"Not everything was run with everything: {grid.asked:,} of {grid.full:,} possible cells.")
        if self.out:
            few = listed([self.label(arm) for arm in self.out])
            said.append(f"Too few cells are done to compare {few} with the others.")
        for recipe, tasks in self.overlapping.items():
            names = listed([self.task(t) for t in tasks])
            said.append(
                f"Options of {clean(recipe)} were chosen on {names}, where its results flatter.{self._without()}"
            )
        if len(grid.metrics) > 1:
            names = listed([METRICS.get(name, clean(name)) for name in grid.metrics])
            said.append(f"The tasks' scores are different measures ({names}); means run over them as they are.")
        if len(grid.seeds) == 1:
            said.append("There is one seed: what would change with other examples is unknown.")
        return tuple(said)

    def _scope(self, comparisons: Sequence[Comparison]) -> str:
        level = f"{100 * self.level:.0f} %"
        what = {
            "tasks": "other tasks of this kind", "draws": "other draws of the examples, on the same tasks",
        }[comparisons[0].scope]  # fmt: skip
        both = f", all {len(comparisons)} together" if len(comparisons) > 1 else ""
        return f"In brackets are {level} intervals{both}; they speak for {what}."

    def _cheapest(self, near: Sequence[Arm]) -> tuple[str, ...]:
        """Which of the arms that cannot be told apart is the cheapest to train."""
        costs = {arm: cost for arm, cost in training(self.kept).items() if arm in (self.best, *near)}
        if not near or len(costs) < 1 + len(near) or min(costs.values()) <= 0:
            return ()
        cheap, dear = min(costs, key=lambda arm: (costs[arm], arm)), max(costs, key=lambda arm: (costs[arm], arm))
        times = costs[dear] / costs[cheap]
        more = f"{times:.{int(times < 10)}f} times as much"
        said = f"{self.label(cheap)} takes the least computation to train, {self.label(dear)} {more}"
        return (f"Of those inside the noise, {said}.",) if times >= 1.1 else ()

    def _without(self) -> str:
        """The comparison of the first two without the tasks that options were chosen on."""
        gone = {task for tasks in self.overlapping.values() for task in tasks}
        rest = [r for r in self.kept if task_of(r) not in gone]
        if len(self.arms) < 2 or not rest:
            return ""
        found = compare(rest, self.arms[0], self.arms[1], level=self.level)
        if found is None:
            return ""
        lead = f"{self.label(found.first)} over {self.label(found.second)}"
        return f" Without {'that task' if len(gone) == 1 else 'those tasks'}: {lead} {with_range(found.span)} points."


def _baseline(results: Sequence[Result], arms: Sequence[Arm], asked: str | None) -> Arm:
    if asked is not None:
        for arm in arms:
            if asked in (arm.recipe, f"{arm.recipe} on {arm.backbone}"):
                return arm
        raise RequestError(
            f"The baseline {asked!r} was asked for.", f"The report compares {listed([arm.recipe for arm in arms])}.",
            "Name one of them.",
        )  # fmt: skip
    costs = {arm: cost for arm, cost in training(results).items() if arm in arms}
    return min(costs, key=lambda arm: (costs[arm], arm)) if costs else arms[-1]


def training(results: Sequence[Result]) -> dict[Arm, float]:
    """Mean FLOPs of a training of each arm that knows them."""
    found: dict[Arm, float] = {}
    for arm, own in by_arm(results).items():
        known = [cost for r in own.values() if (cost := cost_of(r, "FLOPs", 0)) is not None]
        if known:
            found[arm] = sum(known) / len(known)
    return found


def _reaching(c: Comparison, written: Callable[[float], str]) -> str:
    return f"{written(c.span.value)} ({written(c.span.low or 0)} to {written(c.span.high or 0)})"


def _error(result: Result) -> str:
    return (result.outcome.error or "") if result.outcome else ""
