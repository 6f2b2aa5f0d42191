"""In-context learning: nothing is tuned, the labelled rows are shown in the prompt.

Brown et al. 2020 (arXiv 2005.14165); contextual calibration of Zhao et al. 2021 (arXiv 2102.09690, section 5); examples
chosen by similarity as in Liu et al. 2022 (arXiv 2101.06804).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from handful.artifact import Artifact
from handful.backbone import Backbone
from handful.cache import FeatureCache
from handful.context import Context, context_length
from handful.costs import measured, peak_memory
from handful.crossval import seeds_of
from handful.errors import RequestError
from handful.progress import Progress, silent
from handful.prompt_costs import prompt_cost
from handful.seeds import generator
from handful.types import Example, Task
from handful.vocabulary import vocabulary
from handful.worded import check_ranked, numbered, right, templates_of


def icl(
    tasks: Sequence[Task],
    backbone: Backbone,
    *,
    shots: int | None = None,
    select: Literal["random", "balanced", "similar"] = "random",
    prompts: int = 1,
    calibrate: bool = False,
    normalise: bool = True,
    length: int = 2048,
    seed: int | Sequence[int] = 0,
    store: FeatureCache | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> list[Artifact]:
    """Shows `shots` labelled rows before each question, in the task's first template; all that fit if not given.

    `select` draws them at random, as many of each class in turn, or for each question those most like it; `prompts`
    are that many draws and orders, over whose answers is averaged. With `calibrate`, answers are relative to those to
    an empty question; with `normalise`, choices are scored by the mean over their tokens. `shots` 0 is zero-shot. Rows
    that do not fit into `length` tokens, and what the backbone reads, are left out and said in the notes.
    """
    if shots is not None and shots < 0:
        raise RequestError(f"icl was asked for with shots={shots}.", "It must be at least 0.", "Raise it.")
    check_ranked(tasks)
    words, limit = vocabulary(backbone), min(length, context_length(backbone))
    artifacts = []
    for task, own in zip(map(numbered, tasks), seeds_of(seed, len(tasks)), strict=True):
        with measured() as watch:
            asked = min(len(task.examples) if shots is None else shots, len(task.examples))
            context = Context(
                template=templates_of(task)[0], rows=_labelled(task), orders=(), calibrated=calibrate,
                normalised=normalise, limit=limit,
            )  # fmt: skip
            drawn = [order[:asked] for order in _orders(task, prompts, select, own)]
            fitting = context.fitting(backbone, task.labels, drawn)
            kept = min(map(len, fitting))
            if select == "similar" and kept:
                context = replace(context, similar=kept, orders=((),))
            else:
                context = replace(context, orders=tuple(order[:kept] for order in fitting))
            cost = prompt_cost(context, backbone, words, task.labels)
        note = [f"{kept} of {asked} rows fit into {limit} tokens beside a question"] if kept < asked else []
        artifacts.append(
            Artifact.of(
                task,
                backbone,
                recipe="icl",
                features={"kind": "context", "context": context.to_dict()},
                head={},
                estimate=None,
                cost=cost | {"seconds": round(watch.seconds, 3), "peak_memory_bytes": peak_memory(backbone.device)},
                seed=own,
                notes=(*note, "no row was held out: handful evaluate measures the accuracy on rows of yours"),
            )
        )
        progress("reading the examples", len(artifacts) / len(tasks))
    return artifacts


def _labelled(task: Task) -> tuple[Example, ...]:
    """The task's rows, each of which has a right choice (`worded.right` refuses others)."""
    right(task)
    return tuple(task.examples)


def _orders(task: Task, prompts: int, select: str, seed: int) -> list[tuple[int, ...]]:
    """Seeded orders of all rows; balanced ones take a row of each class in turn."""
    found = []
    for number in range(prompts):
        order = generator(seed, "context", str(number)).permutation(len(task.examples)).tolist()
        if select == "balanced" and task.kind == "classification":
            classes = [str(task.examples[i].label) for i in order]
            turn = [classes[:place].count(label) for place, label in enumerate(classes)]
            order = [order[i] for i in np.argsort(turn, kind="stable")]
        found.append(tuple(order))
    return found
