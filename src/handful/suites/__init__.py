"""Task lists, protocols and tables of the papers; no training code. `docs/suites.md` says how data is laid out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from handful.errors import RequestError
from handful.suites import bigbench, dev, glue, leopard, ner, raft, setfit_dev, setfit_test, superglue, words
from handful.suites.base import Published, Suite, SuiteTask

__all__ = ["Published", "Suite", "SuiteTask", "is_suite", "suite", "suites"]


def suites() -> dict[str, Suite]:
    """Every suite by its name."""
    each = [
        module.SUITE for module in (leopard, glue, superglue, setfit_dev, setfit_test, bigbench, dev, ner, raft, words)
    ]
    return {own.name: own for own in [*each, ner.COMMON_SUITE]}


def is_suite(source: str) -> bool:
    """Whether a data source names a suite, or a task of one, and not a file or folder."""
    name, slash, _ = source.partition("/")
    return name in suites() and not (slash and Path(source).exists())


def suite(name: str) -> Suite:
    """The suite of a name; `SUITE/TASK` is one of its tasks. RequestError for what there is none of."""
    known = suites()
    name, slash, task = name.partition("/")
    if slash and name in known:
        chosen = tuple(own for own in known[name].tasks if own.name == task)
        if not chosen:
            raise RequestError(
                f"The task {task!r} of the suite {name!r} was asked for.",
                f"Its tasks are {', '.join(own.name for own in known[name].tasks)}.", "Choose one of these.",
            )  # fmt: skip
        return replace(known[name], tasks=chosen)
    if name not in known:
        raise RequestError(
            f"The suite {name!r} was asked for.", f"Known are {', '.join(known)}.", "Choose one of these."
        )
    return known[name]
