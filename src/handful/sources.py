"""Tables -> Examples and Tasks: which columns are read, what they may hold, and what a reader is warned of.

What a source can be is said in `handful.tables`. Whatever is wrong is a `DataError` that names the line; nothing is
half read.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handful.checks import clipped, items, problem, refuse
from handful.choicerows import Found, find_choices, with_choices, with_fields, without
from handful.errors import DataError, HandfulWarning
from handful.tables import LISTS, Table, counted, fail, kind_of, quoted, read_table, short
from handful.tagged import check_learnable, is_tagged, tagging_task, words_of
from handful.types import Example, Label, Task

_TEXT = (
    "text, text_a, sentence1, premise, question1, question, sentence, query, utterance, content, message, body, "
    "review, tweet, comment, document, passage, headline, title, input"
)
_LABEL = "label, labels, class, category, intent, topic, target, sentiment, emotion, relation"
_PAIR = {
    "text": "text_pair, text_b",
    "text_a": "text_b",
    "sentence1": "sentence2",
    "premise": "hypothesis",
    "question1": "question2",
    "question": "answer, sentence, passage",
    "query": "answer, passage, document",
}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read as what."""

    text: str
    text_pair: str | None = None
    label: str | None = None


def load(
    source: str | Path,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    split: str = "train",
    labelled: bool = True,
    name: str | None = None,
    multilabel_separator: str | None = None,
    fields: bool = False,
) -> Task:
    """Reads a labelled task; classes are ordered as they first appear and named as they are written.

    Columns that are not given are found by name, whatever their case. A second text is looked for only when `text`
    is not given. `split` counts for hub data sets only. With `multilabel_separator` a cell such as `a;b` holds
    several labels, and an empty cell none. With `labelled=False` labels are not read and the task has no classes.
    Lists of words (`tokens`) beside lists of tags (`tags`), and CoNLL files, make a tagging task (`tagged`); lists of
    `choices` a choice task (`choicerows`). With `fields` every Example holds its row's columns, but for the label's.
    Raises DataError; warns (HandfulWarning) of classes with one example, texts with conflicting labels.
    """
    table = read_table(source, split)
    if labelled and is_tagged(table, text, label):
        task = tagging_task(table, name or _stem(table.source), text, label)
        check_learnable(table, task)
        return task
    if (found := find_choices(table, label)) is not None:
        return _choice_task(table, found, name, text, text_pair, labelled, fields)
    columns = find_columns(table, text, text_pair, label, labelled)
    task = _task(table, columns, name or _stem(table.source), multilabel_separator)[0]
    if labelled:
        _check_learnable(table, columns, task)
    return replace(task, examples=with_fields(task.examples, table, columns.label)) if fields else task


def load_test(
    source: str | Path,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    split: str = "test",
    multilabel_separator: str | None = None,
    fields: bool = False,
) -> Task:
    """Reads labelled rows to measure on: as `load`, but they may be of a single class, and nothing is warned of."""
    table = read_table(source, split)
    if is_tagged(table, text, label):
        return tagging_task(table, _stem(table.source), text, label)
    if (found := find_choices(table, label)) is not None:
        return _choice_task(table, found, None, text, text_pair, True, fields)
    columns = find_columns(table, text, text_pair, label)
    task = _task(table, columns, _stem(table.source), multilabel_separator)[0]
    return replace(task, examples=with_fields(task.examples, table, columns.label)) if fields else task


def load_words(source: str | Path, text: str | None = None, split: str = "train") -> list[Example]:
    """Reads what a tagging task is to be asked: lists of words, CoNLL files, or texts, which are split at their spaces.

    As `load_texts` otherwise.
    """
    return words_of(read_table(source, split, bare_strings=True), text)


def load_texts(
    source: str | Path,
    text: str | None = None,
    text_pair: str | None = None,
    split: str = "train",
    fields: bool = False,
) -> list[Example]:
    """Reads texts without labels, one Example a row; a JSON line may also be a bare string. Raises DataError.

    Rows that have lists of `choices` keep them; with `fields` all rows keep their columns, as in `load`.

    CSV needs a header here too; where its name says nothing, as in a one-column file, give it as `text`.
    """
    table = read_table(source, split, bare_strings=True)
    if (found := find_choices(table)) is not None:
        return list(_choice_task(table, found, None, text, text_pair, False, fields).examples)
    examples = _examples(table, find_columns(table, text, text_pair, labelled=False))
    return with_fields(examples, table) if fields else examples


def from_lists(texts: Iterable[object], labels: Iterable[object], name: str = "task") -> tuple[Task, list[Any]]:
    """A task from Python values, and its classes as the objects that were given, in the order of `Task.labels`.

    A text is a str or a pair of str. A label is any hashable; a list, tuple or set of labels makes the task
    multi-label. Checks, errors and warnings are those of `load`; items count from 0.
    """
    table, columns = _given(texts)
    values = list(labels)
    if len(values) != len(table.rows):
        found = f"There are {len(table.rows)} texts and {len(values)} labels."
        raise DataError("Tried to pair texts with labels.", found, "Give one label for every text.")
    for row, value in zip(table.rows, values, strict=True):
        row["label"] = value
    columns = Columns(columns.text, columns.text_pair, "label")
    task, classes = _task(table, columns, name)
    _check_learnable(table, columns, task)
    return task, classes


def from_texts(texts: Iterable[object]) -> list[Example]:
    """Examples without labels from Python values: str, or pairs of str. Raises DataError."""
    return _examples(*_given(texts))


def find_columns(
    table: Table, text: str | None = None, text_pair: str | None = None, label: str | None = None, labelled: bool = True
) -> Columns:
    """The columns to read: as given, or else found by name. Raises DataError that lists the columns found."""
    names = {column.strip().casefold(): column for column in reversed(table.columns)}
    found, picked = f"Its columns are {quoted(table.columns)}.", dict[str, str]()

    def guess(candidates: str) -> str | None:
        return next((names[c] for c in candidates.split(", ") if names.get(c) not in (None, *picked.values())), None)

    for what, name in {"text": text, "text-pair": text_pair, "label": label if labelled else None}.items():
        if name is not None:
            column = name if name in table.columns else names.get(name.strip().casefold())
            asked = f"Tried to use the column '{name}' of {table.source} as --{what}."
            if column is None:
                raise DataError(asked, found, f"Give one of these as --{what}.")
            if column in picked.values():
                raise DataError(asked, "This column was already given for something else.", f"Change one. {found}")
            picked[what] = column
    for what, candidates in {"text": _TEXT, **({"label": _LABEL} if labelled else {})}.items():
        if (column := picked.get(what) or guess(candidates)) is None:
            todo = f'Name it with --{what} COLUMN (in Python: {what}="COLUMN").'
            if len(table.columns) == 1 and what == "text":
                todo += " If the first line is not a header but a text, put a line 'text' above it."
            asked = f"Looked for the {what} column of {table.source}."
            raise DataError(asked, f"{found} None is called {' or '.join(candidates.rsplit(', ', 1))}.", todo)
        picked[what] = column
        partner = guess(_PAIR.get(picked["text"].strip().casefold(), "")) if text is None else None
        picked |= {"text-pair": partner} if partner is not None and "text-pair" not in picked else {}
    return Columns(picked["text"], picked.get("text-pair"), picked.get("label"))


def _given(texts: Iterable[Any]) -> tuple[Table, Columns]:
    given = [] if isinstance(texts, str) else [items(text) or [text] for text in texts]
    for i, item in enumerate(given):
        if len(item) not in (1, 2) or len(item) != len(given[0]):
            found = f"Item {i} has {counted(len(item), 'text')}, item 0 has {len(given[0])}."
            fail("the given texts", found, "Give a str for every item, or a pair of str for every item.")
    if not given:
        found = "A single str was given." if isinstance(texts, str) else "There are none."
        fail("the given texts", found, "Give a list of texts.")
    columns = ["text", "text_pair"][: len(given[0])]
    rows = [dict(zip(columns, item, strict=True)) for item in given]
    return Table("the given lists", (*columns, "label"), rows, range(len(rows)), "item"), Columns(*columns)


def _examples(table: Table, columns: Columns) -> list[Example]:
    cells = list[list[str]]()
    for column in (columns.text, columns.text_pair) if columns.text_pair is not None else (columns.text,):
        values = [clipped(row.get(column)) for row in table.rows]
        refuse(table, column, "text", [problem(value, "text") for value in values])
        cells.append([str(value) for value in values])
    return [Example(*texts) for texts in zip(*cells, strict=True)]


def _choice_task(
    table: Table, found: Found, name: str | None, text: str | None, pair: str | None, labelled: bool, fields: bool
) -> Task:
    bare = without(table, *({found.choices, *found.answers} - {text, pair}))
    examples = with_choices(_examples(table, find_columns(bare, text, pair, labelled=False)), table, found, labelled)
    examples = with_fields(examples, table, *found.answers) if fields else examples
    return Task(name or _stem(table.source), examples, (), "choice")


def _task(table: Table, columns: Columns, name: str, separator: str | None = None) -> tuple[Task, list[Any]]:
    examples = _examples(table, columns)
    if columns.label is None:
        return Task(name, examples, ()), []
    cells = [_split(row.get(columns.label), separator) for row in table.rows]
    groups = [items(cell) if isinstance(cell, LISTS) else [cell] for cell in cells]
    problems = [next(filter(None, (problem(item, "label") for item in group)), None) for group in groups]
    refuse(table, columns.label, "label", problems)
    shapes, kinds, classes = dict[str, int](), dict[str, int](), dict[str, Any]()
    for i, group in enumerate(groups):
        shapes.setdefault("a list" if isinstance(cells[i], LISTS) else "a single label", i)
        for item in group:
            kinds.setdefault(kind_of(item), i)
            classes.setdefault(str(item), item)
    asked = f"Tried to read the classes of {table.source} from column '{columns.label}'."
    for mixed in (shapes, kinds):
        if len(mixed) > 1:
            found = " and ".join(f"{table.at([i])} has {kind}" for kind, i in list(mixed.items())[:2])
            raise DataError(asked, f"The labels are of mixed kinds: {found}.", "Write every label in the same way.")
    names = [tuple(dict.fromkeys(map(str, group))) for group in groups]
    multilabel = "a list" in shapes
    labels: list[Label] = list(names) if multilabel else [name for (name,) in names]
    examples = [Example(e.text, e.text_pair, label) for e, label in zip(examples, labels, strict=True)]
    kind = "multilabel" if multilabel else "classification"
    return Task(name, examples, tuple(classes), kind), list(classes.values())


def _check_learnable(table: Table, columns: Columns, task: Task) -> None:
    """DataError for fewer than two classes; warnings of classes with one example and of conflicting labels."""
    if len(task.labels) < 2:
        found = f"There is only one class, {quoted(task.labels)}" if task.labels else "There are no labels"
        raise DataError(
            f"Tried to read the classes of {table.source} from column '{columns.label}'.",
            f"{found}, in {counted(len(task.examples), 'example')}.",
            "Add examples of another class: there must be two to choose from.",
        )
    labels = [e.label if isinstance(e.label, tuple) else (str(e.label),) for e in task.examples]
    examples = task.examples
    counts = Counter(name for names in labels for name in names)
    if single := [name for name, count in counts.items() if count == 1]:
        which = f"{quoted(single)} in {table.source}"
        _warn(f"A single example of {which}: nothing can be estimated for such a class. Add at least one more.")
    same: dict[tuple[str, str | None], dict[frozenset[str], int]] = {}
    for i, (example, names) in enumerate(zip(examples, labels, strict=True)):
        same.setdefault((example.text, example.text_pair), {}).setdefault(frozenset(names), i)
    if clashes := [(text, list(found.values())) for (text, _), found in same.items() if len(found) > 1]:
        shown = [
            f"'{short(text)}' ({', '.join(f'{table.at([i])}: {quoted(labels[i])}' for i in indices[:3])})"
            for text, indices in clashes[:3]
        ]
        more = f" and {len(clashes) - 3} more" if len(clashes) > 3 else ""
        _warn(f"The same text has different labels in {table.source}: {'; '.join(shown)}{more}. Decide on one.")


def _split(cell: Any, separator: str | None) -> Any:
    if isinstance(cell, str) and separator:
        return [part.strip() for part in cell.split(separator)] if cell.strip() else []
    return cell


def _warn(message: str) -> None:
    warnings.warn(message, HandfulWarning, stacklevel=5)


def _stem(source: str) -> str:
    return Path(source.removeprefix("package:")).name.split(".")[0] or source
