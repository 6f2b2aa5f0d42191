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
class Head:
    """One head to train: of which task, without which folds, on which feature set, with which `C`, for how long."""

    task: int
    held: tuple[int, ...]
    features: int
    c: float
    steps: int


def fit_heads(
    plan: Plan,
    sets: Sets,
    heads: Sequence[Head],
    *,
    watch: Watch | None = None,
    watch_every: int = 1,
    checkpoint: Path | None = None,
    memory: dict[str, Tensor] | None = None,
) -> Params:
    """All heads, params `[T, ...]`: logistic regression as scikit-learn's, started at the prototypes."""
    rows = plan.training(sets.pool, [(head.task, head.held) for head in heads])
    rows = sets.shifted(rows, [head.features for head in heads])
    every = torch.arange(rows.index.shape[1], device=rows.index.device).expand_as(rows.index)
    batch = rows.take(torch.arange(len(heads)), every)
    start = prototype_head(batch.inputs["features"], rows.labels, batch.row_mask, rows.class_mask.shape[1])
    strength = [1 / (head.c * n) for head, n in zip(heads, rows.counts().tolist(), strict=True)]
    schedule = Schedule(steps=tuple(head.steps for head in heads), lr=RATE, clip=None, l2=tuple(strength))
    trained, _ = fit(
        Classifier(None), {"head": start}, rows, LOSSES[plan.tasks[0].kind], schedule, seed=0, watch=watch,
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
) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Nested cross-validation of every task in one fit: out-of-fold scores, and for each fold the inner ones.

    Scores are `[M, P, n, C]`: for each choice of `choices`, for each feature set; NaN where a row has none. A task of
    fewer than three folds has no inner ones.
    """
    members = plan.nested()
    num_sets = len(sets.starts)
    heads = [Head(t, held, j, c, max(stops)) for c in cs for j in range(num_sets) for t, held in members]
    seen: dict[str, Tensor] = {}
    if members:
        asked = plan.held_out(sets.pool, [(head.task, head.held) for head in heads])
        asked = sets.shifted(asked, [head.features for head in heads])

        def look(step: int, params: Params, tasks: Sequence[int]) -> None:
            if step in stops:
                seen[str(step)] = evaluate(Classifier(None), params, asked)
            if watch:
                watch(step, params, tasks)

        every = max(1, math.gcd(*stops))
        trained = fit_heads(plan, sets, heads, watch=look, watch_every=every, checkpoint=checkpoint, memory=seen)
        for stop in stops:
            if str(stop) not in seen:  # the prototypes themselves, or every member has stopped before
                look(stop, trained, [])
    blocks = [slice(i * len(members), (i + 1) * len(members)) for i in range(len(cs) * num_sets)]

    def scores(task: int, without: int | None) -> np.ndarray:
        if not members:
            own = plan.tasks[task]
            return np.full((len(cs) * len(stops), num_sets, len(own.examples), len(own.labels)), np.nan)
        found = np.stack(
            [np.stack([plan.gather(members, seen[str(s)][b], task, without) for b in blocks]) for s in stops]
        )
        by_choice = found.reshape(len(stops), len(cs), num_sets, *found.shape[2:]).swapaxes(0, 1)
        return by_choice.reshape(-1, num_sets, *found.shape[2:])

    return [
        (scores(t, None), [scores(t, f) for f in range(len(folds))] if len(folds) > 2 else [])
        for t, folds in enumerate(plan.folds)
    ]


def choices(cs: Sequence[float], stops: Sequence[int]) -> list[tuple[float, int]]:
    """What cross-validation chooses between: `C` and the number of steps."""
    return [(c, stop) for c in cs for stop in stops]


def final_heads(
    plan: Plan, sets: Sets, chosen: Sequence[tuple[float, int]], *, checkpoint: Path | None = None
) -> Params:
    """The heads of all tasks on all their rows, for each feature set: params `[P * T, ...]`, set by set."""
    heads = [Head(t, FINAL, j, c, steps) for j in range(len(sets.starts)) for t, (c, steps) in enumerate(chosen)]
    return fit_heads(plan, sets, heads, checkpoint=checkpoint)
