"""Tables of `benchmarks/words_arms.py`: tuning and in-context learning on the same rows, and what each costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from arms_tables import arms_table
from handful.cells import Result
from handful.recipes import parse, written
from handful.stats import Arm, by_arm, overall
from words_arms import ARMS, SHOTS

BACKBONE = "smollm2"
NAMES = {written(*parse(recipe)): said for recipe, said in ARMS.items()}


def words_arms(results: Iterable[Result]) -> list[Result]:
    """Each cell under the backbone's name, wherever its folder lay."""
    return [replace(r, cell=replace(r.cell, backbone=Path(r.cell.backbone).name)) for r in results]


def words_table(results: Sequence[Result]) -> list[str]:
    """Accuracy of each task and arm; of arms that have every draw of the first one."""
    return arms_table(results, {Arm(recipe, BACKBONE): said for recipe, said in NAMES.items()}, SHOTS)


def words_quartiles(results: Sequence[Result]) -> list[str]:
    """Median and quartiles over draws, which is how T-Few's authors report."""
    arms = by_arm(r for r in results if r.cell.recipe in NAMES)
    lines = ["| task | " + " | ".join(NAMES[arm.recipe] for arm in arms) + " |", "| --- |" + " ---: |" * len(arms)]
    for task in sorted({r.cell.task for r in results}):
        own = [_quartiles([r for r in cells.values() if r.cell.task == task]) for cells in arms.values()]
        lines.append(f"| {task} | " + " | ".join(own) + " |")
    return [*lines, ""]


def _quartiles(results: Sequence[Result]) -> str:
    found = overall(results)
    low, middle, high = (100 * q for q in found[0].quartiles) if found else (0, 0, 0)
    return f"{middle:.0f} ({low:.0f} to {high:.0f})" if found else "-"


def words_costs(results: Sequence[Result]) -> list[str]:
    """Means over cells of what an arm costs."""
    lines = [
        "| | GFLOP to train | GFLOP an answer | with the prompt kept | seconds a fit | kB a task |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for arm, cells in by_arm(results).items():
        if arm.recipe not in NAMES or not cells:
            continue
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
