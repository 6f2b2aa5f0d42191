"""Tables of words and tags -> tagging tasks: CoNLL files, and rows with lists of `tokens` and `tags`.

Tags may be BIO (IOB1 too), BIOES or BILOU; they are kept as BIO. What breaks a scheme's rules is read leniently, as
conlleval and seqeval's default do: an I- that follows nothing begins an entity (`tagging.py`).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from handful.errors import DataError, HandfulWarning
from handful.tables import Table, counted, fail, kind_of, quoted, short
from handful.tagging import bio, example_types, is_tag, tag_set
from handful.types import Example, Task

_TOKENS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "labels")
_TEXT = ("text", "sentence")


def is_tagged(table: Table, tokens: str | None = None, tags: str | None = None) -> bool:
    """Whether a table holds lists of words and, beside them, of tags (or nothing, as a CoNLL file without tags)."""
    if table.columns == _TOKENS[:1]:
        return True
    words, labels = _column(table, tokens, _TOKENS), _column(table, tags, _TAGS)
    if words is None or labels is None:
        return False
    return all(isinstance(row.get(column), list) for row in table.rows[:1] for column in (words, labels))


def tagging_task(table: Table, name: str, tokens: str | None = None, tags: str | None = None) -> Task:
    """A tagging task of a table for which `is_tagged` holds; types are ordered as they first appear.

    DataError that names the line: a sentence without words, other numbers of words and of tags, an unknown tag.
    """
    examples = words_of(table, tokens)
    column = _column(table, tags, _TAGS)
    if column is None:
        fail(table.source, "It has words but no tags.", 'Write lists of both: {"tokens": ["..."], "tags": ["O"]}')
    labelled = [_labelled(table, i, example, table.rows[i].get(column)) for i, example in enumerate(examples)]
    kinds = [kind for example in labelled for kind in example_types(example)]
    return Task(name, labelled, tag_set(kinds), "tagging")


def words_of(table: Table, tokens: str | None = None) -> list[Example]:
    """The words of each row, without tags: a list of them, or a text that is split at its spaces. DataError."""
    column = _column(table, tokens, (*_TOKENS, *_TEXT))
    if column is None:
        found = f"Its columns are {quoted(table.columns)}."
        raise DataError(f"Looked for the words of {table.source}.", found, "Name the column with --text COLUMN.")
    return [_words(table, i, row.get(column)) for i, row in enumerate(table.rows)]


def check_learnable(table: Table, task: Task) -> None:
    """DataError where no word is in an entity; warns of types with one entity and of sentences tagged differently."""
    counts = Counter(kind for example in task.examples for kind in example_types(example))
    if not counts:
        found = f"All words of its {counted(len(task.examples), 'sentence')} are O."
        raise DataError(f"Tried to read the entities of {table.source}.", found, "Add sentences with entities.")
    if single := [kind for kind, number in counts.items() if number == 1]:
        which = f"{quoted(single)} in {table.source}"
        _warn(f"A single entity of {which}: nothing can be estimated for such a type. Add at least one more.")
    first: dict[tuple[str, ...] | None, int] = {}
    for i, example in enumerate(task.examples):
        j = first.setdefault(example.words, i)
        if task.examples[j].label != example.label:
            where = f"'{short(example.text)}' ({table.at([j])} and {table.at([i])})"
            _warn(f"The same sentence has different tags in {table.source}: {where}. Decide on one.")
            break


def _column(table: Table, given: str | None, names: Sequence[str]) -> str | None:
    known = {column.strip().casefold(): column for column in reversed(table.columns)}
    if given is not None:
        return given if given in table.columns else known.get(given.strip().casefold())
    return next((known[name] for name in names if name in known), None)


def _words(table: Table, i: int, cell: Any) -> Example:
    words = cell.split() if isinstance(cell, str) else cell
    if not isinstance(words, list):
        _refuse(table, i, f"the words are {kind_of(cell)}, not a list.")
    if not words:
        _refuse(table, i, "the sentence has no words.")
    if (odd := next((w for w in words if not isinstance(w, str) or not w), None)) is not None:
        _refuse(table, i, f"the word {odd!r} is {'empty' if odd == '' else 'not text but ' + kind_of(odd)}.")
    return Example(" ".join(words), words=tuple(words))


def _labelled(table: Table, i: int, example: Example, cell: Any) -> Example:
    words = example.words or ()
    if not isinstance(cell, list) or len(cell) != len(words):
        has = f"{counted(len(cell), 'tag')}" if isinstance(cell, list) else f"tags that are {kind_of(cell)}"
        _refuse(table, i, f"the sentence has {counted(len(words), 'word')} and {has}.")
    for word, tag in zip(words, cell, strict=True):
        if not isinstance(tag, str):
            _refuse(table, i, f"the tag of {short(word)!r} is {kind_of(tag)}, not a name such as B-PER.")
        if not is_tag(tag):
            _refuse(table, i, f"{tag!r}, the tag of {short(word)!r}, is not of the schemes BIO, BIOES or BILOU.")
    return Example(example.text, None, bio(cell), words)


def _refuse(table: Table, i: int, found: str) -> None:
    at = table.at([i])
    todo = "Give each sentence a list of words and one of as many tags: O, or B-X and I-X for an entity of type X."
    fail(table.source, f"{at[0].upper()}{at[1:]}: {found}", todo)


def _warn(message: str) -> None:
    warnings.warn(message, HandfulWarning, stacklevel=4)
