"""Cross-validation as one more use of the task batch: every fold of every task is a member of one stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from handful import episodes
from handful.batches import Rows, stack
from handful.estimate import Estimate, estimate, log_losses, temperature
from handful.types import Batch, Task

Member = tuple[int, tuple[int, ...]]
"""A model to train: of which task, without which of its folds."""
FINAL: tuple[int, ...] = ()
"""Without none: the model of all rows."""


@dataclass(frozen=True)
class Plan:
    """Tasks, their rows in a common pool, and their folds.

    offsets  where each task's rows start in the pool
    labels   class indices `[n]` (or `[n, C]`, or tag indices `[n, S]`) of each task
    folds    for each task the held-out rows of each fold; empty where nothing can be held out
    """

    tasks: Sequence[Task]
    offsets: Sequence[int]
    labels: Sequence[Tensor]
    folds: Sequence[Sequence[np.ndarray]]

    @staticmethod
    def of(tasks: Sequence[Task], labels: Sequence[Tensor], num_folds: int, *, seed: int | Sequence[int]) -> Plan:
        """At most `num_folds` stratified folds a task, as many as its smallest class allows; none below two."""
        folds = []
        for task, own in zip(tasks, seeds_of(seed, len(tasks)), strict=True):
            most = min(num_folds, episodes.max_folds(task))
            folds.append(episodes.folds(task, most, seed=own) if most >= 2 else [])
        sizes = [len(task.examples) for task in tasks]
        return Plan(tasks, np.cumsum([0, *sizes])[:-1].tolist(), labels, folds)

    def members(self) -> list[Member]:
        """Every model that cross-validation trains: without each fold, the FINAL ones without none."""
        return [(t, held) for t, folds in enumerate(self.folds) for held in [*((f,) for f in range(len(folds))), FINAL]]

    def nested(self) -> list[Member]:
        """Models without one fold, and without each pair of folds where a third remains to learn from.

        A model without folds f and g says on g what may be chosen for f, from rows that f has taught nothing.
        """
        out: list[Member] = []
        for t, folds in enumerate(self.folds):
            out += [(t, (f,)) for f in range(len(folds))]
            out += [(t, pair) for pair in combinations(range(len(folds)), 2) if len(folds) > 2]
        return out

    def training(self, pool: Batch, members: Sequence[Member]) -> Rows:
        """What each member learns from."""
        return self._rows(pool, members, [self._kept(*member) for member in members])

    def held_out(self, pool: Batch, members: Sequence[Member]) -> Rows:
        """What each member that leaves folds out is asked: their rows."""
        return self._rows(pool, members, [self._left(*member) for member in members])

    def fold_of_row(self, task: int) -> np.ndarray:
        """`[n]`: the fold in which a row of a task is held out, -1 for never."""
        out = np.full(len(self.tasks[task].examples), -1)
        for f, rows in enumerate(self.folds[task]):
            out[rows] = f
        return out

    def gather(self, members: Sequence[Member], scores: Tensor, task: int, without: int | None = None) -> np.ndarray:
        """Out-of-fold scores `[n, C]` of one task from `scores [T, M, C]` of `held_out` rows; NaN where there is none.

        Of tokens `[n, S, C]` from `[T, M, S, C]`.

        `without` names a fold that none of the models behind them may have seen; it has none itself.
        """
        shape = (len(self.tasks[task].examples), *scores.shape[2:-1], len(self.tasks[task].labels))
        out = np.full(shape, np.nan)
        fold = self.fold_of_row(task)
        for member, (t, held) in enumerate(members):
            if t == task and len(held) == (1 if without is None else 2) and (without is None or without in held):
                rows = self._left(t, held)
                own = scores[member, : len(rows), ..., : shape[-1]].cpu().numpy()
                asked = fold[rows] != without if without is not None else np.full(len(rows), True)
                out[rows[asked]] = own[asked]
        return out

    def _left(self, task: int, held: tuple[int, ...]) -> np.ndarray:
        return np.concatenate([np.asarray(self.folds[task][f]) for f in held])

    def _kept(self, task: int, held: tuple[int, ...]) -> np.ndarray:
        rows = np.arange(len(self.tasks[task].examples))
        return np.setdiff1d(rows, self._left(task, held)) if held else rows

    def _rows(self, pool: Batch, members: Sequence[Member], own: Sequence[np.ndarray]) -> Rows:
        index = [(rows + self.offsets[t]).tolist() for (t, _), rows in zip(members, own, strict=True)]
        labels = [self.labels[t][torch.from_numpy(rows)] for (t, _), rows in zip(members, own, strict=True)]
        return stack(pool, index, labels, [len(self.tasks[t].labels) for t, _ in members])


def seeds_of(seed: int | Sequence[int], num_tasks: int) -> list[int]:
    """One seed for each task, where one for all may be given."""
    return [seed] * num_tasks if isinstance(seed, int) else list(seed)


@dataclass(frozen=True)
class Mixture:
    """A choice among M, and how the scores of its P parts are added up: `sum_j weights[j] * scores[j]`."""

    choice: int
    weights: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What the out-of-fold scores of one task decide: the mixture to fit on all rows, its calibration, its estimate."""

    mixture: Mixture
    temperature: float
    estimate: Estimate


EVIDENCE = 0.5
"""How much of the out-of-fold likelihood counts for a part of a mixture; its rows are not independent."""


def judge(plan: Plan, task: int, scores: np.ndarray, inner: Sequence[np.ndarray], *, seed: int) -> Verdict:
    """`scores [M, P, n, C]` of M choices of P parts each, the best liked first, NaN for rows never held out.

    Parts are brought to their best temperature and weighted by their likelihood; the choice is that of least
    log-loss. The estimate scores fold f with what `inner[f]`, the scores of models that never saw f, decides: choosing
    on the outer scores themselves would flatter, since the models behind them learned from f. Without inner scores
    (fewer than three folds) the first part of the first choice is taken, and nothing is chosen at all.
    """
    own, fold = plan.tasks[task], plan.fold_of_row(task)
    labels, held = plan.labels[task].numpy(), fold >= 0
    honest = np.zeros(scores.shape[2:])
    for f in range(len(plan.folds[task])):
        mixture = _mix(inner[f], labels, held & (fold != f), own) if inner else _first(scores)
        honest[fold == f] = _mixed(scores[mixture.choice], mixture.weights)[fold == f]
    mixture = _mix(scores, labels, held, own) if inner else _first(scores)
    mixed = _mixed(scores[mixture.choice], mixture.weights)
    return Verdict(
        mixture=mixture,
        temperature=temperature(mixed[held], labels[held], own.kind) if held.any() else 1.0,
        estimate=estimate(honest, labels, own.labels, held, len(plan.folds[task]), own.kind, seed=seed),
    )


def _first(scores: np.ndarray) -> Mixture:
    return Mixture(0, np.eye(1, scores.shape[1])[0])


def _mix(scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, task: Task) -> Mixture:
    """The mixture that `rows` ask for, of `scores [M, P, n, C]`."""
    found = []
    for parts in scores[:, :, rows]:
        heat = np.array([temperature(part, labels[rows], task.kind) for part in parts])
        loss = log_losses(parts / heat[:, None, None], labels[rows], task.kind).mean(-1)
        share = np.exp(-EVIDENCE * rows.sum() * (loss - loss.min()))
        weights = share / share.sum() / heat
        found.append((log_losses(_mixed(parts, weights), labels[rows], task.kind).mean(), weights))
    choice = int(np.argmin([loss for loss, _ in found]))
    return Mixture(choice, found[choice][1])


def _mixed(parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`sum_j weights[j] parts[j]`, `[P, n, C]` -> `[n, C]`."""
    return np.einsum("j,jnc->nc", weights, parts)
