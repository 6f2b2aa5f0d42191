"""Tables of `benchmarks/prior.py`: what a prior is worth on tasks of domains that it has not seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from arms_tables import arms_table
from dev_tables import mean, shown
from handful.cells import Result
from handful.folders import MANIFEST
from handful.paired import compare
from handful.stats import Arm, by_arm
from handful.suites import suite

SHIPPED = Path(__file__).parents[1] / "src" / "handful" / "priors" / "minilm"
WITH, WITHOUT, BEST = "default with prior", "default:prior=none", "embedding-lr"
PEERS = {BEST: "embedding + LR", "peft-lora": "peft LoRA", "setfit": "SetFit"}
NAMES = {WITH: "with prior", WITHOUT: "without"} | PEERS

RECALLED = {
    "airline": (55.0, 61.4, 62.2), "political_bias": (60.5, 61.7, 65.1), "political_message": (15.7, 18.0, 18.1),
    "rating_books": (54.9, 59.2, 61.0), "rating_dvd": (49.8, 53.3, 53.5), "rating_electronics": (51.7, 54.8, 58.7),
    "restaurant": (49.8, 63.0, 70.4), "scitail": (69.5, 75.0, 77.0), "sentiment_books": (82.5, 83.0, 83.3),
}  # fmt: skip
"""LEOPARD on BERT-base at 4, 8 and 16 a class, from memory (../shared/systems/meta-adapters.md, section 2.5)."""


def measured(results: Iterable[Result], others: Iterable[Result], of: str) -> list[Result]:
    """The cells of one suite, every prior as one arm; of `others`, stored before there was one, the peers' cells."""
    found = [_renamed(r) for r in results if r.cell.suite == of]
    places = {(r.cell.task, r.cell.shots, r.cell.seed) for r in found}
    have = {r.cell.recipe for r in found}
    more = [
        r for r in others if r.cell.recipe in set(PEERS) - have and r.cell.suite == of and r.cell.backbone == "minilm"
    ]
    return [*found, *(r for r in more if (r.cell.task, r.cell.shots, r.cell.seed) in places)]


def _renamed(result: Result) -> Result:
    recipe = result.cell.recipe
    recipe = WITHOUT if "none" in recipe else WITH if recipe.startswith("default") else recipe
    return replace(result, cell=replace(result.cell, recipe=recipe))


def each_task(results: Sequence[Result], k: int) -> list[str]:
    """A row a task, a column an arm that was run on all of them."""
    return arms_table(results, {_arm(name): said for name, said in NAMES.items()}, k)


def gains(results: Sequence[Result]) -> list[str]:
    """The default recipe with the prior over every other arm, on the tasks and draws that both have."""
    shots = sorted({r.cell.shots for r in results})
    lines = ["| gain of `default` with its prior over | " + " | ".join(f"k = {k}" for k in shots) + " | tasks |"]
    lines.append("| --- |" + " ---: |" * (len(shots) + 1))
    for other in list(NAMES)[1:]:
        found = [compare(results, _arm(WITH), _arm(other), shots=k) for k in shots]
        if not any(found):
            continue
        tasks = ", ".join(dict.fromkeys(str(c.tasks) for c in found if c))
        said = [shown(c.span, signed=True) if c else "-" for c in found]
        lines.append(f"| {NAMES[other]} | " + " | ".join(said) + f" | {tasks} |")
    return [*lines, ""]


def recalled(results: Sequence[Result]) -> list[str]:
    """What is recalled of LEOPARD's own table beside the default recipe here."""
    cells, shots = by_arm(results).get(_arm(WITH), {}), (4, 8, 16)
    lines = ["| task | " + " | ".join(f"recalled, k = {k} | here" for k in shots) + " |", "| --- |" + " ---: |" * 6]
    for task, theirs in RECALLED.items():
        ours = [{p: r for p, r in cells.items() if p[0].task == task and p[1] == k} for k in shots]
        if all(ours):
            said = (f"{value} | {mean(own)}" for value, own in zip(theirs, ours, strict=True))
            lines.append(f"| {task} | " + " | ".join(said) + " |")
    return [*lines, ""]


def worst(results: Sequence[Result]) -> str:
    """The largest mean loss of a task against logistic regression on the embedding."""
    found = [
        (difference.span.value, difference.unit.partition("/")[2], k)
        for k in sorted({r.cell.shots for r in results})
        if (c := compare(results, _arm(WITH), _arm(BEST), shots=k))
        for difference in c.by_task
    ]
    if not found:
        return "None yet."
    value, task, k = min(found)
    below = sum(own < -0.01 for own, _, _ in found)
    return (
        f"Of {len(found)} tasks and numbers of shots, {below} are more than 1 point below logistic regression on the "
        f"embedding; the worst is {task} at {k}, {100 * value:+.1f}."
    )


def cost() -> dict[str, int]:
    """What the shipped prior took, by its own manifest."""
    found = json.loads((SHIPPED / MANIFEST).read_text(encoding="utf-8"))["cost"]
    return {"episodes": found["episodes"], "minutes": round(found["seconds"] / 60)}


def missing(results: Sequence[Result], name: str) -> str:
    """Tasks of a suite without a cell."""
    have = {r.cell.task for r in results}
    return ", ".join(task.name for task in suite(name).tasks if task.name not in have) or "none"


def _arm(recipe: str) -> Arm:
    return Arm(recipe, "minilm")
