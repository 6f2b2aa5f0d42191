"""Named entities in many languages: Universal NER, MasakhaNER 2.0, and the WikiAnn layout.

`ner` keeps each source's own types; `ner3` keeps persons, places and organisations and maps the others to O, so that
all tasks have one tag set and can share a head.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from handful.pools import Pool, content, digest_of
from handful.suites.base import Suite, SuiteTask, another, lacking, split_file

if TYPE_CHECKING:
    from handful.types import Episode, Task

COMMON = ("PER", "LOC", "ORG")
TEST_ROWS = 500


@dataclass(frozen=True)
class TaggedPool:
    """Tagged sentences with a training and a test split; `kinds` are the entity types to keep, () for all.

    At most `test_rows` test sentences are asked, always the same. Training sentences that are also test sentences are
    never drawn.
    """

    name: str
    suite: str
    metric: str
    train: str
    test: str
    kinds: tuple[str, ...] = ()
    test_rows: int = TEST_ROWS

    def digest(self) -> str:
        return digest_of(asdict(replace(self, name="", train="", test="")), _code(), self.contents())

    def contents(self) -> list[str]:
        return [content(self.train), content(self.test)]

    def episode(self, shots: int, seed: int) -> Episode:
        from handful import episodes
        from handful.pools import first_rows
        from handful.types import Episode

        train, test = _read(self, *self.contents())
        return Episode(episodes.shots(train, shots, seed=seed), first_rows(test, self.test_rows))

    def rows(self) -> Task:
        return _read(self, *self.contents())[0]


@lru_cache(maxsize=32)
def _read(pool: TaggedPool, train_digest: str, test_digest: str) -> tuple[Task, Task]:
    """All sentences to draw from and those that are asked, with one tag set; the digests tell files that changed."""
    from handful import episodes
    from handful.tables import read_table
    from handful.tagged import tagging_task
    from handful.tagging import restricted, types_of

    train, test = (tagging_task(read_table(Path(f), tagged=True), pool.name) for f in (pool.train, pool.test))
    kinds = pool.kinds or tuple(dict.fromkeys([*types_of(train.labels), *types_of(test.labels)]))
    train, test = restricted(train, kinds), restricted(test, kinds)
    asked = {example.words for example in test.examples}
    return episodes.subset(train, (i for i, e in enumerate(train.examples) if e.words not in asked)), test


@cache
def _code() -> str:
    return content(__file__)


def _finder(suite: str, kinds: tuple[str, ...]):
    def find(task: SuiteTask, data: Path | None) -> Pool | str:
        if data is None:
            return "say with --data where its folder lies"
        source, _, language = task.name.partition("_")
        folder = data / source / language
        train, test = split_file(folder, "train"), split_file(folder, "test")
        if source == "uner" and train is None:
            train = split_file(folder, "dev")  # English has no training split of its own
        if train is None and test is None:
            return f"no folder {source}/{language} with data in {data}"
        if train is None or test is None:
            raise lacking(suite, task.name, folder, "train" if train is None else "test")
        if reason := another(task, folder, {train.name.split(".")[0]: train, "test": test}):
            return reason
        return TaggedPool(task.name, suite, task.metric, str(train), str(test), kinds)

    return find


_UNER = {
    "en": ("English, EWT", {"dev": 2001, "test": 2077}, 3),
    "da": ("Danish, DDT", {"train": 4000, "test": 565}, 3),
    "pt": ("Portuguese, Bosque", {"train": 4000, "test": 1167}, 3),
    "hr": ("Croatian, SET", {"train": 4000, "test": 1136}, 4),
    "zh": ("Chinese, GSDSIMP", {"train": 3997, "test": 500}, 3),
}
_MASAKHANER = {"swa": "Swahili", "hau": "Hausa", "yor": "Yoruba", "kin": "Kinyarwanda", "pcm": "Nigerian Pidgin"}
_WIKIANN = {"en": "English", "da": "Danish", "pt": "Portuguese", "hr": "Croatian", "zh": "Chinese", "sw": "Swahili", "yo": "Yoruba"}  # fmt: skip  # noqa: E501


def _tasks() -> tuple[SuiteTask, ...]:
    uner = [
        SuiteTask(
            f"uner_{code}", f"entities of {name}", "entity_f1", kinds, ", ".join(rows), "CC BY-SA 4.0", "any",
            kind="tagging", rows=rows,
            note="it has no training split: its development split is learned from" if "dev" in rows else "",
        )
        for code, (name, rows, kinds) in _UNER.items()
    ]  # fmt: skip
    masakhaner = [
        SuiteTask(
            f"masakhaner2_{code}", f"entities of {name} news", "entity_f1", 4, "train, test",
            "CC BY-NC 4.0: no commercial use", "evaluation", kind="tagging",
        )
        for code, name in _MASAKHANER.items()
    ]  # fmt: skip
    wikiann = [
        SuiteTask(
            f"wikiann_{code}", f"entities of {name} Wikipedia, tagged by machine", "entity_f1", 3, "train, test",
            "its licence was not checked", "evaluation", kind="tagging",
        )
        for code, name in _WIKIANN.items()
    ]  # fmt: skip
    return (*uner, *masakhaner, *wikiann)


def _suite(name: str, kinds: tuple[str, ...]) -> Suite:
    kept = f"only {', '.join(kinds)}; other entities count as O" if kinds else "as each source has them"
    return Suite(
        name=name,
        title="Named entities in many languages" + (", of three types" if kinds else ""),
        source=(
            "Universal NER (Mayhew et al. 2024), MasakhaNER 2.0 (Adelani et al. 2022), and WikiAnn (Pan et al. 2017); "
            "not a paper's suite"
        ),
        protocol=(
            "Training sentences are drawn greedily until each type has 4, 8 or 16 entities, the rarest first, beside "
            "as many sentences without an entity; 5 draws. Micro entity F1, as seqeval counts it, on at most "
            f"{TEST_ROWS} test sentences, the same ones for every cell. Training sentences that are also test "
            f"sentences are not drawn. Types: {kept}. Below DIR: uner/LANG, masakhaner2/LANG and wikiann/LANG, each "
            "with a file train (or, of uner_en, dev) and a file test."
        ),
        shots=(4, 8, 16),
        seeds=5,
        find=_finder(name, kinds),
        tasks=_tasks(),
    )


SUITE = _suite("ner", ())
COMMON_SUITE = _suite("ner3", COMMON)
