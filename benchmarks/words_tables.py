"""Tables of `benchmarks/words_arms.py`: tuning and in-context learning on the same rows, and what each costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from arms_tables import arms_table
from handful.cells import Result
from handful.recipes import parse, written
from handful.stats import Arm, Place, by_arm, overall
from words_arms import ARMS, BACKBONE, CHOICES, SHOTS

SPOKEN = Path(__file__).with_name("results") / "spoken.json"
NAMES = {written(*parse(recipe)): said for recipe, said in ARMS.items()}


def words_arms(results: Iterable[Result]) -> list[Result]:
    """Each cell under its backbone's and its prior's name, wherever their folders lay."""
    return [replace(r, cell=replace(r.cell, recipe=_recipe(r), backbone=Path(r.cell.backbone).name)) for r in results]


def _recipe(result: Result) -> str:
    name, options = parse(result.cell.recipe)
    return written(name, options | ({"prior": Path(str(options["prior"])).name} if "prior" in options else {}))


def words_table(results: Sequence[Result]) -> list[str]:
    """Accuracy of each task and arm; of arms that have every draw of the first one."""
    return arms_table(results, {Arm(recipe, BACKBONE): said for recipe, said in NAMES.items()}, SHOTS)


def words_quartiles(results: Sequence[Result]) -> list[str]:
    """Median and quartiles over draws, which is how T-Few's authors report, of what was tuned."""
    arms = {arm: own for arm, own in _ordered(results).items() if arm.recipe.startswith("tfew")}
    lines = ["| task | " + " | ".join(NAMES[arm.recipe] for arm in arms) + " |", "| --- |" + " ---: |" * len(arms)]
    for task in sorted({r.cell.task for r in results}):
        own = [_quartiles([r for r in cells.values() if r.cell.task == task]) for cells in arms.values()]
        lines.append(f"| {task} | " + " | ".join(own) + " |")
    return [*lines, ""]


def _ordered(results: Sequence[Result]) -> dict[Arm, dict[Place, Result]]:
    """The cells of each arm, in the order of `NAMES`."""
    table, arms = by_arm(results), [Arm(recipe, BACKBONE) for recipe in NAMES]
    return {arm: table[arm] for arm in arms if arm in table}


def _quartiles(results: Sequence[Result]) -> str:
    found = overall(results)
    low, middle, high = (100 * q for q in found[0].quartiles) if found else (0, 0, 0)
    return f"{middle:.0f} ({low:.0f} to {high:.0f})" if found else "-"


def words_chosen(results: Sequence[Result]) -> list[str]:
    """Mean accuracy of what was chosen among, on the draws that all of a choice have, the highest in bold."""
    lines = ["| | recipe | mean | tasks | draws |", "| --- | --- | ---: | ---: | ---: |"]
    for what, (tasks, _, recipes) in CHOICES.items():
        known = {written(*parse(recipe)): recipe for recipe in recipes}
        found = overall([r for r in results if r.cell.recipe in known and r.cell.task in tasks])
        for place, own in enumerate(found):
            said = f"{100 * own.span.value:.1f}"
            said = said if place else f"**{said}**"
            lines.append(
                f"| {'' if place else what} | `{known[own.arm.recipe]}` | {said} | {own.tasks} | {own.seeds} |"
            )
    return [*lines, ""]


def words_costs(results: Sequence[Result]) -> list[str]:
    """Means over cells of what an arm costs."""
    lines = [
        "| | GFLOP to train | GFLOP an answer | with the prompt kept | seconds a fit | kB a task |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for arm, cells in _ordered(results).items():
        found = [cell.outcome.cost for cell in cells.values() if cell.outcome]

        def of(name: str, scale: float, known: Sequence[dict[str, float]] = found) -> str:
            values = [float(cost[name]) for cost in known if name in cost]
            return f"{mean(values) / scale:,.1f}" if values else "-"

        said = [
            of("training_flops", 1e9), of("query_flops", 1e9), of("cached_query_flops", 1e9), of("fit_seconds", 1),
            of("bytes", 1e3),
        ]  # fmt: skip
        lines.append(f"| {NAMES[arm.recipe]} | " + " | ".join(said) + " |")
    return [*lines, ""]


def spoken() -> dict[str, Any]:
    """What `benchmarks/spoken.py` found, if it ran: accuracies in percent, the tuned one with its interval."""
    if not SPOKEN.is_file():
        return {}
    found = json.loads(SPOKEN.read_text(encoding="utf-8"))
    return {name.replace(", ", "_").replace("-", "_"): value for name, value in found.items()} | {
        "mean": mean(found["tuned"]), "half": (found["span"][1] - found["span"][0]) / 2
    }  # fmt: skip
