"""The accuracy tables of docs/results.md, made from benchmarks/results/accuracy.jsonl.

    python benchmarks/accuracy_table.py [--check]

Rewrites what stands between the markers in docs/results.md; with --check says whether that would change anything.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from accuracy import RESULTS
from fewshot_sets import SETS
from handful.estimate import accuracy_interval

COVERAGE = RESULTS.with_name("coverage_default.jsonl")
CHOSEN_ON = ("banking77", "snips", "query_wellformedness")
CLASSES = {"banking77": 10, "clinc150": 10, "snips": 7, "fewrel_wiki": 16, "query_wellformedness": 2,
           "multiemo_hotels": 4, "multiemo_products": 4, "chatterbot_topics": 5}  # fmt: skip
DOCS = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- accuracy: made by benchmarks/accuracy_table.py -->", "<!-- end of accuracy -->"
ARMS = {
    "default": "handful default",
    "embedding-lr": "(a) embedding + LR",
    "peft-lora": "(b) peft LoRA",
    "tfidf-lr": "(c) TF-IDF + LR",
    "probe": "handful probe",
    "prototypes": "handful prototypes",
}
Cells = dict[tuple[str, str, int], dict[int, float]]


def interval(values: list[float]) -> str:
    """Mean and half width of the 90 % t interval over seeds, in points."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    half = stats.t.ppf(0.95, len(values) - 1) * 100 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:.1f} ± {half:.1f}"


def paired(cells: Cells, arm: str, other: str, name: str, k: int) -> list[float]:
    """Differences of `arm` and `other` on the seeds that both have."""
    ours, theirs = cells[arm, name, k], cells[other, name, k]
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def table(cells: Cells, arms: list[str], k: int) -> list[str]:
    """One table for k shots: a row a set, a column an arm, and the paired gap to the best peer."""
    peers = [arm for arm in ("embedding-lr", "peft-lora", "tfidf-lr") if arm in arms]
    lines = [
        f"### {k} examples a class",
        "",
        "| set | " + " | ".join(ARMS[arm] for arm in arms) + " | default - best peer |",
    ]
    lines.append("| --- |" + " ---: |" * (len(arms) + 1))
    for name in SETS:
        row = [interval(list(cells[arm, name, k].values())) if cells[arm, name, k] else "-" for arm in arms]
        gaps = [paired(cells, "default", peer, name, k) for peer in peers]
        worst = min((gap for gap in gaps if gap), key=lambda gap: float(np.mean(gap)), default=[])
        lines.append(f"| {name} | " + " | ".join(row) + f" | {interval(worst) if worst else '-'} |")
    means = []
    for arm in arms:
        own = [float(np.mean(list(cells[arm, name, k].values()))) for name in SETS if cells[arm, name, k]]
        means.append(f"**{100 * np.mean(own):.1f}**" if len(own) == len(SETS) else "-")
    lines.append("| **mean of sets** | " + " | ".join(means) + " | |")
    return [*lines, ""]


def summary(cells: Cells, arms: list[str], shots: list[int]) -> list[str]:
    """The paired gain of the default recipe over each arm: the mean over sets, with its interval over seeds."""
    lines = ["### Paired gain of the default recipe, mean over sets", ""]
    lines += [
        "| over | " + " | ".join(f"k = {k}" for k in shots) + " | seeds |",
        "| --- |" + " ---: |" * (len(shots) + 1),
    ]
    for arm in arms:
        if arm == "default":
            continue
        row, counts = [], []
        for k in shots:
            by_seed = defaultdict(list)
            for name in SETS:
                for seed in cells["default", name, k].keys() & cells[arm, name, k].keys():
                    by_seed[seed].append(cells["default", name, k][seed] - cells[arm, name, k][seed])
            whole = [float(np.mean(gaps)) for gaps in by_seed.values() if len(gaps) == len(SETS)]
            row.append(f"{'+' if np.mean(whole) > 0 else ''}{interval(whole)}" if whole else "-")
            counts.append(str(len(whole)))
        lines.append(f"| {ARMS[arm]} | " + " | ".join(row) + f" | {', '.join(counts)} |")
    return [*lines, ""]


def coverage() -> list[str]:
    """How often the default recipe's own 90 % interval held the accuracy on the test rows, over more seeds."""
    rows = [json.loads(line) for line in COVERAGE.open(encoding="utf-8")]
    inside: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        n, folds = row["shots"] * CLASSES[row["set"]], min(5, row["shots"])
        correct = np.arange(n) < round(row["estimate"]["value"] * n)
        found = accuracy_interval(correct, folds)
        held = found.low <= row["accuracy"] <= found.high
        half = "chosen on" if row["set"] in CHOSEN_ON else "judged on"
        for key in ("all", half, f"k = {row['shots']}", row["set"]):
            inside[key].append(held)
    gap = 100 * float(np.mean([row["estimate"]["value"] - row["accuracy"] for row in rows]))
    cells = "; ".join(f"{key} {np.mean(own):.1%} ({len(own)})" for key, own in inside.items())
    command = "python benchmarks/accuracy.py default --seeds 21 --results benchmarks/results/coverage_default.jsonl"
    return [
        f"The 90 % interval that a fit reports held the test accuracy in: {cells}.",
        f"The reported accuracy was on average {gap:+.1f} points from the measured one. Same draws, 21 seeds:",
        f"`{command}`.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    rows = [json.loads(line) for line in RESULTS.open(encoding="utf-8")]
    cells: Cells = defaultdict(dict)
    for row in rows:
        cells[row["arm"], row["set"], row["shots"]][row["seed"]] = row["accuracy"]
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    shots = sorted({row["shots"] for row in rows})
    made = summary(cells, arms, shots) + coverage()
    for k in shots:
        made += table(cells, arms, k)
    before = DOCS.read_text(encoding="utf-8")
    head, rest = before.split(START)
    after = head + START + "\n\n" + "\n".join(made) + END + rest.split(END)[1]
    if check:
        sys.exit(0 if after == before else "docs/results.md is not what benchmarks/results/accuracy.jsonl says")
    DOCS.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
