"""The sets on which handful's own recipes are developed and reported: training on them is allowed.

Options of recipes were chosen on some of them (`CHOSEN_ON`); figures of those are no forecast for new data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful.errors import DataError
from handful.pools import FilePool, Pool, Reading, content, digest_of
from handful.suites.base import Suite, SuiteTask, another, lacking, split_file

if TYPE_CHECKING:
    from handful.types import Episode, Task

CHOSEN_ON = ("banking77", "snips", "query_wellformedness")
"""On these the options of `recipes/default.py` were chosen; on the others they were only judged."""
TEST_ROWS = 500
_READING = Reading(text="text", label="label", drop_overlap=True)


@dataclass(frozen=True)
class RelationPool:
    """A file of `tokens`, `head`, `tail` and `label` without a split of its own: some rows are kept to be asked.

    Head and tail are marked in the text: `[e1]...[/e1]` and `[e2]...[/e2]`. The rows that are asked are always the
    same; rows with the text of one of them are never learned from.
    """

    name: str
    suite: str
    metric: str
    file: str
    test_rows: int

    def digest(self) -> str:
        return digest_of(asdict(replace(self, name="", file="")), _code(), self.contents())

    def contents(self) -> list[str]:
        return [content(self.file)]

    def episode(self, shots: int, seed: int) -> Episode:
        from handful import episodes
        from handful.types import Episode

        train, test = _cut(self.file, self.test_rows, content(self.file))
        support = episodes.shots(replace(train, name=self.name), shots, seed=seed)
        return Episode(support, replace(test, name=self.name))

    def rows(self) -> Task:
        return replace(_cut(self.file, self.test_rows, content(self.file))[0], name=self.name)


def marked(tokens: Sequence[str], head: Sequence[int], tail: Sequence[int]) -> str:
    """Tokens as one text, with the words from the first to the last place of head and tail marked."""
    words = list(tokens)
    for name, places in (("e1", head), ("e2", tail)):
        words[min(places)] = f"[{name}]{words[min(places)]}"
        words[max(places)] = f"{words[max(places)]}[/{name}]"
    return " ".join(words)


@lru_cache(maxsize=8)
def _cut(file: str, test_rows: int, digest: str) -> tuple[Task, Task]:
    """The rows of a file to learn from and those that are asked; `digest` tells a file that has changed."""
    from handful import episodes
    from handful.sources import from_lists
    from handful.tables import read_table

    rows = read_table(Path(file)).rows
    task, _ = from_lists([_text(row, file) for row in rows], [row.get("label") for row in rows])
    test = episodes.some_rows(task, min(test_rows, len(rows) // 2), seed=0)
    asked = {example.text for example in test.examples}
    return episodes.subset(task, (i for i, e in enumerate(task.examples) if e.text not in asked)), test


def _text(row: dict[str, Any], file: str) -> str:
    try:
        return marked(row["tokens"], row["head"], row["tail"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"Tried to read relations from {file}.", f"A row lacks tokens, head or tail ({error}).",
            "Each row has a list of words, and the places of head and tail in it.",
        ) from error  # fmt: skip


@cache
def _code() -> str:
    return content(__file__)


_FOLDERS = {
    "multiemo_hotels": "multiemo_sentiment/hotels_en",
    "multiemo_products": "multiemo_sentiment/products_en",
}
_DRAWN = {"banking77": 10, "clinc150": 10}


def _find(task: SuiteTask, data: Path | None) -> Pool | str:
    if data is None:
        return "say with --data where its folder lies"
    folder = data / _FOLDERS.get(task.name, task.name)
    names = list(task.rows)
    files = {name: split_file(folder, name) for name in names}
    found = {name: file for name, file in files.items() if file is not None}
    if not found:
        return f"no folder {folder.relative_to(data)} with data in {data}"
    if lost := [name for name in names if name not in found]:
        raise lacking("dev", task.name, folder, lost[0])
    if reason := another(task, folder, found):
        return reason
    if "all" in found:
        return RelationPool(task.name, "dev", task.metric, str(found["all"]), TEST_ROWS)
    return FilePool(
        task.name, str(found["train"]), str(found["test"]), _READING, _DRAWN.get(task.name), TEST_ROWS, suite="dev",
        metric=task.metric,
    )  # fmt: skip


def _task(name: str, what: str, classes: int, licence: str, **rows: int) -> SuiteTask:
    return SuiteTask(
        name, what, "accuracy", classes, ", ".join(rows), licence, "any", rows=rows,
        note="options of handful's recipes were chosen on it" if name in CHOSEN_ON else "",
    )  # fmt: skip


SUITE = Suite(
    name="dev",
    title="Development sets of handful",
    source="sets that may be trained on, as the data folder of this project has them; not a paper's suite",
    protocol=(
        f"4, 8 or 16 examples of each class from the training rows, 5 draws, accuracy on at most {TEST_ROWS} test "
        "rows, the same ones for every cell. banking77 and clinc150 are ten-way: the classes are drawn anew with each "
        "seed. Of fewrel_wiki, which has no test split, test rows are set aside. Training rows that are also test rows "
        "are not drawn. handful is developed on these sets: options of its recipes were chosen on "
        f"{', '.join(CHOSEN_ON)}."
    ),
    shots=(4, 8, 16),
    seeds=5,
    find=_find,
    tasks=(
        _task("banking77", "banking intent, ten of 77 classes", 10, "CC BY 4.0", train=10003, test=3080),
        _task("clinc150", "assistant intent, ten of 150 classes", 10, "CC BY 3.0", train=15000, test=4500),
        _task("snips", "voice-assistant intent", 7, "CC0 1.0", train=13784, test=700),
        _task("fewrel_wiki", "relation of two marked entities", 16, "MIT", all=5600),
        _task("query_wellformedness", "is a query a well-formed question", 2, "CC BY-SA 4.0", train=10000, test=3850),
        _task(
            "multiemo_hotels", "sentiment of a sentence of a hotel review, English", 4, "CC BY-SA 4.0",
            train=999, test=1001,
        ),
        _task(
            "multiemo_products", "sentiment of a sentence of a product review, English", 4, "CC BY-SA 4.0",
            train=1000, test=1001,
        ),
        _task("chatterbot_topics", "topic of a question or remark", 5, "BSD", train=183, test=184),
    ),
)  # fmt: skip
