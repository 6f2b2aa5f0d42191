"""Tasks that end in text, on which tuning and in-context learning are compared: T-Few's files, BIG-bench and classes.

T-Few's release has few-shot training files and no test split, so what is asked are rows of its other files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from handful.errors import DataError
from handful.pools import Pool, content, digest_of
from handful.suites.base import NO_LICENCE, UNCHECKED, Suite, SuiteTask, split_file

if TYPE_CHECKING:
    from handful.types import Episode, Example, Task

SEEDS = (0, 1, 32, 42, 1024)
"""Of T-Few's files, in the order of our seeds 0 to 4."""
TEST_ROWS = 50
CHOSEN_ON = ("date_understanding", "emoji_movie", "subj", "cb")
"""Where variants of recipes were chosen; they are not reported."""


@dataclass(frozen=True)
class WordedPool:
    """A task read through a definition.

    definition  a shipped one's name, or "" for columns that are found by their names
    learned     files to learn from: one for each seed, or one from which rows are drawn
    asked       the file of the rows that are asked; None: of the other seeds' files, or set aside from the only one

    `shots` rows in all are learned from, whatever their class, and at most `TEST_ROWS` others are asked, the same ones
    for every seed but where each seed has a file of its own.
    """

    name: str
    suite: str
    metric: str
    definition: str
    learned: tuple[str, ...]
    asked: str | None = None

    def digest(self) -> str:
        said = asdict(replace(self, name="", learned=(), asked=None))
        return digest_of(said, content(__file__), self.contents())

    def contents(self) -> list[str]:
        return [content(file) for file in (*self.learned, *([self.asked] if self.asked else []))]

    def episode(self, shots: int, seed: int) -> Episode:
        from handful import episodes
        from handful.types import Episode

        several = len(self.learned) > 1
        if several and seed >= len(self.learned):
            raise DataError(
                f"Seed {seed} of {self.suite}/{self.name} was asked for.",
                f"It has a file for each of {len(self.learned)} seeds.", f"Ask for 0 to {len(self.learned) - 1}.",
            )  # fmt: skip
        own = self._read(self.learned[seed if several else 0])
        rest = [self._read(file) for file in ([self.asked] if self.asked else self.learned)]
        if several:
            query = _some(_different(rest, own.examples), own, 0)
        elif self.asked:
            query = _some(rest[0].examples, own, 0)
        else:
            query = _some(own.examples, own, 0)
        keys = set(map(_key, query.examples))
        fresh = [e for e in own.examples if _key(e) not in keys]
        if not 1 <= shots <= len(fresh):
            raise DataError(
                f"{shots} shots of {self.suite}/{self.name} were asked for.",
                f"There are {len(fresh)} rows to learn from.", "Ask for at least 1 and no more than there are.",
            )  # fmt: skip
        left = replace(own, examples=fresh, name=self.name)
        support = left if several and shots == len(fresh) else episodes.some_rows(left, shots, seed=seed)
        return Episode(support, replace(query, name=self.name))

    def rows(self) -> Task:
        own = [self._read(file) for file in self.learned]
        return replace(own[0], examples=_different(own, ()), name=self.name)

    def _read(self, file: str) -> Task:
        return _read(file, self.definition, content(file))


@lru_cache(maxsize=32)
def _read(file: str, definition: str, digest: str) -> Task:
    """A file's rows; `digest` tells one that has changed."""
    from handful import definitions, sources
    from handful.tables import read_table

    if not definition:
        return sources.load(file)
    return definitions.task_of(definitions.read(definition), read_table(file), Path(file).stem)


def _some(rows: Iterable[Example], like: Task, seed: int) -> Task:
    """At most `TEST_ROWS` of the rows, and no more than half of them if they are all there is."""
    from handful import episodes

    task = replace(like, examples=list(rows))
    alone = task.examples == list(like.examples)
    return episodes.some_rows(task, min(TEST_ROWS, len(task.examples) // (2 if alone else 1)), seed=seed)


def _different(tasks: Iterable[Task], known: Iterable[Example]) -> list[Example]:
    """The rows of several tasks, each once, without those with the content of a known one."""
    seen = set(map(_key, known))
    out: list[Example] = []
    for task in tasks:
        for example in task.examples:
            if _key(example) not in seen:
                seen.add(_key(example))
                out.append(example)
    return out


def _key(example: Example) -> tuple[object, ...]:
    return example.text, example.text_pair, example.choices, tuple((example.fields or {}).get("word", ""))


@cache
def _files(folder: Path) -> tuple[str, ...]:
    """T-Few's files of a task, one for each of its seeds."""
    found = [next(iter(sorted(folder.glob(f"train_k*_seed{seed}.jsonl"))), None) for seed in SEEDS]
    return tuple(str(file) for file in found if file is not None)


def _find(task: SuiteTask, data: Path | None) -> Pool | str:
    from handful import definitions

    if data is None:
        return "say with --data where its folder lies"
    if files := _files(data / "tfew_fewshot" / task.name):
        return WordedPool(task.name, "words", task.metric, task.name, files)
    if found := split_file(data / "bigbench_multiple_choice", task.name):
        return WordedPool(task.name, "words", task.metric, "bigbench-choice", (str(found),))
    folder = data / task.name
    train, test = split_file(folder, "train"), split_file(folder, "test")
    if train is None or test is None:
        return f"no folder tfew_fewshot/{task.name}, bigbench_multiple_choice or {task.name} with it in {data}"
    known = task.name if definitions.is_definition(task.name) else ""
    return WordedPool(task.name, "words", task.metric, known, (str(train),), str(test))


def _task(name: str, what: str, classes: int, licence: str = UNCHECKED, kind: str = "choice") -> SuiteTask:
    return SuiteTask(
        name, what, "accuracy", classes, "few-shot files or train, test", licence,
        "any" if licence.startswith("CC0") else "evaluation", kind=kind,
        note="variants of recipes were chosen on it" if name in CHOSEN_ON else "",
    )  # fmt: skip


_BIG = "Apache-2.0; keep CANARY.txt with the files, and never let them enter a pretraining corpus"
SUITE = Suite(
    name="words",
    title="Tasks that end in text",
    source="rows of T-Few's release (Liu et al. 2022), BIG-bench (Srivastava et al. 2022) and three sets with classes",
    protocol=(
        f"32 rows in all, 5 draws, accuracy on at most {TEST_ROWS} other rows. T-Few's files have no test split: seed "
        "s learns from the s-th file and is asked rows of the others that are not in it. Not the protocol of a paper. "
        f"Variants of recipes were chosen on {', '.join(CHOSEN_ON)}, which are not reported."
    ),
    shots=(32,),
    seeds=5,
    find=_find,
    tasks=(
        _task("copa", "the likelier cause or effect", 0, "BSD-2-Clause"),
        _task("winogrande", "the name that fills a gap", 0, "CC BY"),
        _task("wic", "whether a word has the same sense twice", 2, "CC BY-NC 4.0", "classification"),
        _task("rte", "whether a text entails another", 2, kind="classification"),
        _task("disambiguation_qa", "whom a pronoun means", 0, _BIG),
        _task("ruin_names", "the humorous edit of a name", 0, _BIG),
        _task("snips", "voice-assistant intent", 7, "CC0 1.0", "classification"),
        _task("sst2", "sentiment of a sentence", 2, NO_LICENCE, "classification"),
        _task("date_understanding", "a date that is described", 0, _BIG),
        _task("emoji_movie", "a film in emoji", 0, _BIG),
        _task("subj", "whether a sentence is subjective", 2, NO_LICENCE, "classification"),
        _task("cb", "whether a text entails another, or the opposite", 3, kind="classification"),
    ),
)
