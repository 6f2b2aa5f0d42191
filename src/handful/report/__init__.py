"""A store of results as one self-contained page, as text, or as a table of cells."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from handful.cells import Result
from handful.console import write_whole
from handful.errors import RequestError
from handful.report.chapters import METHODS, facts, ran, ranking, results
from handful.report.comparisons import paired
from handful.report.document import Document, Figure, Panel, Table, as_csv, counted
from handful.report.evidence import confidence, costs, learning, promises
from handful.report.singles import mistakes, single_tasks
from handful.report.study import Study, clean
from handful.store import Store

Format = Literal["html", "markdown", "latex", "csv"]
SUFFIXES: dict[str, Format] = {".html": "html", ".htm": "html", ".md": "markdown", ".tex": "latex", ".csv": "csv"}
FIRST_ROWS = 25
"""Rows of the list of cells that the page shows at a time."""
_CELL = ("key", "suite", "task", "recipe", "backbone", "shots", "seed", "metric")
_MEASURES = ("n", "accuracy", "macro_f1", "f1", "matthews", "entity_f1", "log_loss", "brier", "ece")
_ESTIMATE = ("value", "low", "high", "level")
_COST = (
    "training_flops", "query_flops", "trained_parameters", "bytes", "fit_seconds", "fit_cpu_seconds", "query_seconds",
    "peak_memory_bytes",
)  # fmt: skip
_SHOWN = (
    "recipe", "backbone", "task", "shots", "seed", "status", "score", "estimate_low", "estimate_high", "training_flops",
    "fit_seconds", "error",
)  # fmt: skip
_KEY = 16
"""Digits of a key that the page's own list has: enough to find it in the store."""


def write_report(
    store_path: Path, out: Path, *, format: Format | None = None, baseline: str | None = None
) -> None:  # fmt: skip
    """Writes what the store at `store_path` says to `out`, whole or not at all; without `format` by its suffix.

    baseline  a recipe (or "RECIPE on BACKBONE") that all others are compared with; the one cheapest to train if None

    StoreError where nothing can be compared, RequestError for an unknown format or baseline, or without the packages
    of `handful[report]`, DataError if `out` cannot be written.
    """
    chosen = format or SUFFIXES.get(out.suffix.lower())
    if chosen is None:
        raise RequestError(
            f"A report was to be written to {out}.", f"{out.suffix or 'A name without a suffix'} is no known format.",
            f"Name a file that ends in {', '.join(SUFFIXES)}.",
        )  # fmt: skip
    if chosen == "html":
        _need("jinja2", "matplotlib")
    store = Store(store_path, create=False)
    found = store.results()
    if chosen == "csv":
        text = as_csv(csv_rows(found))
    else:
        study = Study.of(found, store.choices(), baseline)
        document = document_of(study)
        if chosen == "html":
            text = as_html(document, found)
        else:
            from handful.report import textreport

            text = textreport.markdown(document) if chosen == "markdown" else textreport.latex(document)
    with suppress(OSError):  # writing says what is wrong
        out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text)


def document_of(study: Study) -> Document:
    """Everything that a report says, in its order."""
    chapters = (
        ran(study), results(study), paired(study), ranking(study), learning(study), costs(study), confidence(study),
        promises(study), single_tasks(study), mistakes(study),
    )  # fmt: skip
    few = f"{counted(len(study.grid.arms), study.noun)} on {counted(len(study.grid.tasks), 'task')}"
    shots = study.grid.shots
    span = " to ".join(str(k) for k in dict.fromkeys((min(shots), max(shots)))) + " examples a class"
    return Document(
        f"{few}, {span}", study.answer(), study.warnings(), facts(study),
        tuple(chapter for chapter in chapters if chapter is not None), METHODS,
    )  # fmt: skip


def csv_rows(found: Sequence[Result]) -> list[tuple[object, ...]]:
    """Every cell with all plain values that are known of it, after a header; None for what is not known."""
    estimate = tuple("estimate" if name == "value" else f"estimate_{name}" for name in _ESTIMATE)
    head = (
        *_CELL,
        "status",
        "attempts",
        "ended",
        "score",
        *_MEASURES,
        *estimate,
        *_COST,
        "notes",
        "error",
        "made_with",
    )
    return [head, *(_csv_row(result) for result in found)]


def as_html(document: Document, found: Sequence[Result]) -> str:
    """The page: no network, no outside font, nothing that runs but its own script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from handful.report.svg import swatch

    environment = Environment(
        loader=PackageLoader("handful.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breaks"] = _breaks
    style, early, script = (_part(name) for name in ("report.css", "theme.js", "report.js"))
    cells = [
        tuple(str(value)[:_KEY] if i == 0 else value for i, value in enumerate(row)) for row in csv_rows(found)
    ]  # "key" is short enough
    return environment.get_template("report.html.j2").render(
        document=document,
        style=Markup(style),
        early=Markup(early),
        script=Markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src {_hash(early)} {_hash(script)}",
        cells=Markup(_packed(cells)),
        first=[[_shown(value) for value in _visible(cells[0], row)] for row in cells[1 : FIRST_ROWS + 1]],
        shown=_SHOWN,
        num_cells=len(found),
        kind=lambda block: type(block).__name__,
        swatch=lambda style: Markup(swatch(style)),
        drawing=_drawing,
        csv_link=_csv_link,
    )


def _drawing(figure: Figure, panel: Panel) -> Any:
    """A panel's SVG: for two widths where the figure is a wide one, else one that fits a phone."""
    from markupsafe import Markup, escape

    name = panel.title or figure.caption

    def labelled(wide: bool, kind: str) -> Markup:
        said = f'role="img" aria-label="{escape(name)}" aria-description="{escape(panel.description)}"'
        return Markup("<svg class='{}' {} {}").format(kind, Markup(said), Markup(panel.draw(wide)[len("<svg ") :]))

    return labelled(True, "wide") + labelled(False, "narrow") if figure.wide else labelled(False, "one")


def _breaks(name: str) -> Any:
    """A name that may be broken after the signs that part it."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([:/_])(?=[^:/_])", r"\1<wbr>", str(escape(name))))


def _csv_link(block: Table | Figure) -> str:
    rows = [[float(f"{v:.6g}") if isinstance(v, float) else v for v in row] for row in block.data]
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(as_csv(rows).encode()).decode()


def _csv_row(result: Result) -> tuple[object, ...]:
    outcome = result.outcome
    measures: Mapping[str, Any] = outcome.measures if outcome else {}
    estimate: Mapping[str, float] = (outcome.estimate or {}) if outcome else {}
    cost: Mapping[str, float] = outcome.cost if outcome else {}
    row = (
        *(getattr(result.cell, name) for name in _CELL),
        result.status,
        result.attempts,
        result.ended or None,
        outcome.score if outcome else None,
        *(measures.get(name) for name in _MEASURES),
        *(estimate.get(name) for name in _ESTIMATE),
        *(cost.get(name) for name in _COST),
        " | ".join(outcome.notes) if outcome else None,
        outcome.error if outcome else None,
        "; ".join(f"{name} {value}" for name, value in sorted(result.made_with.items())),
    )
    return tuple(None if isinstance(value, float) and not math.isfinite(value) else value for value in row)


def _packed(rows: Sequence[tuple[object, ...]]) -> str:
    """Rows after a header as JSON by columns, texts by number; safe inside a script element."""
    columns: list[Any] = []
    for column in zip(*rows[1:], strict=True) if len(rows) > 1 else ([] for _ in rows[0]):
        values = list(dict.fromkeys(column))
        if len(values) == 1 or (isinstance(values[-1], str) and len(values) * 2 < len(column)):
            place = {value: i for i, value in enumerate(values)}
            columns.append({"values": values, "at": [place[v] for v in column] if len(values) > 1 else None})
        else:
            columns.append(list(column))
    said = {"names": rows[0], "size": len(rows) - 1, "shown": _SHOWN, "page": FIRST_ROWS, "columns": columns}
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _visible(head: Sequence[object], row: Sequence[object]) -> list[object]:
    found = dict(zip(head, row, strict=True))
    return [found[name] for name in _SHOWN]


def _shown(value: object) -> str:
    """As the page's script writes it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3e}" if abs(value) >= 1e6 else f"{value:.3f}"
    return clean(str(value))


@cache
def _part(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8").strip()


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _need(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise RequestError(
            "A page was asked for.", f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed.",
            "Install them: pip install 'handful[report]'. Reports that end in .md, .tex and .csv need neither.",
        )  # fmt: skip
