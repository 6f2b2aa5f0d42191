"""Tasks that episodes are drawn from: files and folders of a user here, the papers' in `suites`.

A pool is made cheaply. It reads its rows when the first episode is drawn; what it would draw from is told by `digest`,
so that a grid whose cells are all there never reads a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from handful.errors import DataError, RequestError

if TYPE_CHECKING:
    from handful.types import Episode, Task


class Pool(Protocol):
    """A task that episodes are drawn from.

    name    how tables call it, unique in a grid
    suite   the suite that it belongs to, "" for a user's own data
    metric  which measure is its score: "accuracy", "macro_f1", "f1" (of the last class), "matthews" or "entity_f1"
    """

    @property
    def name(self) -> str: ...
    @property
    def suite(self) -> str: ...
    @property
    def metric(self) -> str: ...
    def digest(self) -> str:
        """sha256 of everything that decides what is drawn, but shots and seed."""
        ...

    def contents(self) -> list[str]:
        """A sha256 of each file that it reads, whatever is drawn: two pools that share one are of the same data."""
        ...

    def episode(self, shots: int, seed: int) -> Episode:
        """What is learned from and what is asked; the same in every process. DataError where it cannot be drawn."""
        ...

    def rows(self) -> Task:
        """All rows that may be learned from, of all classes."""
        ...


@dataclass(frozen=True)
class Reading:
    """How files are read: columns that are not given are found by name (`sources.load`).

    drop_overlap  rows of the training split that are in the test split too are left out of the training split
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    separator: str | None = None
    template: str | None = None
    drop_overlap: bool = False


@dataclass(frozen=True)
class FilePool:
    """A labelled file; what is asked are the rows of `test`, or all that were not drawn where there is none.

    ways       so many classes, drawn anew with each seed; None for all
    test_rows  at most so many rows are asked, the same ones whenever the classes are; None for all
    """

    name: str
    train: str
    test: str | None = None
    reading: Reading = field(default_factory=Reading)
    ways: int | None = None
    test_rows: int | None = None
    suite: str = ""
    metric: str = "accuracy"

    def digest(self) -> str:
        said = asdict(replace(self, name="", train="", test=None))
        return digest_of(said, self.contents())

    def contents(self) -> list[str]:
        return [content(source) for source in (self.train, self.test) if source is not None]

    def episode(self, shots: int, seed: int) -> Episode:
        from handful import episodes
        from handful.types import Episode

        if self.test is None:
            task = replace(_read(self.train, self.reading, _stamp(self.train)), name=self.name)
            drawn = episodes.sample(task, shots, seed=seed, ways=self.ways)
            return Episode(drawn.support, first_rows(drawn.query, self.test_rows))
        both = _read_both(self.train, self.test, self.reading, _stamp(self.train), _stamp(self.test))
        task, test = (replace(part, name=self.name) for part in both)
        if self.ways is not None:
            task = episodes.some_classes(task, self.ways, seed=seed)
            kept = [i for i, example in enumerate(test.examples) if example.label in task.labels]
            test = episodes.subset(test, kept)
        query = first_rows(replace(test, labels=task.labels), self.test_rows)
        return Episode(episodes.shots(task, shots, seed=seed), query)

    def rows(self) -> Task:
        if self.test is None:
            task = _read(self.train, self.reading, _stamp(self.train))
        else:
            task, _ = _read_both(self.train, self.test, self.reading, _stamp(self.train), _stamp(self.test))
        return replace(task, name=self.name)


def find_pools(
    source: str, test: str | None = None, reading: Reading | None = None, *, ways: int | None = None,
    test_rows: int | None = None,
) -> list[FilePool]:  # fmt: skip
    """The pools of a file, or of a folder: `train.*` (and `test.*`) in it is one task, in its folders several.

    DataError for a folder without a training split anywhere.
    """
    reading, path = reading or Reading(), Path(source).expanduser()
    if source == "-":
        found = "Standard input can be read only once, and a comparison reads its data more than once."
        raise RequestError("Tasks were to be read from standard input.", found, "Save them in a file.")
    if not path.is_dir():
        name = path.parent.name if _plain(path) in ("train", "dev") and path.parent.name else _plain(path)
        return [FilePool(name.removeprefix("package:"), source, test, reading, ways, test_rows)]
    folders = [path, *sorted(p for p in path.rglob("*") if p.is_dir())]
    found = [(folder, _split(folder, "train"), _split(folder, "test")) for folder in folders]
    if alone := [str(held) for _, train, held in found if train is None and held is not None]:
        raise DataError(
            f"The tasks in {source} were asked for.", f"{alone[0]} has no training split beside it.",
            "Put a train.csv (.tsv, .jsonl, .parquet, also .gz) beside it, or name one file.",
        )  # fmt: skip
    pools = [
        FilePool(
            str(folder.relative_to(path.parent)), str(train), test or (str(held) if held else None), reading, ways,
            test_rows,
        )
        for folder, train, held in found if train is not None
    ]  # fmt: skip
    if not pools:
        raise DataError(
            f"The tasks in {source} were asked for.", "No folder in it has a training split.",
            "A task is a folder with train.csv (.tsv, .jsonl, .parquet, also .gz) and, better, a test split of rows "
            "that are not in it; or name one file.",
        )  # fmt: skip
    return pools


def content(source: str) -> str:
    """sha256 of what a source holds: of a file its bytes, of anything else its rows."""
    path = Path(source).expanduser()
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return digest_of([str(example) for example in _read(source, Reading(), ()).examples])


def digest_of(*parts: object) -> str:
    """sha256 of plain values, the same in every process."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str).encode()).hexdigest()


def overlap(train: Task, test: Task) -> list[tuple[str, str | None]]:
    """Texts, with their second texts, that are in both."""
    known = {(example.text, example.text_pair) for example in train.examples}
    return [content for content in dict.fromkeys((e.text, e.text_pair) for e in test.examples) if content in known]


def first_rows(task: Task, most: int | None) -> Task:
    """At most so many rows of a task, drawn once and for all."""
    from handful import episodes

    return task if most is None or len(task.examples) <= most else episodes.some_rows(task, most, seed=0)


@lru_cache(maxsize=64)
def _read(source: str, reading: Reading, stamp: tuple[int, ...]) -> Task:
    """What a source holds; `stamp` tells a file that has changed from what it was."""
    from handful.sources import load

    task = load(source, reading.text, reading.text_pair, reading.label, multilabel_separator=reading.separator)
    return replace(task, template=reading.template)


@lru_cache(maxsize=64)
def _read_both(
    train: str, test: str, reading: Reading, of_train: tuple[int, ...], of_test: tuple[int, ...]
) -> tuple[Task, Task]:
    """What to draw from and what to measure on. DataError where rows are in both, or labels only in the second."""
    from handful.episodes import subset
    from handful.sources import load_test

    known = _read(train, reading, of_train)
    found = load_test(test, reading.text, reading.text_pair, reading.label, multilabel_separator=reading.separator)
    asked = f"Rows of {test} were to be asked of what learns from {train}."
    both = overlap(known, found)
    if both and not reading.drop_overlap:
        shown = ", ".join(repr(text[:60]) for text, _ in both[:3]) + (f" and {len(both) - 3} more" if both[3:] else "")
        todo = "An accuracy on rows that were learned from says nothing: remove them from one of the files, or leave "
        raise DataError(
            asked, f"{len(both)} of its texts are in both: {shown}.", f"{todo}them out with --drop-overlap."
        )
    if new := [label for label in found.labels if label not in known.labels]:
        raise DataError(
            asked, f"It has labels that are not learned: {', '.join(map(repr, new[:5]))}.",
            "Correct the labels, or add examples of them to the training split.",
        )  # fmt: skip
    shared = set(both)
    kept = subset(known, [i for i, e in enumerate(known.examples) if (e.text, e.text_pair) not in shared])
    return kept, replace(found, labels=known.labels, kind=known.kind, template=reading.template)


def _stamp(source: str) -> tuple[int, ...]:
    path = Path(source).expanduser()
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else ()


def _split(folder: Path, name: str) -> Path | None:
    files: Sequence[Path] = sorted(p for p in folder.iterdir() if p.is_file() and _plain(p) == name)
    return files[0] if files else None


def _plain(path: Path) -> str:
    return path.name.split(".")[0]
