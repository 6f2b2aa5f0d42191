"""What a cell of a table may hold, and how a wrong one is named."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from handful.errors import DataError
from handful.tables import LISTS, Table, kind_of

MAX_CHARS = 100_000
"""Longer texts are cut to this many characters, far more than any backbone reads; `prompts.encode` says what is cut."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def clipped(value: Any) -> Any:
    """A text cut to `MAX_CHARS`; anything else as it is."""
    return value[:MAX_CHARS] if isinstance(value, str) else value


def items(cell: Any) -> list[Any]:
    """The items of a list-like; of a set in an order that does not depend on hashes; none of anything else."""
    return sorted(cell, key=str) if isinstance(cell, LISTS[2:]) else list(cell) if isinstance(cell, LISTS) else []


def problem(value: Any, what: str) -> str | None:
    """What is wrong with a cell that should hold a "text" or a "label"; None where nothing is."""
    if value is None:
        return "missing"
    if isinstance(value, str):
        broken = "not Unicode (it holds half of a surrogate pair)" if _SURROGATE.search(value) else None
        return "empty" if not value or value.isspace() else broken
    fraction = isinstance(value, Real) and not isinstance(value, Integral)
    if type(value).__name__ in ("NAType", "NaTType") or (fraction and math.isnan(value)):
        return "NaN (not a number)"
    usable = isinstance(value, (Real, np.bool_)) if what == "text" else type(value).__hash__ is not None
    return None if usable else f"not text but {kind_of(value)}"


def refuse(table: Table, column: str, what: str, problems: Sequence[str | None]) -> None:
    """DataError for the first of the problems, one a row, that names every row which has it."""
    if first := next(filter(None, problems), None):
        indices = [i for i, other in enumerate(problems) if other == first]
        at, those = table.at(indices), f"that {table.unit}" if len(indices) == 1 else f"those {table.unit}s"
        found = f"{at[0].upper()}{at[1:]}, column '{column}': the {what} is {first}."
        raise DataError(f"Tried to read the {what}s of {table.source}.", found, f"Write a {what} or remove {those}.")
