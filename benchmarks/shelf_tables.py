"""Tables of `benchmarks/shelf_table.py`: every method with the same search, beside full fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from dev_tables import mean, shown
from handful.cells import Result
from handful.paired import compare
from handful.recipes import parse, written
from handful.stats import Arm, by_arm, clustered, grouped, scores, step_sizes

SPEED, COSTS = (Path(__file__).parent / "results" / f"{name}.json" for name in ("shelf", "shelf_costs"))
REFERENCE = "full"
SHOTS = (16, 64)
PAIRS = (("compacter", "full"), ("compacter++", "full"), ("ia3", "full"), ("diff_pruning", "magnitude_pruning"),
         ("diff_pruning", "full"), ("magnitude_pruning", "sparse"), ("fish", "sparse"))  # fmt: skip
CHOSEN = ("lr", "num_folds", "steps")


def name_of(recipe: str) -> str:
    """A method without what was chosen or is the same for all."""
    name, options = parse(recipe)
    return written(name, {key: value for key, value in options.items() if key not in CHOSEN})


def table(results: Sequence[Result], k: int) -> list[str]:
    """A row a method, the most accurate first, on the episodes that all methods have."""
    cells = by_arm(r for r in results if r.cell.shots == k)
    if not cells:
        return ["None yet.", ""]
    most = max(map(len, cells.values()))
    whole = {arm: own for arm, own in cells.items() if len(own) == most}
    tasks = sorted({place[0].task for own in whole.values() for place in own})
    full = next((arm for arm in whole if name_of(arm.recipe) == REFERENCE), None)
    heads = ["method", "rate", *tasks, "mean", "- full", "trained", "share", "CPU s a fit", "step / LoRA's", "MB", "kB"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    means = {arm: clustered(grouped(scores(own)), steps=step_sizes(own)) for arm, own in whole.items()}
    for arm in sorted(means, key=lambda arm: -means[arm].value):
        each = [mean({p: r for p, r in whole[arm].items() if p[0].task == task}) for task in tasks]
        gap = compare(results, arm, full, shots=k) if full and arm != full else None
        rate = f"{parse(arm.recipe)[1]['lr']:g}"
        row = [f"`{name_of(arm.recipe)}`", rate, *each, shown(means[arm]), shown(gap.span, signed=True) if gap else ""]
        lines.append("| " + " | ".join([*row, *_costs(arm, list(whole[arm].values()))]) + " |")
    short = [name_of(arm.recipe) for arm in cells if arm not in whole]
    return [*lines, "", *([f"Not whole, so left out: {', '.join(short)}.", ""] if short else [])]


def pairs(results: Sequence[Result]) -> list[str]:
    """Paired differences between methods, by seed, at each number of shots."""
    shots = sorted({r.cell.shots for r in results})
    arms = {name_of(arm.recipe): arm for arm in by_arm(results)}
    lines = ["| difference | " + " | ".join(f"k = {k}" for k in shots) + " | trained |"]
    lines.append("| --- |" + " ---: |" * (len(shots) + 1))
    for first, second in PAIRS:
        if first in arms and second in arms:
            found = [compare(results, arms[first], arms[second], shots=k) for k in shots]
            said = [shown(c.span, signed=True) if c else "-" for c in found]
            ratio = _trained(results, arms[first]) / _trained(results, arms[second])
            lines.append(f"| `{first}` - `{second}` | " + " | ".join(said) + f" | {ratio:.2%} of it |")
    return [*lines, ""]


def speed() -> list[str]:
    """The figures of `benchmarks/shelf.py`."""
    if not SPEED.is_file():
        return ["Not measured yet.", ""]
    found = json.loads(SPEED.read_text(encoding="utf-8"))
    lines = ["| figure | measured | quartiles | target |", "| --- | ---: | ---: | ---: |"]
    for figure in found["figures"]:
        wall, target = figure["wall"], figure["target"]
        said = "" if target is None else f"at most {target:g}: {'reached' if figure['reached'] else '**missed**'}"
        lines.append(f"| {figure['name']} | {wall['value']:.2f} | {wall['low']:.2f} to {wall['high']:.2f} | {said} |")
    return [*lines, ""]


def _costs(arm: Arm, results: Sequence[Result]) -> list[str]:
    costs = [r.outcome.cost for r in results if r.outcome and r.outcome.cost]
    trained, backbone = costs[0]["method_parameters"], costs[0]["backbone_parameters"]
    seconds, size = (median(cost[name] for cost in costs) for name in ("fit_cpu_seconds", "bytes"))
    details = json.loads(COSTS.read_text(encoding="utf-8"))["details"] if COSTS.is_file() else {}
    name = parse(arm.recipe)[0]
    step, memory = details.get("over_lora", {}).get(name), details.get("megabytes", {}).get(name)
    said = [f"{trained:,}", f"{trained / backbone:.3%}", f"{seconds:.1f}"]
    return [*said, f"{step:.2f}" if step else "-", f"{memory:.0f}" if memory else "-", f"{size / 1000:.0f}"]


def _trained(results: Sequence[Result], arm: Arm) -> float:
    return next(r.outcome.cost["method_parameters"] for r in by_arm(results)[arm].values() if r.outcome)
