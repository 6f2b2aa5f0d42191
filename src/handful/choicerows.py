"""Rows that bring their own choices, and rows whose columns templates ask for: tables -> Examples.

A row such as `{"text": "...", "choices": ["...", "..."], "answer": 1}` is recognised by its list of `choices`. Its
`label` or `answer` is a whole number, which counts choices from 0, or the text of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NoReturn

from handful.checks import clipped, items, problem, refuse
from handful.errors import DataError
from handful.tables import LISTS, Table, kind_of, quoted, short
from handful.types import Example

CHOICES = "choices"
RIGHT = ("label", "answer")
"""Columns that say which choice is right, the first that is there."""


@dataclass(frozen=True)
class Found:
    """Which columns hold the choices of a row and the right one; `answers` are all that could give it away."""

    choices: str
    right: str | None
    answers: tuple[str, ...]


def find_choices(table: Table, label: str | None = None) -> Found | None:
    """Where the choices are in a table whose rows have lists of `choices`; None for any other table."""
    names = {column.strip().casefold(): column for column in reversed(table.columns)}
    column = names.get(CHOICES)
    if column is None or label == column or not any(isinstance(row.get(column), LISTS) for row in table.rows[:1]):
        return None
    wanted = RIGHT if label is None else (label.strip().casefold(),)
    right = next((names[name] for name in wanted if name in names), None)
    if label is not None and right is None:
        asked = f"Tried to use the column '{label}' of {table.source} as --label."
        raise DataError(asked, f"Its columns are {quoted(table.columns)}.", "Give one of these as --label.")
    return Found(column, right, tuple(names[name] for name in dict.fromkeys((*wanted, *RIGHT)) if name in names))


def with_choices(examples: Sequence[Example], table: Table, found: Found, labelled: bool) -> list[Example]:
    """The same examples with `Example.choices` and, if `labelled`, the text of the right one as label. DataError."""
    choices = choices_of(table, found.choices)
    if not labelled:
        return [replace(e, choices=own) for e, own in zip(examples, choices, strict=True)]
    if found.right is None:
        asked = f"Looked for the right one of the choices in column '{found.choices}' of {table.source}."
        said = f"Its columns are {quoted(table.columns)}. None is called {' or '.join(RIGHT)}."
        raise DataError(asked, said, 'Name it with --label COLUMN (in Python: label="COLUMN").')
    labels = right_of(table, found.right, choices)
    return [replace(e, choices=own, label=y) for e, own, y in zip(examples, choices, labels, strict=True)]


def without(table: Table, *columns: str | None) -> Table:
    """The same rows, some of their columns out of sight."""
    return replace(table, columns=tuple(column for column in table.columns if column not in columns))


def choices_of(table: Table, columns: str | Sequence[str]) -> list[tuple[str, ...]]:
    """The choices of every row: of a column that holds lists, or of several columns. Spaces around them are dropped.

    DataError that names the line: no list, fewer than two choices, one that is empty, or the same twice.
    """
    single, many = (columns, ()) if isinstance(columns, str) else (None, tuple(columns))
    name = single or ", ".join(many)
    asked = f"Tried to read the choices of {table.source} from {quoted([name] if single else many)}."
    found = list[tuple[str, ...]]()
    for i, row in enumerate(table.rows):
        cell = row.get(single) if single else [row.get(column) for column in many]
        if not isinstance(cell, LISTS):
            said = "is missing" if cell is None else f"holds {kind_of(cell)}, not a list"
            todo = 'Write ["...", "..."] there, or define the task with a list of columns as its choices.'
            _stop(asked, table, i, f"column '{name}' {said}", todo)
        own = items(cell)
        if wrong := next(((k, why) for k, value in enumerate(own, 1) if (why := problem(value, "text"))), None):
            which = f"choice {wrong[0]}" if single else f"column '{many[wrong[0] - 1]}'"
            _stop(asked, table, i, f"{which} is {wrong[1]}", "Write what can be answered, or remove the row.")
        texts = tuple(str(clipped(value)).strip() for value in own)
        if len(texts) < 2:
            _stop(asked, table, i, f"the number of choices is {len(texts)}", "Give at least two to choose from.")
        if twice := next((text for k, text in enumerate(texts) if text in texts[:k]), None):
            _stop(asked, table, i, f"the choice '{short(twice)}' is there twice", "Keep one of them.")
        found.append(texts)
    return found


def right_of(table: Table, column: str, choices: Sequence[Sequence[str]], what: str = "choice") -> list[str]:
    """The text of the right choice of every row, from its number, counted from 0, or its text.

    DataError that names the line: nothing there, a number out of range, a text that is not among the choices.
    """
    asked = f"Tried to read which {what} is right in {table.source} from column '{column}'."
    cells = [row.get(column) for row in table.rows]
    refuse(table, column, "label", [problem(cell, "label") for cell in cells])
    found = list[str]()
    for i, (cell, own) in enumerate(zip(cells, choices, strict=True)):
        text = str(cell).strip()
        text = str(int(cell)) if isinstance(cell, Integral) or (isinstance(cell, float) and cell.is_integer()) else text
        number = int(text) if text.removeprefix("-").isdecimal() else None
        if isinstance(cell, str) and text in own:  # choices may be numbers that are written as texts
            found.append(text)
        elif number is None:
            said = f"'{short(text)}' is none of its {what}s: {quoted(own)}"
            _stop(asked, table, i, said, f"Write one of them, or its number, counted from 0 to {len(own) - 1}.")
        elif not 0 <= number < len(own):
            todo = f"Write the number of a {what}, counted from 0, or its text."
            _stop(asked, table, i, f"{number} is out of range: its {what}s count from 0 to {len(own) - 1}", todo)
        else:
            found.append(own[number])
    return found


def fields_of(table: Table, *hidden: str | None) -> list[dict[str, str]]:
    """The columns of every row as texts, for templates: lists are joined by commas, what is missing is empty.

    The columns that are `hidden` are left out: no template can show the answer.
    """
    columns = [column for column in table.columns if column not in hidden]
    found = [{column: as_text(row.get(column)) for column in columns} for row in table.rows]
    for column in columns:
        broken = [why if (why := problem(own[column] or "-", "text")) != "empty" else None for own in found]
        refuse(table, column, "text", broken)
    return found


def with_fields(examples: Sequence[Example], table: Table, *hidden: str | None) -> list[Example]:
    """The same examples with `Example.fields`."""
    return [replace(e, fields=own) for e, own in zip(examples, fields_of(table, *hidden), strict=True)]


def as_text(cell: Any) -> str:
    """A cell as a template shows it."""
    if cell is None:
        return ""
    return ", ".join(as_text(item) for item in items(cell)) if isinstance(cell, LISTS) else str(clipped(cell))


def _stop(asked: str, table: Table, row: int, found: str, todo: str) -> NoReturn:
    at = table.at([row])
    raise DataError(asked, f"{at[0].upper()}{at[1:]}: {found}.", todo)
