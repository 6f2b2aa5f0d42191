"""All methods on the same tasks with the same search: the table of docs/results.md.

python benchmarks/shelf_table.py --data DIR --store results/shelf.sqlite [--jobs 2]

Every method gets three learning rates (its default times `FACTORS`) on `CHOSEN_ON`, 16 examples a class, one draw; the
best is reported on other tasks, `REPORTED_ON`, by `handful compare`, which from then on refuses the first ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from handful.recipes import parse, written
from handful.recipes.tune import RATES
from handful.store import Store
from handful.suites import suite

CHOSEN_ON, REPORTED_ON = ("dev/banking77", "dev/query_wellformedness"), ("dev/fewrel_wiki", "dev/multiemo_hotels")
SEEDS, STEPS = 5, 30
FACTORS = (0.3, 1.0, 3.0)
METHODS = (
    "full", "lora", "dora", "vera", "ia3", "ssf", "houlsby", "pfeiffer", "parallel", "compacter", "compacter++", "phm",
    "lowrank", "bitfit", "layernorm", "prompt", "prompt_mlp", "prefix", "prefix_mlp", "mam", "apt",
    "ladder", "last", "losa", "sparse", "magnitude_pruning", "diff_pruning", "diff_pruning:structured=false", "fish",
    "said:rank_one=true",
)  # fmt: skip
"""Intrinsic SAID in the form of T-Few: full Fastfood projections take minutes a fit on a CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--shots", default="16,64")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    asked = parser.parse_args()
    search = asked.store.with_stem(f"{asked.store.stem}-search")
    candidates = {name: [_recipe(name, factor) for factor in FACTORS] for name in asked.methods}
    _compare(asked, CHOSEN_ON, [own for each in candidates.values() for own in each], search, "16", 1)
    scores = defaultdict[str, list[float]](list)
    for result in Store(search).results():
        if result.outcome and result.outcome.score is not None:
            scores[result.cell.recipe].append(result.outcome.score)
    store = Store(asked.store)
    tasks = {own: pool.name for task in CHOSEN_ON for pool in suite(task).pools(asked.data) for own in pool.contents()}
    chosen = []
    for name, recipes in candidates.items():
        best = max(recipes, key=lambda recipe: fmean(scores[recipe]) if scores[recipe] else -1.0)
        print(f"{name}: {best}, {fmean(scores[best]):.1%} on the tasks it was chosen on", flush=True)
        store.choose(best, tasks, f"python benchmarks/shelf_table.py --methods {name}")
        chosen.append(best)
    _compare(asked, REPORTED_ON, chosen, asked.store, asked.shots, SEEDS)


def _recipe(name: str, factor: float) -> str:
    method, options = parse(name)
    rate = float(f"{factor * RATES.get(method, 2e-3):.3g}")
    return written(method, {**options, "lr": rate, "num_folds": 0, "steps": STEPS})


def _compare(
    asked: argparse.Namespace, tasks: tuple[str, ...], recipes: list[str], store: Path, shots: str, seeds: int
) -> None:  # fmt: skip
    command = [
        sys.executable, "-m", "handful", "compare", *tasks, "--data", str(asked.data), "--recipes", ",".join(recipes),
        "--shots", shots, "--seeds", str(seeds), "--store", str(store), "--jobs", str(asked.jobs),
    ]  # fmt: skip
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
