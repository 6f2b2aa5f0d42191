"""A table of arms on the same episodes: a row a task, and what one arm gains on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dev_tables import mean, shown
from handful.cells import Result
from handful.paired import compare
from handful.stats import Arm, by_arm


def arms_table(results: Sequence[Result], names: Mapping[Arm, str], k: int) -> list[str]:
    """Means with intervals over draws, at k shots, of the arms of `names` that have every episode of the first one.

    The last row is the first arm's gain on each, paired by draw.
    """
    cells = by_arm(r for r in results if r.cell.shots == k)
    first = next(iter(names))
    if first not in cells:
        return ["None yet.", ""]
    arms = [arm for arm in names if set(cells[first]) <= set(cells.get(arm, {}))]
    lines = ["| task | " + " | ".join(names[arm] for arm in arms) + " |", "| --- |" + " ---: |" * len(arms)]
    for task in sorted({place[0].task for place in cells[first]}):
        here = [mean({p: r for p, r in cells[arm].items() if p[0].task == task}) for arm in arms]
        lines.append(f"| {task} | " + " | ".join(here) + " |")
    same = {arm: {p: r for p, r in cells[arm].items() if p in cells[first]} for arm in arms}
    lines.append("| **mean** | " + " | ".join(f"**{mean(same[arm])}**" for arm in arms) + " |")
    gaps = [compare(results, first, arm, shots=k) if arm != first else None for arm in arms]
    said = [shown(gap.span, signed=True) if gap else "" for gap in gaps]
    return [*lines, f"| gain of {names[first]} | " + " | ".join(said) + " |", ""]
