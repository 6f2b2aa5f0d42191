"""Pretraining a method on a mixture of tasks that end in text, as a prior for `tfew` to start from.

Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning" (T-Few,
arXiv 2205.05638), section 3.4. To `fit` a mixture is one task, whose rows were drawn beforehand: as many as its steps
take, so that one pass in seeded order sees each of them once. Only what was drawn is read into tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from handful.attach import attach
from handful.backbone import Backbone, shared
from handful.batches import Rows, stack
from handful.choice_losses import summed
from handful.choices import Spoken, together
from handful.chooser import Chooser
from handful.console import write_whole
from handful.counting import method_said
from handful.errors import MethodError, RequestError, RunError
from handful.fit import Schedule, fit
from handful.holdouts import overlap
from handful.looks import Looks, Watching
from handful.methods import Method
from handful.mixtures import CAP, Source, draw, hold_out, read_mixture, shares, some, spoken_rows
from handful.optim import OptimizerName
from handful.prior import Prior
from handful.progress import Progress, silent
from handful.types import stack_params, task_params
from handful.vocabulary import vocabulary
from handful.worded import wording_cost

LOOKED_AT = 32
"""Rows of each held-out task that are looked at."""


@dataclass(frozen=True)
class Pretraining:
    """How long, how fast and on what to pretrain; the defaults are T-Few's, but for the number of steps (100,000).

    losses      joined by +, as `tfew` has them
    length      tokens of a prompt with its longest choice
    cap         of a task's rows, before they are divided by the number of its templates (`mixtures.shares`)
    validation  rows of each task to hold out and look at; 0 for none
    looks       steps between two looks at them, of which there is one before the first step and one after the last
    """

    steps: int = 1000
    batch: int = 16
    lr: float = 3e-4
    losses: str = "lm"
    optimizer: OptimizerName = "adafactor-scaled"
    warmup: float = 0.06
    length: int = 256
    cap: float = CAP
    validation: int = LOOKED_AT
    looks: int = 250

    def __post_init__(self) -> None:
        summed(self.losses)
        asked = "Pretraining was asked for."
        for name in ("steps", "batch", "lr", "length", "cap", "looks"):
            if not getattr(self, name) > 0:
                raise RequestError(asked, f"{name} is {getattr(self, name):g}.", "Give a number above 0.")
        if self.optimizer not in get_args(OptimizerName):
            known = ", ".join(get_args(OptimizerName))
            raise RequestError(asked, f"There is no optimizer {self.optimizer!r}.", f"Choose one of {known}.")

    def schedule(self) -> Schedule:
        return Schedule(
            steps=self.steps, lr=self.lr, batch_size=self.batch, optimizer=self.optimizer, warmup=self.warmup
        )


def pretrain(
    tasks: Sequence[str] | Sequence[Source],
    *,
    backbone: str | Backbone,
    method: str | Method = "ia3",
    course: Pretraining | None = None,
    held_out: Sequence[str] | Sequence[Source] = (),
    force: bool = False,
    data: str | Path | None = None,
    seed: int = 0,
    dtype: str | None = None,
    device: str = "cpu",
    name: str = "prior",
    command: str = "",
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Prior:
    """Tunes `method` on a mixture of tasks that end in text; `prior.save_prior` writes what it has come to.

    tasks       what `mixtures.read_mixture` reads, or its sources
    held_out    the same, of tasks to look at on the way: DataError for rows that are in both, unless `force`
    data        the folder of suites
    checkpoint  a file to continue from, and to keep progress in; RequestError where it was kept for another request

    The last step's parameters are kept: looks choose nothing. RunError where the training diverges.
    """
    course = course or Pretraining()
    value = _trainable(method_said(method) if isinstance(method, str) else method)
    sources, others = (_sources(given, data) for given in (tasks, held_out))
    if not sources:
        raise RequestError("Pretraining was asked for.", "No data was given.", "Name files or tasks of suites.")
    overlap(sources, [source.task for source in others], force=force, how="pretraining")
    frozen = shared(backbone, dtype=dtype, device=device) if isinstance(backbone, str) else backbone
    if checkpoint:
        digests = [source.digest() for source in [*sources, *others]]
        asked = {"method": str(value), **asdict(course), "seed": seed, "number format": str(frozen.dtype)}
        asked = {"backbone": [frozen.id, frozen.fingerprint], **asked, "data": digests}
        _same(checkpoint.with_suffix(".json"), asked)
    sources, looked = hold_out(sources, course.validation, seed=seed)
    held = [some(own, LOOKED_AT, seed=seed) for own in others]
    chances = shares(sources, course.cap)
    drawn = draw(sources, chances, course.steps * course.batch, seed=seed)
    rows = mixed_rows(frozen, sources, drawn, course, progress)
    adapted, loss = attach(frozen, value), summed(course.losses)
    model, start = Chooser(adapted, vocabulary(frozen)), stack_params([adapted.init(seed)])
    looks = Looks.of(frozen, [*looked, *held], course.length)
    watch = Watching(model, looks, loss, steps=course.steps, batch=course.batch, every=course.looks, progress=progress)
    watch.look(0, start)
    params, history = fit(
        model, start, rows, loss, course.schedule(), seed=seed, watch=watch, checkpoint=checkpoint,
        memory=watch.memory, method=value,
    )  # fmt: skip
    if 0 in history.stopped:
        raise RunError(
            f"{course.steps} steps of pretraining were to be taken.", f"It diverged: {history.stopped[0]}.",
            f"Lower the learning rate ({course.lr:g}).",
        )  # fmt: skip
    speed, tuned = watch.speed, task_params(params, 0)
    after, learned = value.finished(tuned, adapted.sites)
    seen, own = watch.of_each([*looked, *held]), range(len(rows.pool.row_mask))
    flops = wording_cost(model, tuned, loss, rows.pool, own, steps=course.steps, batch_size=course.batch)
    told = [_told(s, share, drawn[drawn[:, 0] == i]) for i, (s, share) in enumerate(zip(sources, chances, strict=True))]
    said = [{"name": s.name, "digest": s.digest(), **seen[s.spec, s.name]} for s in held]
    return Prior(
        name=name, backbone=frozen.id, fingerprint=frozen.fingerprint, method=after, algorithm=None, learned=learned,
        sites=attach(frozen, after).site_table(), seed=seed, step=course.steps, command=command,
        data=[data | seen.get((s.spec, s.name), {}) for data, s in zip(told, sources, strict=True)],
        course=asdict(course) | {"dtype": str(frozen.dtype).removeprefix("torch."), "held_out": said},
        curve=watch.curve(len(looked), history.losses[:, 0]),
        cost={"rows": course.steps * course.batch, "training_flops": flops["training_flops"], **speed},
    )  # fmt: skip


def mixed_rows(
    backbone: Backbone, sources: Sequence[Source], drawn: np.ndarray, course: Pretraining, progress: Progress = silent
) -> Rows:
    """Everything that was drawn, as the rows of one task: each in tokens once, however often it was drawn.

    Where language modelling is the only loss the right choice alone is spoken, as where rows have answers, not choices.
    """
    distinct, place = np.unique(drawn, axis=0, return_inverse=True)
    spoken, gold = list[Spoken](), list[int]()
    for source, turn in np.unique(distinct[:, :2], axis=0).tolist():
        own = distinct[(distinct[:, :2] == (source, turn)).all(1), 2].tolist()
        progress(f"reading {sources[source].name}", len(spoken) / len(distinct))
        alone = course.losses == "lm" or sources[source].task.kind == "generation"
        right = [sources[source].right[i] for i in own]
        spoken += spoken_rows(backbone, sources[source], turn, own, course.length, only=right if alone else None)
        gold += [0] * len(own) if alone else right
    labels = torch.tensor(gold)[torch.as_tensor(place.reshape(-1))]
    return stack(
        together(backbone, spoken), [place.reshape(-1).tolist()], [labels], [max(len(s.choices) for s in spoken)]
    )


def _sources(given: Sequence[str] | Sequence[Source], data: str | Path | None) -> list[Source]:
    named = [spec for spec in given if isinstance(spec, str)]
    return [*read_mixture(named, data), *(source for source in given if isinstance(source, Source))]


def _trainable(method: Method) -> Method:
    """MethodError for a method that is more than trained."""
    if method.first != "train" or method.refit:
        raise MethodError(
            f"{method} was to be pretrained.", "It chooses by a task what of it is trained, so no start can be common.",
            "Use a method such as ia3 or lora.",
        )  # fmt: skip
    return method


def _same(file: Path, asked: Mapping[str, Any]) -> None:
    """Notes beside the progress what was asked for. RequestError where that was something else before."""
    told = json.loads(json.dumps(asked))
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(told))
        return
    before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if wrong := next((name for name in told if before.get(name) != told[name]), None):
        shown = "" if wrong == "data" else f": {_short(before.get(wrong))}, and now {_short(told[wrong])}"
        raise RequestError(
            "A pretraining that was interrupted was to be continued.", f"It was started with another {wrong}{shown}.",
            "Ask for the same as before, or leave --resume out to begin anew.",
        )  # fmt: skip


def _short(value: Any) -> str:
    return ", ".join(str(x)[:40] for x in value) if isinstance(value, list) else str(value)


def _told(source: Source, share: float, drawn: np.ndarray) -> dict[str, Any]:
    own = {"name": source.name, "size": source.size, "share": round(share, 4), "digest": source.digest()}
    return own | {"templates": len(source.templates), "drawn": len(drawn)}
