"""Meta-training: the outer loop over batches of episodes, with a validation curve, checkpoints and several ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handful import distributed, generator
from handful.attach import Adapted, attach
from handful.backbone import Backbone
from handful.checkpoint import Checkpoint, digest
from handful.distributed import Team
from handful.errors import RequestError, RunError
from handful.inner import chosen
from handful.losses import LOSSES
from handful.meta import Algorithm
from handful.metatasks import Source
from handful.methods import Method, to_spec
from handful.noise import mix
from handful.optim import Layout, State, optimizer
from handful.outer import ask, encode_episodes, outer_gradient
from handful.progress import Progress, silent
from handful.scoring import SCALE, Classifier, Tagger
from handful.training import DIVERGED
from handful.types import Episode, Params, Site, TaskKind, cast_params, map_params

RATES = (1e-8, 1.0)
"""Learned rates of blocks and tensors are kept within (LEOPARD's code); those of single elements are free."""


@dataclass(frozen=True)
class Course:
    """How long and how fast the outer loop goes.

    steps           outer steps, each of `tasks` episodes
    lr              AdamW's rate, which rises over the share `warmup` of the steps and then falls to zero along a cosine
    clip            largest norm of the outer gradient
    validate_every  steps between two looks at the validation episodes, and one at the end
    patience        looks without a lower validation loss after which it stops; None for never
    scales          patterns of `site/parameter` and the rate of what fits as a multiple of `lr`; the last one counts
    """

    steps: int = 500
    tasks: int = 8
    lr: float = 1e-3
    warmup: float = 0.05
    clip: float = 1.0
    weight_decay: float = 0.0
    validate_every: int = 50
    patience: int | None = None
    scales: tuple[tuple[str, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {"scales": [list(own) for own in self.scales]}

    def scale(self, site: str, name: str) -> float:
        return next((by for pattern, by in reversed(self.scales) if chosen([pattern], site, name)), 1.0)

    def rate(self, step: int) -> float:
        rising = self.warmup * self.steps
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, self.steps - rising)))


@dataclass(frozen=True)
class Look:
    """One look at the validation episodes after `step` outer steps: loss and accuracy after adaptation, means."""

    step: int
    training_loss: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class MetaTrained:
    """What meta-training found: the tree of learned params, those of the best look where there were any.

    losses  mean query loss of each outer step
    curve   the looks at the validation episodes
    step    outer steps after which `learned` was as it is
    """

    adapted: Adapted
    algorithm: Algorithm
    learned: Params
    losses: list[float]
    curve: list[Look]
    step: int


def reader(adapted: Adapted, algorithm: Algorithm, kind: TaskKind = "classification") -> Classifier:
    """The model whose heads an algorithm starts: cosine scores, or raw states where a generator reads them."""
    scale = None if algorithm.head == "generated" else SCALE
    return (Tagger if kind == "tagging" else Classifier)(adapted, adapted.backbone.pooling, scale)


def learn(
    source: Source,
    backbone: Backbone,
    method: Method,
    algorithm: Algorithm,
    course: Course,
    *,
    validation: Sequence[Episode] = (),
    seed: int = 0,
    start: Params | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> MetaTrained:
    """Learns over episodes of `source` what the tasks to come start from.

    validation  episodes, never learned from, that say when to stop and which parameters to keep
    seed        of the first parameters and of the episodes that each step sees
    start       first values for parameters that are learned, instead of fresh ones
    checkpoint  a file to continue from, and to keep progress in; the result is the same to the bit

    On several ranks each takes a share of every step's episodes; the result is that of one to rounding.
    RequestError where tasks do not fit the algorithm, RunError where the outer loop diverges.
    """
    team = distributed.team()
    adapted = attach(backbone, method)
    kind = source.draw(mix(seed, 0, 0)).support.kind
    model, loss = reader(adapted, algorithm, kind), LOSSES[kind]
    first = _first(model, algorithm, source, seed) | (start or {})
    sites = {site.name: site for site in adapted.sites}
    state = _State(first, algorithm, course)
    told = [repr(algorithm), repr(course), to_spec(method), source.digest(), backbone.fingerprint, seed, state.flat]
    identity = [*told, *(example for episode in validation for example in episode.query.examples)]
    team.agree("meta-training", digest(identity))
    kept = Checkpoint(checkpoint, identity) if checkpoint else None
    found, _ = team.exchange((kept and kept.load()) or {} if team.rank == 0 else {})[0]
    if found:
        state.restore(found)
    own = validation[team.rank :: team.size]
    looked = encode_episodes(backbone, own) if own else None
    began, at = time.monotonic(), state.step
    while state.step < course.steps and not state.patience_lost:
        share = state.step / course.steps
        drawn = [source.draw(mix(seed, state.step, t)) for t in range(team.rank, course.tasks, team.size)]
        if drawn:
            _same_classes(algorithm, first, drawn)
            support, query = encode_episodes(backbone, drawn)
            grads, losses = outer_gradient(
                algorithm, model, state.learned(), support, query, loss, sites=sites, progress=share
            )
            mine = {"grad": state.layout.pack(_stacked(grads)), "losses": losses}
        else:
            mine = {"grad": torch.zeros_like(state.flat), "losses": torch.zeros(0, dtype=torch.float64)}
        given = [tensors for tensors, _ in team.exchange(mine)]
        grad = sum((theirs["grad"] for theirs in given), torch.zeros_like(state.flat)) / course.tasks
        state.update(float(torch.cat([theirs["losses"] for theirs in given]).mean()), grad)
        if validation and (state.step % course.validate_every == 0 or state.step == course.steps):
            asked = looked and ask(algorithm, model, state.learned(), *looked, loss, sites=sites)
            state.look(*_mean(team, asked))
        speed = (state.step - at) * course.tasks / max(1e-9, time.monotonic() - began)
        progress(f"meta-training, {speed:.1f} episodes/s, {state.said}", state.step / course.steps)
        if kept and team.rank == 0:
            kept.save(lambda: state.tensors, last=state.step == course.steps or state.patience_lost)
    return MetaTrained(adapted, algorithm, *state.result())


class _State:
    """What decides how an outer loop goes on; all of it is in `tensors`."""

    def __init__(self, first: Params, algorithm: Algorithm, course: Course) -> None:
        self.first, self.course, self.algorithm = first, course, algorithm
        outer = {s: {n: p for n, p in own.items() if chosen(algorithm.outer, s, n)} for s, own in first.items()}
        stacked = _stacked({site: own for site, own in outer.items() if own})
        self.layout = Layout.of(stacked)
        self.flat = self.layout.pack(stacked)
        self.bounded = self.layout.mask(lambda site, name: site == "rates" and algorithm.inner.rates != "element")
        self.scale = self.layout.values(course.scale).to(self.flat)
        self.rule = optimizer("adamw", course.weight_decay)
        self.state: State = self.rule.init(self.flat, self.layout)
        self.step, self.best, self.best_step = 0, self.flat.clone(), 0
        self.losses: list[float] = []
        self.curve: list[Look] = []

    def learned(self, flat: Tensor | None = None) -> Params:
        """The whole tree, what is held in it too."""
        tree = self.layout.unpack(self.flat if flat is None else flat)
        taken = {site: {name: p[0] for name, p in own.items()} for site, own in tree.items()}
        return {site: own | taken.get(site, {}) for site, own in self.first.items()}

    def update(self, loss: float, grad: Tensor) -> None:
        """One AdamW step; RunError where loss or gradient say that the outer loop has diverged."""
        norm = float(grad.norm())
        if not math.isfinite(loss + norm) or loss > (self.losses or [loss])[0] + DIVERGED:
            raise RunError(
                f"Outer step {self.step + 1} of {self.course.steps} was to be taken.",
                f"The mean query loss is {loss:.3g} and the gradient's norm {norm:.3g}: the outer loop has diverged.",
                f"Lower the outer rate (lr {self.course.lr:g}) or the inner one ({self.algorithm.inner.lr:g}).",
            )
        grad = grad * min(1.0, self.course.clip / (norm + 1e-6))
        lr = self.course.rate(self.step) * self.scale[None]
        self.flat = self.flat + self.rule.step(self.flat, grad, self.state, lr, self.layout)
        self.flat = torch.where(self.bounded.to(self.flat.device), self.flat.clamp(*RATES), self.flat)
        self.losses.append(loss)
        self.step += 1

    def look(self, loss: float, accuracy: float) -> None:
        before = self.curve[-1].step if self.curve else 0
        since = self.losses[before : self.step]
        if not self.curve or loss < min(each.loss for each in self.curve):
            self.best, self.best_step = self.flat.clone(), self.step
        self.curve.append(Look(self.step, sum(since) / max(1, len(since)), loss, accuracy))

    @property
    def patience_lost(self) -> bool:
        patience = self.course.patience
        return patience is not None and sum(each.step > self.best_step for each in self.curve) >= patience

    @property
    def said(self) -> str:
        recent = self.losses[-20:]
        text = f"loss {sum(recent) / len(recent):.3f}"
        return f"{text}, validation {self.curve[-1].accuracy:.1%}" if self.curve else text

    def result(self) -> tuple[Params, list[float], list[Look], int]:
        flat, step = (self.best, self.best_step) if self.curve else (self.flat, self.step)
        return map_params(lambda p: p.clone(), self.learned(flat)), self.losses, self.curve, step

    @property
    def tensors(self) -> dict[str, Tensor]:
        curve = torch.tensor([[e.step, e.training_loss, e.loss, e.accuracy] for e in self.curve], dtype=torch.float64)
        numbers = {"losses": torch.tensor(self.losses, dtype=torch.float64), "curve": curve.reshape(-1, 4)}
        best = {"best": self.best, "best_step": torch.tensor(self.best_step)}
        return {"flat": self.flat, **best, **numbers, **{f"state.{name}": value for name, value in self.state.items()}}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        device = self.flat.device
        self.flat, self.best = kept["flat"].to(device), kept["best"].to(device)
        self.state = {name: kept[f"state.{name}"].to(device) for name in self.state}
        self.losses, self.best_step = kept["losses"].tolist(), int(kept["best_step"])
        self.curve = [Look(int(step), *rest) for step, *rest in kept["curve"].tolist()]
        self.step = len(self.losses)


def _first(model: Classifier, algorithm: Algorithm, source: Source, seed: int) -> Params:
    """Fresh values of all that the algorithm learns or holds."""
    adapted = model.adapted
    assert adapted is not None
    sites: dict[str, Site] = {site.name: site for site in adapted.sites}
    learned, extra = adapted.init(seed), dict[str, dict[str, Tensor]]()
    if algorithm.head in ("learned", "generated"):
        episode = source.draw(mix(seed, 0, 0))
        support, _ = encode_episodes(adapted.backbone, [episode])
        batch = support.first()[1]
        with torch.no_grad():
            width = model.features(map_params(lambda p: p[None], learned), batch).shape[-1]
        if algorithm.head == "generated":
            extra["generator"] = generator.init(width, seed=seed)
        else:
            extra["head"] = {"weight": torch.zeros(len(episode.support.labels), width)}
            extra["head"]["bias"] = extra["head"]["weight"][:, 0].clone()
    own = learned | {site: p for site, p in extra.items() if site == "head"}
    if rates := algorithm.inner.init_rates(own, sites):
        extra["rates"] = rates
    return learned | cast_params(extra, device=adapted.backbone.device)


def _same_classes(algorithm: Algorithm, first: Params, drawn: Sequence[Episode]) -> None:
    """RequestError where heads are learned and tasks differ in their number of classes."""
    if algorithm.head == "learned" and (wrong := {len(e.support.labels) for e in drawn} - {len(first["head"]["bias"])}):
        raise RequestError(
            "Heads were to be learned like the other parameters.",
            f"One has {len(first['head']['bias'])} classes, but tasks with {min(wrong)} were drawn.",
            "Give all tasks as many classes (ways=), or let heads start at class means or zero.",
        )


def _mean(team: Team, asked: tuple[Tensor, Tensor] | None) -> tuple[float, float]:
    """Mean loss and accuracy over the validation episodes of all ranks."""
    tensors: dict[str, Tensor] = {"losses": asked[0], "right": asked[1]} if asked else {}
    given = [theirs for theirs, _ in team.exchange(tensors) if theirs]
    losses, right = (torch.cat([theirs[name] for theirs in given]) for name in ("losses", "right"))
    return float(losses.mean()), float(right.mean())


def _stacked(params: Params) -> Params:
    return map_params(lambda p: p[None], params)
