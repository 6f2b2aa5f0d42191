"""RAFT's suite: its development mode, and what was published of its hidden test labels. `raftdata` reads the tasks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from handful.errors import DataError
from handful.pools import Pool, content, digest_of
from handful.suites.base import UNCHECKED, Published, Suite, SuiteTask
from handful.suites.drawing import Part
from handful.suites.raftdata import NAME, ROWS, SPECS, locate, read

if TYPE_CHECKING:
    from handful.types import Episode, Task

FOLDS = 5
LEARNED = ROWS - ROWS // FOLDS


@dataclass(frozen=True)
class RaftPool:
    """A task in T-Few's development mode: seed s asks the s-th fifth of the 50 rows of what learns from the others.

    The fifths are ours, of one seeded order. Rows that are also asked are never learned from.
    """

    name: str
    suite: str
    metric: str
    train: Part
    classes: tuple[str, ...] = ()

    def digest(self) -> str:
        return digest_of(asdict(replace(self, name="", train=Part(""))), _code(), self.contents())

    def contents(self) -> list[str]:
        if not self.train.hub:
            return [content(self.train.source)]
        return [digest_of([(e.text, e.label) for e in self.rows().examples])]  # a name may hold other rows tomorrow

    def episode(self, shots: int, seed: int) -> Episode:
        from handful import episodes
        from handful.types import Episode

        if not (1 <= shots <= LEARNED and 0 <= seed < FOLDS):
            raise DataError(
                f"Episode {seed} with {shots} shots of {self.suite}/{self.name} was asked for.",
                f"Its {ROWS} rows are cut into {FOLDS} parts, one of them to ask.",
                f"Ask for 1 to {LEARNED} shots in all and seeds 0 to {FOLDS - 1}.",
            )
        task, order = self.rows(), list(range(ROWS))
        random.Random(NAME).shuffle(order)
        part = order[seed * (ROWS - LEARNED) :][: ROWS - LEARNED]
        known = {task.examples[i].text for i in part}
        rest = [i for i in order if task.examples[i].text not in known]
        return Episode(episodes.subset(task, sorted(rest[:shots])), episodes.subset(task, sorted(part)))

    def rows(self) -> Task:
        return read(self.name, self.train, self.classes)


@cache
def _code() -> str:
    return content(__file__)


def _find(task: SuiteTask, data: Path | None) -> Pool | str:
    where = locate(task.name, data)
    return where if isinstance(where, str) else RaftPool(task.name, NAME, task.metric, where.train, where.classes)


def average(scores: Mapping[str, float]) -> tuple[float | None, tuple[str, ...]]:
    """The mean over the tasks that are there, None if none is, and the names of those that are not."""
    held = [scores[name] for name in SPECS if name in scores]
    return (sum(held) / len(held) if held else None), tuple(name for name in SPECS if name not in scores)


_WHAT = {
    "ade_corpus_v2": "does a sentence report a harmful effect of a drug",
    "banking_77": "what a customer of a bank wants",
    "neurips_impact_statement_risks": "does an impact statement name a risk",
    "one_stop_english": "how advanced the English of an article is",
    "overruling": "does a sentence of a court overrule a decision",
    "semiconductor_org_types": "type of an organization",
    "systematic_review_inclusion": "does a paper belong in a review",
    "tai_safety_research": "is a work about the safety of transformative AI",
    "terms_of_service": "is a sentence of terms of service unfair",
    "tweet_eval_hate": "is a tweet hateful",
    "twitter_complaints": "does a tweet complain",
}
_TABLE = (
    "Liu et al. 2022 (arXiv 2205.05638v2), table of RAFT, in per cent, on hidden test labels; as in the sheet of "
    "T-Few, where each average agrees with its cells"
)
_UNSAID = "not stated where it was read"
_FIGURES = {
    ("T-Few", "T0 (11B)"): (80.4, 69.5, 83.3, 67.6, 95.0, 91.5, 50.8, 73.6, 75.0, 58.6, 87.9, 75.8),
    ("Human", "none"): (83.0, 60.7, 85.7, 64.6, 91.7, 90.8, 46.8, 60.9, 62.7, 72.2, 89.7, 73.5),
    ("PET", _UNSAID): (82.2, 59.3, 85.7, 64.6, 90.8, 81.6, 49.3, 63.8, 57.6, 48.3, 82.4, 69.6),
    ("SetFit", _UNSAID): (72.6, 53.8, 87.2, 52.1, 90.7, 68.2, 49.3, 62.8, 62.0, 53.2, 83.7, 66.9),
    ("GPT-3", _UNSAID): (68.6, 29.9, 67.9, 43.1, 93.7, 76.9, 51.6, 65.6, 57.4, 52.6, 82.1, 62.7),
}
"""The tasks in the order of `SPECS`, then the average."""

SUITE = Suite(
    name=NAME,
    title="RAFT: eleven tasks with 50 labelled rows each",
    source="Alex et al. 2021; protocol and figures: Liu et al. 2022 (arXiv 2205.05638); data: ought/raft on the hub",
    protocol=(
        f"The benchmark: all {ROWS} rows are learned from, nothing is held out, and the score is the mean of the "
        "tasks' macro-F1 on test labels that it keeps to itself; `handful raft` fits the tasks and writes what it "
        f"takes. Here, T-Few's development mode: the {ROWS} rows are cut into {FOLDS} parts, seed s asks the s-th, and "
        f"up to {LEARNED} of the others are learned from. The score is macro-F1 over the classes that occur among "
        f"{ROWS - LEARNED} rows or their answers, and does not compare with published figures. T-Few's paper calls "
        "those accuracy; that they are macro-F1 was not confirmed."
    ),
    shots=(LEARNED,),
    seeds=FOLDS,
    find=_find,
    tasks=tuple(
        SuiteTask(
            name, _WHAT[name], "macro_f1", spec.num_classes, "train; test without labels", UNCHECKED,
            "evaluation", rows={"train": ROWS},
        )
        for name, spec in SPECS.items()
    ),
    published=tuple(
        Published(system, backbone, task, None, value, _TABLE)
        for (system, backbone), row in _FIGURES.items()
        for task, value in zip((*SPECS, "average"), row, strict=True)
    ),
)  # fmt: skip
