"""What a suite is: tasks, protocol and published figures of a paper, and where its data is found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from handful.errors import DataError
from handful.pools import Pool
from handful.suites.drawing import Draw, Fields, Part, SplitPool, count_rows

Purpose = Literal["any", "evaluation"]
NO_LICENCE = "no licence is stated by its publishers"
UNCHECKED = "its licence was not checked"


@dataclass(frozen=True)
class Splits:
    """Where a task with a training and a test split lies.

    fields   its columns
    folders  folders below DIR that may hold it, each with its columns where they differ
    hub      `owner/name:config`, None where there is no copy that is known to be the same
    tested   names that its test split goes by: of the file below DIR any, on the hub the first
    half     only half of it is asked
    """

    fields: Fields
    folders: Mapping[str, Fields | None]
    hub: str | None = None
    tested: tuple[str, ...] = ("test",)
    draw: Draw = "class"
    half: bool = False


@dataclass(frozen=True)
class SuiteTask:
    """A task of a suite.

    what         what is asked, in a few words
    kind         "classification", "tagging" or "choice"; anything else is not served yet
    metric       the score: "accuracy", "macro_f1", "f1" (of the last class), "matthews" or "entity_f1"; `also` the
                 paper's others
    classes      names in order where they are known, `num_classes` how many there are (0: the data says, or none)
    splits       what is learned from and what is asked
    rows         rows of its files where they are known; a folder with another number holds something else
    purpose      "evaluation": measure on it, but ship nothing that was trained on it
    unserved     why it cannot be run, "" if it can
    """

    name: str
    what: str
    metric: str
    num_classes: int
    splits: str
    licence: str
    purpose: Purpose
    classes: tuple[str, ...] = ()
    kind: str = "classification"
    also: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    note: str = ""
    unserved: str = ""
    data: Splits | None = None


@dataclass(frozen=True)
class Published:
    """A figure of a paper, in per cent: `shots` None is the whole training split, `spread` a standard deviation.

    `task` may be "average". `source` says paper and table, and where they were read.
    """

    system: str
    backbone: str
    task: str
    shots: int | None
    value: float
    source: str
    spread: float | None = None


@dataclass(frozen=True)
class Suite:
    """A paper's tasks. `find` gives a task's pool, or says in words why there is none."""

    name: str
    title: str
    source: str
    protocol: str
    shots: tuple[int, ...]
    seeds: int
    tasks: tuple[SuiteTask, ...]
    find: Callable[[SuiteTask, Path | None], Pool | str]
    published: tuple[Published, ...] = ()

    def pools(self, data: Path | None = None) -> list[Pool]:
        """The tasks that are there, below `data` or, without it, on the hub.

        DataError for a folder that does not exist, and for one of a task that lacks a split.
        """
        check_folder(data, self.name)
        found = [self.found(task, data) for task in self.tasks]
        return [pool for pool in found if not isinstance(pool, str)]

    def missing(self, data: Path | None = None) -> dict[str, str]:
        """Why each of the other tasks is not there."""
        check_folder(data, self.name)
        reasons: dict[str, str] = {}
        for task in self.tasks:
            try:
                found = self.found(task, data)
            except DataError as error:
                found = str(error)
            if isinstance(found, str):
                reasons[task.name] = found
        return reasons

    def found(self, task: SuiteTask, data: Path | None) -> Pool | str:
        """The pool of a task, or why there is none."""
        return f"not served yet: {task.unserved}" if task.unserved else self.find(task, data)


def find_splits(suite: str) -> Callable[[SuiteTask, Path | None], Pool | str]:
    """How a suite of tasks with a training and a test split finds them."""

    def find(task: SuiteTask, data: Path | None) -> Pool | str:
        assert task.data is not None
        if data is not None:
            return _find_below(task, task.data, suite, data)
        if task.data.hub is None:
            return "no copy on the hub is known; say with --data where its folder lies"
        train = Part(task.data.hub, "train", hub=True)
        test = Part(task.data.hub, task.data.tested[0], hub=True)
        return why_not_on_hub(task.data.hub) or _pool(task, task.data, suite, train, test, task.data.fields)

    return find


def _find_below(task: SuiteTask, where: Splits, suite: str, data: Path) -> Pool | str:
    reasons: list[str] = []
    for name, fields in where.folders.items():
        folder = data / name
        train, test = split_file(folder, "train"), split_file(folder, *where.tested)
        if train is None and test is None:
            continue
        if train is None or test is None:
            raise lacking(suite, task.name, folder, "train" if train is None else " or ".join(where.tested))
        if reason := another(task, folder, {"train": train, where.tested[0]: test}):
            reasons.append(reason)
            continue
        return _pool(task, where, suite, Part(str(train)), Part(str(test)), fields or where.fields)
    return "; ".join(reasons) or f"no folder {' or '.join(where.folders)} in {data}"


def _pool(task: SuiteTask, where: Splits, suite: str, train: Part, test: Part, fields: Fields) -> SplitPool:
    return SplitPool(task.name, suite, task.metric, train, test, fields, task.classes, where.draw, where.half)


def another(task: SuiteTask, folder: Path, files: Mapping[str, Path]) -> str:
    """Why the files in a folder are not the paper's, by their numbers of rows; "" if they may be."""
    for name, file in files.items():
        if name in task.rows and (held := count_rows(file)) != task.rows[name]:
            return f"{folder} holds other rows: {held:,} in {file.name}, the paper's are {task.rows[name]:,}"
    return ""


def lacking(suite: str, task: str, folder: Path, split: str) -> DataError:
    todo = f"Put {split}.jsonl (.csv, .tsv, .parquet, also .gz) there, or take the folder away."
    return DataError(f"{suite}/{task} was to be read from {folder}.", f"It has no split {split}.", todo)


def split_file(folder: Path, *names: str) -> Path | None:
    """The file of a split, whatever its format."""
    files = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    return next((file for name in names for file in files if file.name.split(".")[0] == name), None)


def check_folder(data: Path | None, suite: str) -> None:
    if data is not None and not data.is_dir():
        raise DataError(
            f"The data of {suite} was to be found in {data}.", "There is no such folder.", "See docs/suites.md."
        )


@cache
def why_not_on_hub(hub: str) -> str:
    """Why a data set of the hub cannot be read here, "" if it can; asks the hub, or its cache when offline."""
    if find_spec("datasets") is None:
        return "reading from the hub needs: pip install 'handful[data]'; or give its folder with --data"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "ON", "YES", "TRUE"):
        return _why_unreachable()
    import datasets

    name, _, config = hub.partition(":")
    try:
        datasets.load_dataset_builder(name, config or None)
    except Exception:  # the reader raises errors of many libraries
        return f"HF_HUB_OFFLINE is set and {hub} was not downloaded before; give its folder with --data"
    return ""


@cache
def _why_unreachable() -> str:
    """One question to the hub a process, so that a machine without network says so at once."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info("nyu-mll/glue", timeout=10)
    except HfHubHTTPError:
        return ""  # it answered
    except Exception as error:  # what the network layer raises
        return f"the hub cannot be reached ({type(error).__name__}); give its folder with --data"
    return ""
