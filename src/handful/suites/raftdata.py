"""RAFT: eleven tasks with 50 labelled rows each and test labels that only the benchmark knows (Alex et al. 2021).

Confirmed by the sheet of T-Few (Liu et al. 2022, section on RAFT, and the benchmark's own template): names of tasks,
the fields of each in their order, 50 rows, the format of a prompt and of a submission, the published table. Assumed,
since no document with it could be read: columns are called as the fields are, beside `ID` and `Label`; the hub's data
set is `ought/raft` with a configuration for each task; what each task asks, as the instructions say in our own words.
Classes are those of the hub's schema. A folder's are the lines of a file labels.txt in it, or else those of its rows,
which of Banking77 cannot be all: 77 classes have 50 rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from handful.errors import DataError
from handful.pools import content
from handful.suites.base import check_folder, lacking, split_file, why_not_on_hub
from handful.suites.drawing import Part, count_rows
from handful.templates import Template
from handful.types import Example, Task

if TYPE_CHECKING:
    from handful.tables import Table

NAME, HUB = "raft", "ought/raft"
ID, LABEL, UNLABELLED = "ID", "Label", "Unlabeled"
WHOLE = re.compile("[0-9]{1,18}")
ROWS = 50
"""Labelled rows of each task."""


@dataclass(frozen=True)
class Spec:
    """What a task asks: an instruction in our own words, its columns in the benchmark's order, and the long one.

    num_classes  where 50 rows cannot be of all of them
    """

    instruction: str
    fields: tuple[str, ...]
    cut: str
    num_classes: int = 0

    def template(self, classes: Sequence[str] = ()) -> Template:
        """The prompt: instruction, labels, a line for each field that is not empty, and `Label:`.

        Where a class is written with underscores, as those of Banking77 are, its word has spaces in their place.
        """
        lines = "".join(f"{{% if {_key(f)} %}}{f}: {{{{ {_key(f)} }}}}\n{{% endif %}}" for f in self.fields)
        words = {name: spoken(name) for name in classes} if any(spoken(name) != name for name in classes) else {}
        prompt = f'{self.instruction} Possible labels: {{{{ choices | join(", ") }}}}\n{lines}Label:'
        return Template(prompt=prompt, words=words, cut=_key(self.cut), name=NAME)


def _of(instruction: str, fields: str, cut: str | None = None, num_classes: int = 0) -> Spec:
    names = tuple(fields.split(", "))
    return Spec(instruction, names, cut or names[0], num_classes)


SPECS: Mapping[str, Spec] = {
    "ade_corpus_v2": _of("Say whether the sentence reports a harmful effect of a drug.", "Sentence"),
    "banking_77": _of("Say what the customer of a bank wants.", "Query", num_classes=77),
    "neurips_impact_statement_risks": _of(
        "Say whether the impact statement of this paper names a risk.", "Impact statement, Paper title"
    ),
    "one_stop_english": _of("Say how advanced a learner of English this article is written for.", "Article"),
    "overruling": _of("Say whether this sentence of a court overrules an earlier decision.", "Sentence"),
    "semiconductor_org_types": _of(
        "Say what type of organization an author of this paper works for.", "Organization name, Paper title",
        "Paper title",
    ),
    "systematic_review_inclusion": _of(
        "Say whether this paper belongs in a review of ways to make people give more to charity.",
        "Title, Abstract, Journal", "Abstract",
    ),
    "tai_safety_research": _of(
        "Say whether this work is research on the safety of transformative artificial intelligence.",
        "Title, Abstract Note, Publication Title, Item Type, Publication Year", "Abstract Note",
    ),
    "terms_of_service": _of("Say whether this sentence of terms of service could be unfair to a user.", "Sentence"),
    "tweet_eval_hate": _of("Say whether this tweet is hateful.", "Tweet"),
    "twitter_complaints": _of("Say whether this tweet complains.", "Tweet text"),
}  # fmt: skip
"""The eleven tasks; fields and their order as in T-Few's published code."""


@dataclass(frozen=True)
class Split:
    """Where a task lies: its two splits, and its classes where they are known without its rows."""

    train: Part
    test: Part | None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """The rows that a submission answers; without `whole` there are more classes than are known."""

    ids: tuple[int, ...]
    examples: Sequence[Example]
    classes: tuple[str, ...]
    whole: bool


def learned(name: str, data: Path | None = None) -> Task | str:
    """All labelled rows of a task, with its template, below `data` or on the hub; or why there are none. DataError."""
    where = locate(name, data)
    return where if isinstance(where, str) else read(name, where.train, where.classes)


def asked(name: str, data: Path | None = None) -> Asked | str:
    """The test rows of a task, whose labels are never read; or why there are none. DataError."""
    where = locate(name, data)
    if isinstance(where, str):
        return where
    if where.test is None:
        raise lacking(NAME, name, Path(where.train.source).parent, "test or test_unlabeled")
    table = _table(where.test)
    examples = _examples(name, table)
    ids = [str(row[ID]).strip() for row in table.rows]
    wanted = f"The {ID} of each row of {table.source} was read."
    if wrong := [i for i, own in enumerate(ids) if not WHOLE.fullmatch(own)]:
        raise DataError(wanted, f"It is no whole number in {table.at(wrong)}.", "Take the file from the benchmark.")
    numbers = tuple(map(int, ids))
    if twice := [own for own, count in Counter(numbers).items() if count > 1]:
        raise DataError(wanted, f"{twice[0]} is there more than once.", "Take the file from the benchmark.")
    classes = where.classes or read(name, where.train, ()).labels
    return Asked(numbers, examples, classes, len(classes) >= SPECS[name].num_classes)


def spoken(label: str) -> str:
    """A class name as words: Banking77 writes underscores for spaces."""
    return label.replace("_", " ")


def exact(label: str, classes: Sequence[str]) -> str | None:
    """The benchmark's own name of a class that is said in it or in words; None if it is none of them."""
    if label in classes:
        return label
    return next((name for name in classes if spoken(name) == spoken(label)), None)


def locate(name: str, data: Path | None) -> Split | str:
    """Where a task lies, or why it lies nowhere. DataError for a folder without a training split."""
    check_folder(data, NAME)
    if data is None:
        found = _hub_classes(name)
        if isinstance(found, str):
            return found
        source = f"{HUB}:{name}"
        return Split(Part(source, "train", hub=True), Part(source, "test", hub=True), found)
    for folder in (data / NAME / name, data / "data" / name, data / name):
        train, test = split_file(folder, "train"), split_file(folder, "test", "test_unlabeled")
        if train is None and test is None:
            continue
        if train is None:
            raise lacking(NAME, name, folder, "train")
        if (held := count_rows(train)) != ROWS:
            return f"{folder} holds other rows: {held:,} in {train.name}, the benchmark's are {ROWS}"
        return Split(Part(str(train)), Part(str(test)) if test else None, _listed(folder / "labels.txt"))
    return f"no folder {NAME}/{name} in {data}"


def _listed(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        return ()
    from handful.tables import read_table

    names = tuple(str(row["text"]) for row in read_table(file).rows if str(row["text"]).strip())
    if len(set(names)) < max(2, len(names)):
        raise DataError(
            f"The classes were read from {file}.", f"It has {len(names)} lines of {len(set(names))} different names.",
            "Write each class name on a line of its own, once.",
        )  # fmt: skip
    return names


@cache
def _hub_classes(name: str) -> tuple[str, ...] | str:
    """The classes that the hub's schema names, or why it cannot be asked."""
    if reason := why_not_on_hub(f"{HUB}:{name}"):
        return reason
    import datasets

    try:
        names: list[str] = (datasets.load_dataset_builder(HUB, name).info.features or {})[LABEL].names
    except Exception as error:  # the reader raises errors of many libraries
        said = str(error).strip().split("\n")[0] or type(error).__name__
        return f"{HUB} cannot be read from the hub ({said[:200]}); give its folder with --data"
    return tuple(own for own in names if own != UNLABELLED)


def _table(part: Part) -> Table:
    from handful.tables import read_table

    return read_table(part.source, part.split) if part.hub else read_table(Path(part.source))


def _key(column: str) -> str:
    """A column as templates call it: "Paper title" is `paper_title`."""
    return column.lower().replace(" ", "_")


def _examples(name: str, table: Table) -> list[Example]:
    """Rows by their fields; their text is a line for each field that is not empty, for recipes without a template."""
    fields = SPECS[name].fields
    if gone := [own for own in (*fields, ID) if own not in table.columns]:
        raise DataError(
            f"{NAME}/{name} was to be read from {table.source}.",
            f"It has no column {', '.join(map(repr, gone))}; it has {', '.join(map(repr, table.columns))}.",
            "Take the file from the benchmark, whose columns are called so.",
        )  # fmt: skip
    found: list[Example] = []
    for row in table.rows:
        cells = {own: "" if row[own] is None else str(row[own]).strip() for own in fields}
        lines = [f"{own}: {value}" for own, value in cells.items() if value]
        text = "\n".join(lines) or f"{fields[0]}:"  # a row without any text is still to be answered
        found.append(Example(text, fields={_key(own): value for own, value in cells.items()}))
    return found


def read(name: str, part: Part, classes: tuple[str, ...]) -> Task:
    """All rows of a training split, with their template; classes that are not given are those of its rows."""
    return _read(name, part, classes, "" if part.hub else content(part.source))


@lru_cache(maxsize=32)
def _read(name: str, part: Part, classes: tuple[str, ...], digest: str) -> Task:
    """All rows of a training split; `digest` tells a file that has changed."""
    table = _table(part)
    if len(table.rows) != ROWS:
        raise DataError(
            f"{NAME}/{name} was to be learned from {table.source}.",
            f"It has {len(table.rows):,} rows; the benchmark's are {ROWS}.", "Take the data from the benchmark.",
        )  # fmt: skip
    examples = _examples(name, table)
    labels = [str(row.get(LABEL) or "") for row in table.rows]
    wanted = f"The labels of {table.source} were read."
    if lacks := [i for i, label in enumerate(labels) if label.strip() in ("", UNLABELLED)]:
        raise DataError(
            wanted, f"There is none in {table.at(lacks)}.", f"Write the class into the column {LABEL} of every row."
        )
    if unknown := [i for i, label in enumerate(labels) if classes and label not in classes]:
        raise DataError(
            wanted, f"{labels[unknown[0]]!r}, in {table.at(unknown[:1])}, is no class of {name}.",
            f"Its classes are {', '.join(map(repr, classes[:10]))}.",
        )  # fmt: skip
    known = classes or tuple(dict.fromkeys(labels))
    if len(known) < 2:
        found = f"There is only one class, {', '.join(known)!r}."
        raise DataError(wanted, found, "Name all classes in a file labels.txt beside it, one a line.")
    examples = [replace(e, label=label) for e, label in zip(examples, labels, strict=True)]
    return Task(name, examples, known, templates=(SPECS[name].template(known),))
