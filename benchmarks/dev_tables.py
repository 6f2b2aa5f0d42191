"""Tables of the development sets, from a store of `handful compare dev`: gains, each set, own estimates, costs.

All figures are points of accuracy; means count each set the same, and intervals are 90 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from handful.cells import FAILED, Result
from handful.paired import Comparison, compare
from handful.pooled import Claims, claims
from handful.stats import Arm, Place, Span, by_arm, clustered, grouped, scores, step_sizes
from handful.suites.dev import CHOSEN_ON, SUITE

REFERENCE = "default"
PEERS = ("embedding-lr", "peft-lora", "tfidf-lr")
MAIN = (REFERENCE, *PEERS, "probe", "prototypes")
NAMES = {
    "default": "handful default",
    "probe": "handful probe",
    "prototypes": "handful prototypes",
    "embedding-lr": "(a) embedding + LR",
    "peft-lora": "(b) peft LoRA",
    "tfidf-lr": "(c) TF-IDF + LR",
    "setfit": "(d) SetFit",
}
Cells = dict[Arm, dict[Place, Result]]


def own(results: Iterable[Result], backbone: str = "minilm") -> list[Result]:
    """The cells of the suite on one backbone."""
    return [r for r in results if r.cell.suite == SUITE.name and r.cell.backbone == backbone]


def of(results: Iterable[Result], recipes: Sequence[str], shots: int | None = None) -> Cells:
    """The cells of some arms with the suite's seeds, in that order; at one number of shots where one is given."""
    kept = (r for r in results if r.cell.seed < SUITE.seeds and shots in (None, r.cell.shots))
    found = by_arm(r for r in kept if r.cell.recipe in recipes)
    return dict(sorted(found.items(), key=lambda item: recipes.index(item[0].recipe)))


def named(arm: Arm) -> str:
    return NAMES.get(arm.recipe) or f"`{arm.recipe}`"


def marked(task: str) -> str:
    """A set's name, with a star where options were chosen on it."""
    return f"{task}*" if task in CHOSEN_ON else task


def shown(span: Span, signed: bool = False) -> str:
    """`88.7 ± 2.3`, in points."""
    value = f"{round(100 * span.value, 1) + 0.0:{'+' if signed else ''}.1f}"  # + 0.0: no minus zero
    return value if span.half is None else f"{value} ± {100 * span.half:.1f}"


def gains(results: Sequence[Result]) -> list[str]:
    """The reference against every other arm, at each number of shots: on all sets, and on those not chosen on."""
    chosen = ", ".join(CHOSEN_ON)
    judged = [r for r in results if r.cell.task not in CHOSEN_ON]
    return [
        "All eight sets:", "", *_gains(results),
        f"Only the sets that nothing was chosen on (not {chosen}):", "", *_gains(judged),
    ]  # fmt: skip


def summary(results: Sequence[Result]) -> list[str]:
    """What the tables say of the reference against the peers, by the intervals."""
    cells = of(results, (REFERENCE, *PEERS))
    rows = [result for places in cells.values() for result in places.values()]
    ahead, level, behind, lost = list[str](), list[str](), list[str](), list[str]()
    for arm in cells:
        if arm.recipe == REFERENCE:
            continue
        for k in sorted({r.cell.shots for r in rows}):
            found = compare(rows, Arm(REFERENCE, arm.backbone), arm, shots=k)
            if found is None:
                continue
            place = level if found.inside_noise else ahead if found.span.value > 0 else behind
            place.append(f"{named(arm)} at {k}")
            sets = [marked(d.unit.partition("/")[2]) for d in found.by_task if d.verdict == "loss"]
            lost += [f"{name} at {k} ({named(arm)})" for name in sets]
    said = {
        "Ahead in the mean over sets, the interval leaving zero out, of": ahead,
        "Inside the noise of": level,
        "Behind, the interval leaving zero out": behind,
        "Single sets on which a peer is ahead of it, the interval over seeds leaving zero out": lost,
    }
    return [f"- {what}: {', '.join(names) or 'none'}." for what, names in said.items()]


def _gains(results: Sequence[Result]) -> list[str]:
    shots = sorted({r.cell.shots for r in results})
    heads = ["gain of `default` over", *(f"k = {k}" for k in shots), "sets", "seeds", "pairs", "interval over"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(shots) + 3) + " --- |"]
    cells = of(results, MAIN)
    rows = [result for places in cells.values() for result in places.values()]
    for arm in cells:
        if arm.recipe == REFERENCE:
            continue
        found = [compare(rows, Arm(REFERENCE, arm.backbone), arm, shots=k) for k in shots]
        gaps = [shown(c.span, signed=True) if c else "-" for c in found]
        lines.append(f"| {named(arm)} | " + " | ".join([*gaps, *_basis(found)]) + " |")
    return [*lines, ""]


def _basis(found: Sequence[Comparison | None]) -> list[str]:
    """Sets, seeds, pairs and scope of comparisons; several where they differ between numbers of shots."""
    columns = ([str(getattr(c, name)) if c else "-" for c in found] for name in ("tasks", "seeds", "pairs", "scope"))
    return [column[0] if len(set(column)) == 1 else ", ".join(column) for column in columns]


def each_set(results: Sequence[Result], k: int, recipes: Sequence[str] = MAIN) -> list[str]:
    """One table for k shots: a row a set, a column an arm, and the gap of the reference to the best peer there.

    All arms are shown on the cells of the one that has fewest; one without half of the fullest's is named below.
    """
    table = of(results, recipes, k)
    most = max((len(places) for places in table.values()), default=0)
    short = {arm: places for arm, places in table.items() if 2 * len(places) < most}
    table = {arm: places for arm, places in table.items() if arm not in short}
    common = set[Place].intersection(*(set(places) for places in table.values())) if table else set[Place]()
    tasks = [task.name for task in SUITE.tasks if any(place[0].task == task.name for place in common)]
    lines = [
        "| set | " + " | ".join(map(named, table)) + " | default - best peer | seeds |",
        "| --- |" + " ---: |" * (len(table) + 2),
    ]
    for task in tasks:
        here = {arm: {p: r for p, r in own.items() if p in common and p[0].task == task} for arm, own in table.items()}
        seeds = len({seed for _, _, seed in next(iter(here.values()))})
        lines.append(f"| {marked(task)} | " + " | ".join([*map(mean, here.values()), _gap(here), str(seeds)]) + " |")
    whole = [f"**{100 * clustered(grouped(_scores(own, common))).value:.1f}**" for own in table.values() if common]
    lines.append("| **mean of sets** | " + " | ".join(whole) + " | | |")
    left = [f"- left out, with {len(places)} of {most} cells: {named(arm)}" for arm, places in short.items()]
    return [*lines, "", *left, ""] if left else [*lines, ""]


def _scores(cells: dict[Place, Result], common: set[Place]) -> dict[Place, float]:
    return scores({place: result for place, result in cells.items() if place in common})


def mean(cells: dict[Place, Result]) -> str:
    """Over tasks, with the interval over draws."""
    return shown(clustered(grouped(scores(cells)), steps=step_sizes(cells)))


def _gap(here: Cells) -> str:
    """The reference against the peer with the highest mean."""
    rows = [result for places in here.values() for result in places.values()]
    reference = next((arm for arm in here if arm.recipe == REFERENCE), None)
    peers = [arm for arm in here if arm.recipe in (*PEERS, "setfit")]
    if reference is None or not peers:
        return "-"
    gaps = [c for peer in peers if (c := compare(rows, reference, peer)) is not None]
    return shown(min(gaps, key=lambda c: c.span.value).span, signed=True)


def setfit(results: Sequence[Result], k: int) -> list[str]:
    """SetFit on the sets where it was run."""
    tasks = {r.cell.task for r in results if r.cell.recipe == "setfit"}
    rows = [r for r in results if r.cell.task in tasks]
    return each_set(rows, k, [REFERENCE, *PEERS, "setfit"]) if rows else ["None yet.", ""]


def coverage(results: Sequence[Result]) -> list[str]:
    """How often the reference's own interval held the accuracy on the test rows; all seeds that there are."""
    mine = [r for r in results if r.cell.recipe == REFERENCE]
    groups: dict[str, list[Result]] = {"all": mine}
    groups["chosen on *"] = [r for r in mine if r.cell.task in CHOSEN_ON]
    groups["not chosen on"] = [r for r in mine if r.cell.task not in CHOSEN_ON]
    for k in sorted({r.cell.shots for r in mine}):
        groups[f"k = {k}"] = [r for r in mine if r.cell.shots == k]
    for task in SUITE.tasks:
        groups[marked(task.name)] = [r for r in mine if r.cell.task == task.name]
    lines = [
        "| fits of | held | of | share | 90 % interval of the share | mean width | claim - measured |",
        "| --- |" + " ---: |" * 6,
    ]
    return [*lines, *(_kept(name, found) for name, rows in groups.items() for found in claims(rows)), ""]


def _kept(name: str, found: Claims) -> str:
    return (
        f"| {name} | {found.kept} | {found.cells} | {found.share:.1%} | {found.low:.1%} to {found.high:.1%} | "
        f"{100 * found.width:.1f} | {100 * found.bias:+.1f} |"
    )


def costs(results: Sequence[Result]) -> list[str]:
    """Medians over the sets of what a fit and an answer cost."""
    shots = sorted({r.cell.shots for r in results})
    lines = [
        "| arm | trained parameters | " + " | ".join(f"GFLOPs a fit, k = {k}" for k in shots)
        + " | MFLOPs an answer | cells |",
        "| --- |" + " ---: |" * (3 + len(shots)),
    ]  # fmt: skip
    for arm, places in of(results, [*MAIN, "setfit"]).items():
        cells = list(places.values())
        row = [
            _median(cells, "trained_parameters", 1),
            *(_median([r for r in cells if r.cell.shots == k], "training_flops", 1e9) for k in shots),
            _median(cells, "query_flops", 1e6),
            str(len(cells)),
        ]
        lines.append(f"| {named(arm)} | " + " | ".join(row) + " |")
    return [*lines, ""]


def _median(cells: Iterable[Result], name: str, unit: float) -> str:
    found = [r.outcome.cost[name] for r in cells if r.outcome is not None and name in r.outcome.cost]
    return f"{median(found) / unit:,.0f}" if found else "-"


def failed(results: Sequence[Result]) -> list[str]:
    """Cells that failed, told."""
    lost = [r.cell for r in results if r.status == FAILED]
    return [f"- failed: {cell.recipe} on {cell.task}, k = {cell.shots}, seed {cell.seed}" for cell in lost]
