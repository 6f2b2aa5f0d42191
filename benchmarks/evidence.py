"""docs/results.md, made from results/: claims of papers beside what was measured here, and the development sets.

    python benchmarks/evidence.py            rewrite docs/results.md
    python benchmarks/evidence.py --check    exit status 1 if that would change it

Needs nothing but the repository: the stores in results/ hold the measured cells, results/claims.toml the claims, and
results/results.md.j2 the prose. `python benchmarks/slim.py` makes such a store of one from `handful compare`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import dev_tables
import meta_tables
import prior_tables
import shelf_tables
import words_tables
from claims import RESULTS, STRENGTH, UNTESTED, claim_table, index_table, read, results_of
from handful.cells import Result
from handful.suites.dev import CHOSEN_ON, SUITE

PAGE = RESULTS.parent / "docs" / "results.md"
STORE, SHELF, PRIOR, ARMS, PRIMED, WORDS, WORDS_CHOSEN = (
    RESULTS / f"{name}.sqlite" for name in ("dev", "shelf", "prior", "arms", "priming", "words", "words_chosen")
)  # fmt: skip


def page(store: Path = STORE) -> str:
    """docs/results.md."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    claims = read()
    results = dev_tables.own(results_of(store))
    unseen, leopard = (prior_tables.measured(results_of(PRIOR), results, own) for own in ("dev", "leopard"))
    arms, primed = meta_tables.meta_arms(results_of(ARMS)), meta_tables.primed_arms(results_of(PRIMED))
    words = words_tables.words_arms(results_of(WORDS))
    verdicts = Counter(claim.verdict for claim in claims)
    prose = Environment(loader=FileSystemLoader(RESULTS), undefined=StrictUndefined, keep_trailing_newline=True)
    return prose.get_template("results.md.j2").render(
        claims=_text(line for claim in claims for line in claim_table(claim)),
        index=_text(index_table(claims)),
        verdicts=", ".join(f"{name} {verdicts[name]}" for name in (*reversed(STRENGTH), UNTESTED)),
        num_claims=len(claims),
        gains=_text(dev_tables.gains(results)),
        summary=_text(dev_tables.summary(results)),
        each_set={k: _text(dev_tables.each_set(results, k)) for k in SUITE.shots},
        setfit=_text(dev_tables.setfit(results, 8)),
        coverage=_text(dev_tables.coverage(results)),
        costs=_text(dev_tables.costs(results)),
        shelf={k: _text(shelf_tables.table(results_of(SHELF), k)) for k in shelf_tables.SHOTS},
        shelf_pairs=_text(shelf_tables.pairs(results_of(SHELF))),
        speed=_text(shelf_tables.speed()),
        unseen={k: _text(prior_tables.each_task(unseen, k)) for k in SUITE.shots},
        unseen_gains=_text(prior_tables.gains(unseen)),
        unseen_worst=prior_tables.worst(unseen),
        leopard={k: _text(prior_tables.each_task(leopard, k)) for k in SUITE.shots},
        leopard_gains=_text(prior_tables.gains(leopard)),
        leopard_worst=prior_tables.worst(leopard),
        leopard_recalled=_text(prior_tables.recalled(leopard)),
        arms={k: _text(meta_tables.meta_table(arms, k)) for k in shots_of(arms)},
        primed={k: _text(meta_tables.primed_table(primed, k)) for k in shots_of(primed)},
        words=_text(words_tables.words_table(words)) if words else "",
        words_chosen=_text(words_tables.words_chosen(words_tables.words_arms(results_of(WORDS_CHOSEN)))),
        words_quartiles=_text(words_tables.words_quartiles(words)),
        spoken=words_tables.spoken(),
        words_costs=_text(words_tables.words_costs(words)),
        prior=prior_tables.cost(),
        leopard_missing=prior_tables.missing(leopard, "leopard"),
        failed=_text(dev_tables.failed(results)),
        made_with=made_with(results),
        coverage_seeds=len({r.cell.seed for r in results if r.cell.recipe == dev_tables.REFERENCE}),
        chosen=", ".join(CHOSEN_ON),
        seeds=SUITE.seeds,
    )


def shots_of(results: Iterable[Result]) -> list[int]:
    return sorted({r.cell.shots for r in results})


def made_with(results: Sequence[Result]) -> str:
    """Versions and device behind the cells, in words."""
    found = {tuple(sorted(r.made_with.items())) for r in results}
    return "; or ".join(", ".join(f"{name} {value}" for name, value in own) for own in sorted(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    made = page()
    if check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == made
        sys.exit(0 if same else "docs/results.md is not what results/ says: run python benchmarks/evidence.py")
    PAGE.write_text(made, encoding="utf-8")


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines).rstrip("\n")


if __name__ == "__main__":
    main()
