"""The pools of the suites: how a paper's few-shot rows are drawn from files or from data sets of the hub.

Read lazily, and the same in every process. Rows without any text cannot be read by a tokenizer and are left out.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from handful.errors import DataError, HandfulWarning
from handful.pools import content, digest_of

if TYPE_CHECKING:
    from handful.tables import Table
    from handful.types import Episode, Example, Task

Draw = Literal["class", "all"]
"""`shots` counts rows of each class, or rows in all."""


@dataclass(frozen=True)
class Fields:
    """Columns of a table; a name with braces is a text made of several columns, such as `"{word}: {sentence1}"`."""

    text: str
    text_pair: str | None = None
    label: str = "label"


@dataclass(frozen=True)
class Part:
    """A split: a file, or with `hub` a split of a data set of the hub (`owner/name:config`)."""

    source: str
    split: str = ""
    hub: bool = False


@dataclass(frozen=True)
class SplitPool:
    """A task with a training and a test split. What is learned from is drawn, and all test rows are asked.

    classes  class names in order, as labels or as what the labels 0, 1, ... stand for; () for those found in training
    draw     "class": `shots` rows of each class, those that SetFit's authors draw with the same seed (pandas' sampling:
             a permutation of each class by `RandomState(seed)`); "all": `shots` rows whatever their class
    half     only half of the test split is asked, the same half always

    Training rows that are also test rows are never drawn; all test rows stay. DataError where too few rows are left.
    """

    name: str
    suite: str
    metric: str
    train: Part
    test: Part
    fields: Fields
    classes: tuple[str, ...] = ()
    draw: Draw = "class"
    half: bool = False

    def digest(self) -> str:
        said = asdict(replace(self, name="", train=Part(""), test=Part("")))
        return digest_of(said, _code(), self.contents())

    def contents(self) -> list[str]:
        return [_part_digest(part, self.fields) for part in (self.train, self.test)]

    def episode(self, shots: int, seed: int) -> Episode:
        from handful import episodes
        from handful.types import Episode

        train, test = _splits(self)
        asked = {_content(example) for example in test.examples}
        if self.draw == "class":
            rows = drawn_rows(train, shots, seed, asked)
            self._enough(shots, min(len(own) for own in rows.values()) if rows else 0, 1, "a class")
            support = episodes.subset(train, sorted(i for own in rows.values() for i in own))
        else:
            fresh = episodes.subset(train, (i for i, e in enumerate(train.examples) if _content(e) not in asked))
            self._enough(shots, len(fresh.examples), shots, "in all")
            support = episodes.some_rows(fresh, shots, seed=seed)
        return Episode(support, test)

    def rows(self) -> Task:
        from handful import episodes

        train, test = _splits(self)
        asked = {_content(example) for example in test.examples}
        return episodes.subset(train, (i for i, e in enumerate(train.examples) if _content(e) not in asked))

    def _enough(self, shots: int, found: int, needed: int, what: str) -> None:
        if shots < 1 or found < needed:
            raise DataError(
                f"{shots:,} training rows {what} of {self.suite}/{self.name} were asked for.",
                f"There are {found:,} that are not test rows.", "Ask for at least 1 and no more than there are.",
            )  # fmt: skip


@dataclass(frozen=True)
class EpisodePool:
    """A task with fixed episodes: seed s is episode s. Nothing is drawn, and overlaps with the test rows stay.

    episodes  (shots, index, file)
    tested    the file of the rows that are asked
    union     `tested` holds the rows of all episodes, so those of the episode in use are left out
    """

    name: str
    suite: str
    metric: str
    episodes: tuple[tuple[int, int, str], ...]
    tested: str
    union: bool = False

    def digest(self) -> str:
        held = [(shots, index) for shots, index, _ in self.episodes]
        return digest_of(self.suite, self.metric, self.union, _code(), held, self.contents())

    def contents(self) -> list[str]:
        return [content(file) for file in (*(file for _, _, file in self.episodes), self.tested)]

    def episode(self, shots: int, seed: int) -> Episode:
        from handful import episodes
        from handful.types import Episode

        files = {(k, index): file for k, index, file in self.episodes}
        if (shots, seed) not in files:
            known = sorted({k for k, _ in files}), sorted({index for _, index in files})
            raise DataError(
                f"Episode {seed} with {shots} shots of {self.suite}/{self.name} was asked for.",
                f"Its episodes are fixed: shots {known[0]}, seeds {known[1][0]} to {known[1][-1]}.",
                "Ask for one of those.",
            )
        support, query = _read(Part(files[shots, seed]), None), _read(Part(self.tested), None)
        labels = tuple(sorted(support.labels))
        _check_labels(query, labels, self.tested)
        if self.union:
            taken = {_content(example) for example in support.examples}
            query = episodes.subset(query, (i for i, e in enumerate(query.examples) if _content(e) not in taken))
        return Episode(*(replace(task, name=self.name, labels=labels) for task in (support, query)))

    def rows(self) -> Task:
        """The different rows of all episodes that are not asked; with `union` all are."""
        asked = set() if self.union else {_content(e) for e in _read(Part(self.tested), None).examples}
        tasks = [_read(Part(file), None) for _, _, file in self.episodes]
        found = dict.fromkeys(e for task in tasks for e in task.examples if _content(e) not in asked)
        labels = {label for task in tasks for label in task.labels}
        return replace(tasks[0], name=self.name, examples=list(found), labels=tuple(sorted(labels)))


def drawn_rows(task: Task, shots: int, seed: int, never: Iterable[tuple[str, str | None]] = ()) -> dict[str, list[int]]:
    """Row indices of each class as SetFit's `create_fewshot_splits` draws them; the next ones in place of `never`."""
    import numpy as np

    without, rows = set(never), dict[str, list[int]]()
    for name in task.labels:
        own = [i for i, example in enumerate(task.examples) if example.label == name]
        order: list[int] = list(range(len(own)))
        if len(own) > shots:
            order = np.random.RandomState(seed).permutation(len(own)).tolist()
        rows[name] = [own[i] for i in order if _content(task.examples[own[i]]) not in without][: max(shots, 0)]
    return rows


def count_rows(path: Path) -> int:
    """Rows of a file, as it is now."""
    stat = path.stat()
    return _counted(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _counted(path: str, size: int, changed: int) -> int:
    return len(_table(Part(path)).rows)


@lru_cache(maxsize=32)
def _splits(pool: SplitPool) -> tuple[Task, Task]:
    """All rows to draw from and those that are asked, with the same classes in the same order."""
    from handful import episodes

    train = _with_classes(_read(pool.train, pool.fields), pool.classes, pool.train.source)
    test = _with_classes(_read(pool.test, pool.fields), pool.classes, pool.test.source)
    _check_labels(test, train.labels, pool.test.source)
    test = replace(test, labels=train.labels)
    if pool.half:
        test = episodes.some_rows(test, len(test.examples) - len(test.examples) // 2, seed=0)
    return replace(train, name=pool.name), replace(test, name=pool.name)


@lru_cache(maxsize=64)
def _read(part: Part, fields: Fields | None) -> Task:
    """The rows of a split; columns are found by name where those of `fields` are not there. DataError."""
    from handful.sources import find_columns, from_lists

    table = _table(part)
    wanted = [fields.text, fields.label, *([fields.text_pair] if fields.text_pair else [])] if fields else []
    if fields is None or not all("{" in name or name in table.columns for name in wanted):
        columns = find_columns(table)
        fields = Fields(columns.text, columns.text_pair, columns.label or "label")
    names = [fields.text, *([fields.text_pair] if fields.text_pair else [])]
    texts = [[_cell(row, name, part) for name in names] for row in table.rows]
    kept = [i for i, own in enumerate(texts) if not any(text is None or not str(text).strip() for text in own)]
    with warnings.catch_warnings():  # a user cannot mend what is odd in a published data set
        warnings.simplefilter("ignore", HandfulWarning)
        try:
            task, _ = from_lists(
                [tuple(texts[i]) if len(names) > 1 else texts[i][0] for i in kept],
                [table.rows[i].get(fields.label) for i in kept],
            )
        except DataError as error:
            raise DataError(f"Tried to read {part.source} {part.split}.", error.found, error.todo) from error
    return task


def _table(part: Part) -> Table:
    from handful.tables import Table, fail, read_table

    if part.hub:
        return read_table(part.source, part.split)
    path = Path(part.source)
    if path.suffix != ".json":
        return read_table(path)
    try:  # LEOPARD's release: one list of records a file
        rows: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        fail(part.source, f"The JSON cannot be read: {error}.", "Download it again.")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        fail(part.source, "It is not a list of records.", "Download it again.")
    columns = dict.fromkeys(str(key) for row in rows for key in row)
    return Table(part.source, tuple(columns), rows, range(1, len(rows) + 1), "record")


def _cell(row: dict[str, Any], name: str, part: Part) -> Any:
    if "{" not in name:
        return row.get(name)
    try:
        return name.format_map(row)
    except KeyError as error:
        raise DataError(
            f"Tried to read {part.source} {part.split}.", f"It has no column {error}, which the text is made of.",
            f"Name its columns as the data set of the hub does: {name}.",
        ) from error  # fmt: skip


def _with_classes(task: Task, classes: Sequence[str], source: str) -> Task:
    """The task with its classes in the suite's order and by the suite's names; labels may be 0, 1, ... instead."""
    if not classes:
        return task
    numbers = {str(i): name for i, name in enumerate(classes)}
    if not set(task.labels) <= set(classes) and set(task.labels) <= set(numbers):
        examples = [replace(example, label=numbers[str(example.label)]) for example in task.examples]
        task = replace(task, examples=examples)
    else:
        _check_labels(task, classes, source)
    return replace(task, labels=tuple(classes))


def _check_labels(task: Task, known: Sequence[str], source: str) -> None:
    if new := [label for label in task.labels if label not in known]:
        found = f"It has {', '.join(map(repr, new[:5]))}; the classes are {', '.join(map(repr, known[:10]))}."
        raise DataError(f"Tried to read the labels of {source}.", found, "Write them as the data set does.")


def _content(example: Example) -> tuple[str, str | None]:
    return example.text, example.text_pair


@lru_cache(maxsize=256)
def _hub_digest(part: Part, fields: Fields) -> str:
    """sha256 of the rows: a name on the hub may hold other rows tomorrow."""
    hashed = hashlib.sha256()
    for example in _read(part, fields).examples:
        hashed.update(json.dumps([example.text, example.text_pair, example.label]).encode())
    return hashed.hexdigest()


def _part_digest(part: Part, fields: Fields) -> str:
    return _hub_digest(part, fields) if part.hub else content(part.source)


@cache
def _code() -> str:
    """sha256 of this file: what is drawn changes with it."""
    return content(__file__)
