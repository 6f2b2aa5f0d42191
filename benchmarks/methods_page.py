"""docs/methods.md, made from the methods themselves, src/handful/counts.toml and results/methods.md.j2.

    python benchmarks/methods_page.py            rewrite docs/methods.md
    python benchmarks/methods_page.py --check    exit status 1 if that would change it

Needs nothing but the repository: shapes hold no weights. Says which row of counts.toml cannot be counted, or is not
what is published without saying why.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from handful.counting import DEFAULT, Check, Count, count, count_said
from handful.errors import HandfulError
from handful.methods import _BUILT_IN, methods
from handful.shapes import known, shape
from handful.types import CROSS_ATTENTION, FEED_FORWARD, LINEARS, NORMS, SELF_ATTENTION

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}
PLACES = {
    "all linear layers": LINEARS, "self-attention": SELF_ATTENTION, "cross-attention": CROSS_ATTENTION,
    "feed-forward": FEED_FORWARD, "all norms": NORMS,
}  # fmt: skip
"""Sets of roles that are told by one name."""
FORMULAS = {
    "mam": "those of `prefix` and of `parallel`",
    "sparse": "`floor(fraction d)` of the `d` covered entries",
    "fish": "`floor(fraction d)` of the `d` covered entries, after one look at all",
    "said": "`dimension`",
}
"""Of methods whose docstrings have no sentence for it."""


def page() -> tuple[str, list[str]]:
    """docs/methods.md, and what is wrong with the rows that it was made of."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    checked, problems = [], list[str]()
    for group in known()["group"]:
        lines = []
        for said in group["rows"]:
            line, problem = row(Check(**said))
            lines.append(line)
            problems += [f"{group['title']}: {said['what']} on {said['backbone']}: {problem}"] if problem else []
        checked.append({"title": group["title"], "source": group["source"], "rows": "\n".join(lines)})
    prose = Environment(
        loader=FileSystemLoader(ROOT / "results"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    made = prose.get_template("methods.md.j2").render(
        methods="\n".join(method_rows()), groups=checked, total=f"{shape(DEFAULT).num_parameters:,}",
        num_rows=sum(len(group["rows"]) for group in known()["group"]),
    )  # fmt: skip
    return made, problems


def method_rows() -> Iterator[str]:
    """A line for each method of the shelf."""
    for name in _BUILT_IN:
        kind: Any = methods()[name]
        found = count(shape(DEFAULT), kind())
        trained = f"{found.trainable:,}" + (f", kept {found.kept:,}" if found.kept is not None else "")
        cells = (
            f"`{name}`",
            where(kind().roles),
            FORMULAS.get(name) or formula(kind),
            trained,
            percent(found),
            kind.source,
        )
        yield f"| {' | '.join(cells)} |"


def where(roles: Iterable[str]) -> str:
    """The roles in words, those of a whole set by its name."""
    left, told = set(roles), list[str]()
    for name, whole in PLACES.items():
        if whole <= left:
            told.append(name)
            left -= whole
    return ", ".join([*told, *(f"`{role}`" for role in sorted(left))])


def formula(kind: Any) -> str:
    """What the docstring of a method, or of what it is a kind of, says of its parameters."""
    for own in kind.__mro__:
        text = " ".join((own.__doc__ or "").split())
        if said := re.search(
            r"(?:Parameters|Trained parameters|Trained)( (?:per|a) site)?[^:.]*: (.+?)\.(?: |$)", text
        ):
            return f"a site: {said[2]}" if said[1] else said[2]
    return "-"


def percent(found: Count) -> str:
    return f"{100 * found.share:.3f} %"


def row(check: Check) -> tuple[str, str]:
    """A line of a table of published counts, and what is wrong with it."""
    values = [f"{check.count:,}"] if check.count is not None else []
    notes = [f"{check.tasks} tasks"] if check.tasks > 1 else []
    notes += [f"`{check.once}` once"] if check.once else []
    notes += [f"with {check.extra:,}: {check.extra_is}"] if check.extra else []
    ours, equal, problem = list[str](), "-", ""
    if check.missing:
        notes = [check.missing]
    else:
        try:
            found = check.found()
        except HandfulError as error:
            problem = f"{check.spec} cannot be counted: {error.asked} {error.found[:200]}"
            equal = "**cannot be counted**"
        else:
            agreed = [check.count is None or found.trainable == check.count]
            ours = [f"{found.trainable:,}"]
            for printed in check.figures:
                said, same = figure(printed, found, check.tasks)
                ours += [said] if said != ours[0] else []
                agreed.append(same)
            equal = "yes" if all(agreed) else "no"
            if check.measure == "fraction":
                own = count_said(check.backbone, check.spec)
                notes.append(f"of what it covers here, no table of embeddings and no head, it keeps {kept_of(own):,}")
            notes += [check.why] if check.why else []
            problem = "" if all(agreed) or check.why else f"{', '.join(ours)} here, and no `why`"
            problem = problem or ("equal, and yet a `why`" if all(agreed) and check.why else "")
    spec = f"`{check.spec}`" if check.spec else check.measure if check.measure in ("backbone", "tensors") else "-"
    published = "; ".join([*check.figures, *values])
    cells = check.what, check.backbone, spec, published, "; ".join(ours) or "-", equal, "; ".join(notes)
    return f"| {' | '.join(cells)} |", problem


def kept_of(found: Count) -> int:
    return found.trainable if found.kept is None else found.kept


def figure(printed: str, found: Count, tasks: int) -> tuple[str, bool]:
    """Ours as the paper prints it with a digit more, and whether the two are less than its last digit apart."""
    read = re.fullmatch(r"([\d.]+)([KMB]?)(x?)( %)?( a task)?", printed)
    if read is None:
        raise ValueError(f"counts.toml: {printed!r} is no figure")
    number, unit, times, share, each = read.groups()
    digits = len(number.partition(".")[2])
    value = found.trainable / UNITS[unit]
    value = 1 + found.share if times else 100 * found.share if share else value
    value /= tasks if each else 1
    return f"{value:.{digits + 1}f}{unit}{times}{share or ''}{each or ''}", abs(value - float(number)) < 10**-digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    made, problems = page()
    if check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == made
        problems += [] if same else ["docs/methods.md is another: run python benchmarks/methods_page.py"]
    else:
        PAGE.write_text(made, encoding="utf-8")
    sys.exit("\n".join(problems) or 0)


if __name__ == "__main__":
    main()
