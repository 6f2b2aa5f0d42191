"""Cross-validation as one more use of the task batch: every fold of every task is a member of one stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from handful import episodes
from handful.batches import Rows, stack
from handful.estimate import Estimate, estimate, log_losses, temperature
from handful.types import Batch, Task

FINAL = -1


@dataclass(frozen=True)
class Plan:
    """Tasks, their rows in a common pool, and their folds.

    offsets  where each task's rows start in the pool
    labels   class indices `[n]` (or `[n, C]`) of each task
    folds    for each task the held-out rows of each fold; empty where nothing can be held out
    """

    tasks: Sequence[Task]
    offsets: Sequence[int]
    labels: Sequence[Tensor]
    folds: Sequence[Sequence[np.ndarray]]

    @staticmethod
    def of(tasks: Sequence[Task], labels: Sequence[Tensor], num_folds: int, *, seed: int) -> Plan:
        """At most `num_folds` stratified folds a task, as many as its smallest class allows."""
        folds = []
        for task in tasks:
            most = min(num_folds, episodes.max_folds(task))
            folds.append(episodes.folds(task, most, seed=seed) if most >= 2 else [])
        sizes = [len(task.examples) for task in tasks]
        return Plan(tasks, np.cumsum([0, *sizes])[:-1].tolist(), labels, folds)

    def members(self, *, final: bool = True) -> list[tuple[int, int]]:
        """`(task, fold)` of every model to train; the fold FINAL is the model of all rows."""
        return [(t, f) for t, folds in enumerate(self.folds) for f in [*range(len(folds)), *([FINAL] if final else [])]]

    def training(self, pool: Batch, members: Sequence[tuple[int, int]]) -> Rows:
        """What each member learns from."""
        return self._rows(pool, members, [self._kept(t, f) for t, f in members])

    def held_out(self, pool: Batch, members: Sequence[tuple[int, int]]) -> Rows:
        """What each member, a fold, is asked."""
        return self._rows(pool, members, [np.asarray(self.folds[t][f]) for t, f in members])

    def fold_of_row(self, task: int) -> np.ndarray:
        """`[n]`: the fold in which a row of a task is held out, -1 for never."""
        out = np.full(len(self.tasks[task].examples), -1)
        for f, rows in enumerate(self.folds[task]):
            out[rows] = f
        return out

    def gather(self, members: Sequence[tuple[int, int]], scores: Tensor, task: int) -> np.ndarray:
        """Out-of-fold scores `[n, C]` of one task from `scores [T, M, C]` of `held_out` rows; NaN if never held out."""
        classes = len(self.tasks[task].labels)
        out = np.full((len(self.tasks[task].examples), classes), np.nan)
        for member, (t, f) in enumerate(members):
            if t == task:
                rows = self.folds[t][f]
                out[rows] = scores[member, : len(rows), :classes].cpu().numpy()
        return out

    def _kept(self, task: int, fold: int) -> np.ndarray:
        rows = np.arange(len(self.tasks[task].examples))
        return rows if fold == FINAL else np.setdiff1d(rows, self.folds[task][fold])

    def _rows(self, pool: Batch, members: Sequence[tuple[int, int]], own: Sequence[np.ndarray]) -> Rows:
        index = [(rows + self.offsets[t]).tolist() for (t, _), rows in zip(members, own, strict=True)]
        labels = [self.labels[t][torch.from_numpy(rows)] for (t, _), rows in zip(members, own, strict=True)]
        return stack(pool, index, labels, [len(self.tasks[t].labels) for t, _ in members])


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


def judge(plan: Plan, task: int, scores: np.ndarray, *, seed: int) -> Verdict:
    """`scores [M, P, n, C]` of M choices of P parts each, the best liked first, NaN for rows never held out.

    Parts are brought to their best temperature and weighted by their likelihood; the choice is that of least
    log-loss. The estimate uses for each fold what the other folds' rows decide, so that choosing flatters nobody.
    With nothing held out the first part of the first choice is taken, and the estimate says that nothing is known.
    """
    own, fold = plan.tasks[task], plan.fold_of_row(task)
    labels, held = plan.labels[task].numpy(), fold >= 0
    known = np.nan_to_num(scores)
    honest = np.zeros(known.shape[2:])
    for f in range(len(plan.folds[task])):
        mixture = _mix(known, labels, held & (fold != f), own)
        honest[fold == f] = _mixed(known[mixture.choice], mixture.weights)[fold == f]
    mixture = _mix(known, labels, held, own)
    mixed = _mixed(known[mixture.choice], mixture.weights)
    return Verdict(
        mixture=mixture,
        temperature=temperature(mixed[held], labels[held], own.kind) if held.any() else 1.0,
        estimate=estimate(honest, labels, own.labels, held, len(plan.folds[task]), own.kind, seed=seed),
    )


def _mix(scores: np.ndarray, labels: np.ndarray, rows: np.ndarray, task: Task) -> Mixture:
    """The mixture that `rows` ask for, of `scores [M, P, n, C]`."""
    if not rows.any():
        return Mixture(0, np.eye(1, scores.shape[1])[0])
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
