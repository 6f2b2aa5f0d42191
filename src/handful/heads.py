"""Linear heads on frozen features, fitted for all tasks, folds and candidates in one batch.

The features of a task's `n` rows are rotated into the at most `n` directions that they span (the representer theorem:
a regularised linear head lies there), so a step costs `n` columns, not thousands, and tasks of different lexicons
stack. The head is rotated back at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from handful.batches import Rows
from handful.crossval import FINAL, Plan
from handful.fit import Schedule, Watch, evaluate, fit
from handful.losses import LOSSES
from handful.scoring import Classifier, prototype_head
from handful.types import Batch, Params

RATE = 0.1
"""AdamW's rate on rotated features of mean square length one; 100 full-batch steps come close to the minimum."""


@dataclass(frozen=True)
class Rotated:
    """`x [n, D] = z [n, r] @ basis [r, D]`, with orthonormal rows in `basis`."""

    z: Tensor
    basis: Tensor

    @staticmethod
    def of(x: Tensor) -> Rotated:
        """The rotation of features; directions without weight are dropped."""
        x = x.double()
        wide = x.shape[0] <= x.shape[1]
        values, vectors = torch.linalg.eigh(x @ x.mT if wide else x.mT @ x)
        kept = values > 1e-6 * values[-1].clamp(min=1e-12)
        values, vectors = values[kept].flip(0), vectors[:, kept].flip(1)
        basis = (vectors / values.sqrt()).mT @ x if wide else vectors.mT
        return Rotated((x @ basis.mT).float(), basis.float())

    def back(self, weight: Tensor) -> Tensor:
        """A head's weight `[C, r]`, which may be padded, on the features themselves: `[C, D]`."""
        return weight[:, : self.z.shape[1]] @ self.basis


@dataclass(frozen=True)
class Sets:
    """P feature sets of every task, in one pool padded with zero columns; `starts [P]` says where each begins."""

    pool: Batch
    starts: Sequence[int]

    @staticmethod
    def of(rotated: Sequence[Sequence[Rotated]]) -> Sets:
        """From rotated features by set and task."""
        width = max(r.z.shape[1] for own in rotated for r in own)
        features = torch.cat([torch.nn.functional.pad(r.z, (0, width - r.z.shape[1])) for own in rotated for r in own])
        starts = np.cumsum([0, *(sum(r.z.shape[0] for r in own) for own in rotated)])[:-1].tolist()
        pool = Batch({"features": features}, torch.ones(len(features), dtype=torch.bool, device=features.device))
        return Sets(pool, starts)

    def shifted(self, rows: Rows, sets: Sequence[int]) -> Rows:
        """The same rows, each member reading its feature set."""
        starts = torch.tensor([self.starts[j] for j in sets], device=rows.index.device)[:, None]
        return Rows(rows.pool, torch.where(rows.index >= 0, rows.index + starts, -1), rows.labels, rows.class_mask)


@dataclass(frozen=True)
class Member:
    """One head to train: of which task, without which fold, on which feature set, with which `C`, for how long."""

    task: int
    fold: int
    features: int
    c: float
    steps: int


def fit_heads(
    plan: Plan,
    sets: Sets,
    members: Sequence[Member],
    *,
    watch: Watch | None = None,
    watch_every: int = 1,
    checkpoint: Path | None = None,
    memory: dict[str, Tensor] | None = None,
) -> Params:
    """The heads of all members, params `[T, ...]`: logistic regression as scikit-learn's, started at the prototypes."""
    rows = plan.training(sets.pool, [(member.task, member.fold) for member in members])
    rows = sets.shifted(rows, [member.features for member in members])
    every = torch.arange(rows.index.shape[1], device=rows.index.device).expand_as(rows.index)
    batch = rows.take(torch.arange(len(members)), every)
    head = prototype_head(batch.inputs["features"], rows.labels, batch.row_mask, rows.class_mask.shape[1])
    strength = [1 / (member.c * n) for member, n in zip(members, rows.counts().tolist(), strict=True)]
    schedule = Schedule(steps=tuple(m.steps for m in members), lr=RATE, clip=None, l2=tuple(strength))
    trained, _ = fit(
        Classifier(None), {"head": head}, rows, LOSSES[plan.tasks[0].kind], schedule, seed=0, watch=watch,
        watch_every=watch_every, checkpoint=checkpoint, memory=memory,
    )  # fmt: skip
    return trained


def cross_validate(
    plan: Plan,
    sets: Sets,
    cs: Sequence[float],
    stops: Sequence[int],
    *,
    watch: Watch | None = None,
    checkpoint: Path | None = None,
) -> list[np.ndarray]:
    """Out-of-fold scores `[M, P, n, C]` of every task in one fit: for each choice of `choices`, for each feature set.

    A row that is never held out has NaN.
    """
    folds = plan.members(final=False)
    num_sets = len(sets.starts)
    members = [Member(t, f, j, c, max(stops)) for c in cs for j in range(num_sets) for t, f in folds]
    seen: dict[str, Tensor] = {}
    if folds:
        held = plan.held_out(sets.pool, [(member.task, member.fold) for member in members])
        held = sets.shifted(held, [member.features for member in members])

        def look(step: int, params: Params, tasks: Sequence[int]) -> None:
            if step in stops:
                seen[str(step)] = evaluate(Classifier(None), params, held)
            if watch:
                watch(step, params, tasks)

        trained = fit_heads(
            plan, sets, members, watch=look, watch_every=max(1, math.gcd(*stops)), checkpoint=checkpoint, memory=seen
        )
        for stop in stops:
            if str(stop) not in seen:  # the prototypes themselves, or every member has stopped before
                look(stop, trained, [])
    found = []
    for t, task in enumerate(plan.tasks):
        nothing = np.full((len(task.examples), len(task.labels)), np.nan)
        blocks = [slice(i * len(folds), (i + 1) * len(folds)) for i in range(len(cs) * num_sets)]
        scores = [
            [plan.gather(folds, seen[str(stop)][block], t) if folds else nothing for block in blocks] for stop in stops
        ]
        by_choice = np.stack([np.stack(own) for own in scores]).reshape(len(stops), len(cs), num_sets, *nothing.shape)
        found.append(by_choice.swapaxes(0, 1).reshape(-1, num_sets, *nothing.shape))
    return found


def choices(cs: Sequence[float], stops: Sequence[int]) -> list[tuple[float, int]]:
    """What cross-validation chooses between: `C` and the number of steps."""
    return [(c, stop) for c in cs for stop in stops]


def final_heads(
    plan: Plan, sets: Sets, chosen: Sequence[tuple[float, int]], *, checkpoint: Path | None = None
) -> Params:
    """The heads of all tasks on all their rows, for each feature set: params `[P * T, ...]`, set by set."""
    members = [Member(t, FINAL, j, c, steps) for j in range(len(sets.starts)) for t, (c, steps) in enumerate(chosen)]
    return fit_heads(plan, sets, members, checkpoint=checkpoint)
