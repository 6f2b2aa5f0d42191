"""Tables of `benchmarks/meta_arms.py` and `benchmarks/priming.py`: arms of two papers, with what they recall beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from arms_tables import arms_table
from handful.cells import Result
from handful.recipes import parse
from handful.stats import Arm

META_ARMS = {
    "meta-adapters": "Meta-Adapters",
    "no-smlmt": "without hidden words",
    "maml-adapters": "MAML-adapters",
    "multitask": "multi-task, then adapters",
    "meta_adapter": "adapters",
    "full": "full fine-tuning",
    "probe": "frozen probe",
}
PRIMED_ARMS = {
    ("pfeiffer", "primed"): "primed",
    ("pfeiffer", "multitask"): "multi-task first",
    ("pfeiffer", "e5"): "plain",
    ("full", "e5"): "full fine-tuning",
}


def meta_arms(results: Iterable[Result]) -> list[Result]:
    """Each cell under its arm's name: that of the prior's folder, or of the recipe."""
    return [_as(r, _folder(r) or parse(r.cell.recipe)[0], "minilm") for r in results]


def meta_table(results: Sequence[Result], k: int) -> list[str]:
    return arms_table(results, {Arm(name, "minilm"): said for name, said in META_ARMS.items()}, k)


def primed_arms(results: Iterable[Result]) -> list[Result]:
    """Each cell under its recipe's name and its backbone's folder's."""
    return [_as(r, parse(r.cell.recipe)[0], Path(r.cell.backbone).name) for r in results]


def primed_table(results: Sequence[Result], k: int) -> list[str]:
    return arms_table(results, {Arm(*arm): said for arm, said in PRIMED_ARMS.items()}, k)


def _folder(result: Result) -> str:
    return Path(str(parse(result.cell.recipe)[1].get("prior", ""))).name


def _as(result: Result, recipe: str, backbone: str) -> Result:
    return replace(result, cell=replace(result.cell, recipe=recipe, backbone=backbone))
