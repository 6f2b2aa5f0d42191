"""Claims of papers beside what was measured here: `results/claims.toml` -> one table a claim, with a verdict by rule.

A claim has figures, each of one kind:

    count    trained parameters of a method on a known shape (`handful.counting`); holds within `within` of `value`
    compare  mean paired difference of two arms of a store; see `verdict`
    missing  why it cannot be tested here

A claim's verdict is the weakest of its figures that could be tested.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from handful.cells import Result
from handful.counting import Check
from handful.paired import compare
from handful.stats import Arm
from handful.store import Store

RESULTS = Path(__file__).parents[1] / "results"
HOLDS, DIRECTION, FAILS, UNTESTED = "holds", "holds in direction", "does not hold", "not testable here"
STRENGTH = (FAILS, DIRECTION, HOLDS)


@dataclass(frozen=True)
class Line:
    """One figure of a claim: as published, as found here, and what it is made of."""

    what: str
    published: str
    ours: str
    interval: str
    basis: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    """A statement of a paper. `source` says where its figures stand and how they were read, `sheet` where it is noted.

    `setting` says how ours differs; seeds and sets stand at each figure.
    """

    id: str
    paper: str
    statement: str
    source: str
    figures: Sequence[Mapping[str, Any]]
    sheet: str = ""
    setting: str = ""
    backbone: str = ""
    command: str = ""
    lines: tuple[Line, ...] = field(default=())

    @property
    def verdict(self) -> str:
        found = [STRENGTH.index(line.verdict) for line in self.lines if line.verdict in STRENGTH]
        return STRENGTH[min(found)] if found else UNTESTED

    @property
    def in_part(self) -> bool:
        """Whether some figures could be tested and some not."""
        return self.verdict != UNTESTED and any(line.verdict == UNTESTED for line in self.lines)


def verdict(value: float, low: float | None, above: float = 0.0) -> str:
    """`value` should lie above `above`; `low` is the lower end of its interval, None if there is none."""
    if value <= above:
        return FAILS
    return HOLDS if low is not None and low > above else DIRECTION


@cache
def read(path: Path = RESULTS / "claims.toml") -> tuple[Claim, ...]:
    """The claims of a file, with their figures worked out."""
    said = tomllib.loads(path.read_text(encoding="utf-8"))
    claims = []
    for entry in said["claim"]:
        known = {name: value for name, value in entry.items() if name != "figure"}
        claim = Claim(**known, figures=entry["figure"])
        lines = tuple(_line(figure, path.parent) for figure in claim.figures)
        claims.append(Claim(**known, figures=entry["figure"], lines=lines))
    return tuple(claims)


@cache
def results_of(path: Path) -> tuple[Result, ...]:
    """The cells of a store; none where there is no such file."""
    return tuple(Store(path, create=False).results()) if path.is_file() else ()


def _line(figure: Mapping[str, Any], folder: Path) -> Line:
    what, published = figure["what"], figure["published"]
    if "missing" in figure:
        return Line(what, published, "-", "-", figure["missing"], UNTESTED)
    if "count" in figure:
        return _count_line(figure)
    return _compare_line(figure, folder)


def _count_line(figure: Mapping[str, Any]) -> Line:
    check = Check(figure["what"], **figure["count"])
    found = check.found()
    trained = found.trainable
    match figure.get("unit"):
        case None:
            ours, shown = float(trained), f"{trained:,}"
        case "percent":
            ours = 100 * found.share
            shown = f"{ours:.3f} % ({trained:,})"
        case "percent a task":
            ours = 100 * found.share / check.tasks
            shown = f"{ours:.3f} % ({trained:,} for {check.tasks})"
        case "MiB":
            ours = 4 * trained / 2**20
            shown = f"{ours:.2f} MiB ({trained:,} x 4 bytes)"
        case unit:
            raise ValueError(f"claims.toml: {figure['what']!r} has the unit {unit!r}, which is none")
    basis = f"shape of {check.backbone}" + (f", with {check.extra:,}: {check.extra_is}" if check.extra else "")
    held = HOLDS if abs(ours - figure["value"]) <= figure["within"] else FAILS
    return Line(figure["what"], figure["published"], shown, "exact", basis, held)


def _compare_line(figure: Mapping[str, Any], folder: Path) -> Line:
    asked = figure["compare"]
    backbones = asked.get("backbones", ["minilm", "minilm"])
    first, second = (Arm(asked[name], own) for name, own in zip(("first", "second"), backbones, strict=True))
    rows = [
        result for result in results_of(folder / f"{asked['store']}.sqlite")
        if result.cell.suite == asked["suite"] and result.cell.shots in asked["shots"]
        and result.cell.task in asked.get("tasks", [result.cell.task])
    ]  # fmt: skip
    found = compare(rows, first, second)
    shots = "k = " + ", ".join(map(str, asked["shots"]))
    if found is None:
        basis = f"no cells of both in results/{asked['store']}.sqlite yet"
        return Line(figure["what"], figure["published"], "-", "-", basis, UNTESTED)
    span, above = found.span, asked.get("above", 0.0)
    interval = "-" if span.low is None or span.high is None else f"{100 * span.low:+.1f} to {100 * span.high:+.1f}"
    sizes = {"set": found.tasks, "seed": found.seeds, "pair": found.pairs}
    sets, seeds, pairs = (f"{size} {name}{'' if size == 1 else 's'}" for name, size in sizes.items())
    basis = f"{sets}, {shots}, {seeds}, {pairs}; interval over {found.scope}"
    low = None if span.low is None else 100 * span.low
    ours = f"{100 * span.value:+.1f} points"
    return Line(
        figure["what"], figure["published"], ours, interval, basis, verdict(100 * span.value, low, above)
    )  # fmt: skip


def index_table(claims: Sequence[Claim]) -> list[str]:
    """A line a claim."""
    lines = ["| claim | of | verdict |", "| --- | --- | --- |"]
    for claim in claims:
        part = " (in part)" if claim.in_part else ""
        lines.append(f"| [`{claim.id}`](#{claim.id}) {claim.statement} | {claim.paper} | {claim.verdict}{part} |")
    return lines


def claim_table(claim: Claim) -> list[str]:
    """One claim with all that its verdict rests on."""
    noted = f" (../shared/systems/{claim.sheet})" if claim.sheet else ""
    notes = {"Source": f"{claim.paper}; {claim.source}{noted}", "Setting": claim.setting, "Backbone": claim.backbone}
    lines = [f"### {claim.id}", "", claim.statement, "", *(f"- {name}: {said}" for name, said in notes.items() if said)]
    lines += [f"- Command: `{claim.command}`"] if claim.command else []
    lines += ["", "| figure | published | ours | 90 % interval | made of | verdict |", "| --- " * 6 + "|"]
    lines += [
        f"| {line.what} | {line.published} | {line.ours} | {line.interval} | {line.basis} | {line.verdict} |"
        for line in claim.lines
    ]
    return [*lines, ""]
