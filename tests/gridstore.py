"""Stores of made-up results that look like real ones, for tests and benchmarks of the report. No figure is measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handful.cells import Cell, Outcome, Result
from handful.store import Store

RECIPES = ("default", "lora:rank=4:steps=100", "ia3", "prototypes")
TASKS = (
    "banking77", "clinc150", "snips", "multiemo_en", "hotels_en", "products_en", "fewrel_plain", "wellformed",
)  # fmt: skip
CLASSES = {
    "banking77": 77, "clinc150": 150, "snips": 7, "multiemo_en": 4, "hotels_en": 4, "products_en": 4,
    "fewrel_plain": 64, "wellformed": 2,
}  # fmt: skip
VERSIONS = {"handful": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6", "device": "cpu"}


def build(
    path: Path, *, recipes: Sequence[str] = RECIPES, backbones: Sequence[str] = ("minilm",),
    tasks: Sequence[str] = TASKS, shots: Sequence[int] = (4, 16, 64), seeds: int = 5, rows: int = 400,
    failed: Sequence[tuple[str, str, int, int]] = (), suite: str = "intents", seed: int = 0,
) -> Store:  # fmt: skip
    """A store with every cell done, but for `failed` (recipe, task, shots, seed)."""
    store = Store(path)
    cells, outcomes = list[Cell](), list[Outcome]()
    for place in (
        (r, b, t, k, s) for r in recipes for b in backbones for t in tasks for k in shots for s in range(seeds)
    ):
        recipe, backbone, task, k, s = place
        cell = Cell("|".join(map(str, place)), recipe, backbone, suite, task, k, s)
        cells.append(cell)
        if (recipe, task, k, s) in failed:
            said = "DivergedError: The loss of 1 task is no longer finite. Use a smaller lr."
            outcomes.append(Outcome(cell.key, error=said, trace="Traceback (most recent call last): ..."))
        else:
            outcomes.append(outcome(cell, rows, random.Random(f"{place} {seed}"), recipes.index(recipe)))
    store.add(cells, VERSIONS)
    store.finish(outcomes)
    return store


def outcome(cell: Cell, rows: int, generator: random.Random, rank: int) -> Outcome:
    """A fit: better with more shots and an earlier recipe, harder with more classes."""
    classes = CLASSES.get(cell.task, 3)
    size = 1 if cell.backbone == "minilm" else 3
    quirk = random.Random(f"{cell.task} {rank}").gauss(0, 0.02)
    hard = 0.2 + 0.08 * classes**0.3 + random.Random(cell.task).uniform(0, 0.25)
    error = hard * (4 / cell.shots) ** (0.32 - 0.05 * rank) + 0.012 * rank - 0.03 * (size > 1)
    skill = min(0.99, max(0.02, 1 - error + quirk + generator.gauss(0, 0.05 / cell.shots**0.4)))
    sharp = (1.0, 1.25, 1.1, 0.75)[rank % 4]
    bins = [[0, 0.0, 0] for _ in range(10)]
    table: dict[tuple[int, int], int] = {}
    hits = 0
    for _ in range(rows):
        truth = generator.randrange(classes)
        p = min(0.999, max(0.05, generator.betavariate(8 * skill + 0.3, 8 * (1 - skill) + 0.3)))
        right = generator.random() < p
        hits += right
        near = (truth + generator.choice((-2, -1, 1, 1, 2))) % classes
        answer = truth if right else near if near != truth else (truth + 1) % classes
        table[truth, answer] = table.get((truth, answer), 0) + 1
        said = min(0.999, max(0.05, p**sharp))
        own = bins[min(int(said * 10), 9)]
        own[0], own[1], own[2] = own[0] + 1, round(own[1] + said, 6), own[2] + right
    share = hits / rows
    claimed = min(1.0, max(0.0, skill + generator.gauss(0, 0.25 / (cell.shots * min(classes, 10)) ** 0.5)))
    half = 0.5 / (cell.shots * min(classes, 10)) ** 0.5
    measures: dict[str, Any] = {
        "n": rows, "accuracy": share, "macro_f1": max(0.0, share - 0.01), "f1": share, "matthews": 2 * share - 1,
        "log_loss": 1.2 * (1 - share) + 0.1, "brier": 1 - share,
        "ece": sum(abs(c - h) for _, c, h in bins) / rows, "reliability": bins,
        "confusion": {
            "labels": [f"{cell.task} {i}" for i in range(classes)], "counts": [[*key, n] for key, n in table.items()],
        },
    }  # fmt: skip
    train = (3e12, 8e12, 7e12, 2e10)[rank % 4] * size * (cell.shots / 16) ** 0.6 * generator.uniform(0.9, 1.1)
    cost = {
        "training_flops": train, "query_flops": 1.1e9 * size * (1.0, 1.02, 1.0, 1.0)[rank % 4],
        "trained_parameters": (60_000, 74_000, 21_000, 3_000)[rank % 4],
        "method_parameters": (59_000, 73_000, 20_000, 2_000)[rank % 4], "backbone_parameters": 22_700_000 * size,
        "bytes": (250_000, 310_000, 92_000, 14_000)[rank % 4] + 1500 * classes,
        "fit_seconds": train / 4e11 + 0.05, "fit_cpu_seconds": train / 2e11 + 0.1, "query_seconds": rows * 0.004 * size,
        "peak_memory_bytes": 9e8,
    }  # fmt: skip
    estimate = {"value": claimed, "low": max(0.0, claimed - half), "high": min(1.0, claimed + half), "level": 0.9}
    notes = ("only 8 rows were held out: too few to say how good this is; label at least 20",) if cell.shots < 8 else ()
    return Outcome(cell.key, share, measures, None if rank == 3 else estimate, cost, notes)


def results(scores: dict[tuple[str, str, int, int], float | None], rows: int = 100) -> list[Result]:
    """Bare results from {(recipe, task, shots, seed): score}; None is a failed cell."""
    found = list[Result]()
    for (recipe, task, shots, seed), score in scores.items():
        cell = Cell(f"{recipe} {task} {shots} {seed}", recipe, "minilm", "", task, shots, seed)
        measures = {"n": rows, "accuracy": score}
        own = Outcome(cell.key, score, measures) if score is not None else Outcome(cell.key, error="RunError: no luck")
        found.append(Result(cell, "failed" if score is None else "done", own))
    return found
