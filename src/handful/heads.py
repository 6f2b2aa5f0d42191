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

RATE = 0.3
"""AdamW's rate on rotated features of unit length; with it 100 to 200 full-batch steps come close to the minimum."""
SHARPNESS = 8.0
"""Scale of the prototype head that training starts from, on features of unit length."""


@dataclass(frozen=True)
class Rotated:
    """`x [n, D] = z [n, r] @ basis [r, D]`, with orthonormal rows in `basis`."""

    z: Tensor
    basis: Tensor

    @staticmethod
    def of(x: Tensor) -> Rotated:
        """The rotation of features; directions without weight are dropped."""
        gram = (x.double() @ x.double().mT) if x.shape[0] <= x.shape[1] else (x.double().mT @ x.double())
        values, vectors = torch.linalg.eigh(gram)
        kept = values > 1e-9 * values[-1].clamp(min=1e-12)
        values, vectors = values[kept].flip(0), vectors[:, kept].flip(1)
        if x.shape[0] <= x.shape[1]:
            basis = (vectors / values.sqrt()).mT @ x.double()
        else:
            basis = vectors.mT
        return Rotated((x.double() @ basis.mT).float(), basis.float())


@dataclass(frozen=True)
class Candidate:
    """One way to fit a head: which feature set, how strongly regularised (as scikit-learn's `C`)."""

    features: int
    c: float


def pool_of(rotated: Sequence[Sequence[Rotated]]) -> tuple[Batch, list[int]]:
    """Feature sets by set and task -> one pool, padded with zero columns, and where each set starts in it."""
    width = max(r.z.shape[1] for own in rotated for r in own)
    parts = [torch.nn.functional.pad(r.z, (0, width - r.z.shape[1])) for own in rotated for r in own]
    sizes = [sum(r.z.shape[0] for r in own) for own in rotated]
    features = torch.cat(parts)
    return Batch({"features": features}, torch.ones(len(features), dtype=torch.bool)), np.cumsum([0, *sizes])[:-1].tolist()


def fit_heads(
    plan: Plan,
    pool: Batch,
    starts: Sequence[int],
    members: Sequence[tuple[int, int]],
    candidates: Sequence[Candidate],
    steps: Sequence[int],
    *,
    watch: Watch | None = None,
    watch_every: int = 1,
    checkpoint: Path | None = None,
    memory: dict[str, Tensor] | None = None,
) -> Params:
    """One head for each member `(task, fold)`, with its candidate and number of steps; params `[T, ...]`."""
    rows = _shifted(plan.training(pool, members), [starts[candidate.features] for candidate in candidates])
    batch = rows.take(torch.arange(len(members)), torch.arange(rows.index.shape[1]).expand_as(rows.index))
    x = batch.inputs["features"]
    head = prototype_head(x, rows.labels, batch.row_mask, rows.class_mask.shape[1])
    head = {name: SHARPNESS * value for name, value in head.items()}
    strength = [1 / (c.c * n) for c, n in zip(candidates, rows.counts().tolist(), strict=True)]
    schedule = Schedule(steps=tuple(steps), lr=RATE, clip=None, l2=tuple(strength))
    kind = plan.tasks[0].kind
    trained, _ = fit(
        Classifier(None), {"head": head}, rows, LOSSES[kind], schedule, seed=0, watch=watch, watch_every=watch_every,
        checkpoint=checkpoint, memory=memory,
    )  # fmt: skip
    return trained


def cross_validate(
    plan: Plan,
    pool: Batch,
    starts: Sequence[int],
    candidates: Sequence[Candidate],
    stops: Sequence[int],
    *,
    watch: Watch | None = None,
    checkpoint: Path | None = None,
) -> list[np.ndarray]:
    """Out-of-fold scores `[M, n, C]` of every task, for each candidate at each number of steps in `stops`, in one fit.

    The M choices are in the order of `choices(candidates, stops)`; a row that is never held out has NaN.
    """
    folds = plan.members(final=False)
    members = [member for _ in candidates for member in folds]
    each = [candidate for candidate in candidates for _ in folds]
    seen: dict[str, Tensor] = {}
    if folds:
        held = _shifted(plan.held_out(pool, members), [starts[candidate.features] for candidate in each])

        def look(step: int, params: Params, tasks: Sequence[int]) -> None:
            if step in stops:
                seen[str(step)] = evaluate(Classifier(None), params, held)
            if watch:
                watch(step, params, tasks)

        trained = fit_heads(
            plan, pool, starts, members, each, [max(stops)] * len(members), watch=look,
            watch_every=max(1, math.gcd(*stops)), checkpoint=checkpoint, memory=seen,
        )  # fmt: skip
        if max(stops) == 0:  # the prototypes themselves
            look(0, trained, [])
    found = []
    for t, task in enumerate(plan.tasks):
        parts = [slice(i * len(folds), (i + 1) * len(folds)) for i in range(len(candidates))]
        nothing = np.full((len(task.examples), len(task.labels)), np.nan)
        scores = [
            plan.gather(folds, seen[str(step)][part], t) if folds else nothing for part in parts for step in stops
        ]
        found.append(np.stack(scores))
    return found


def choices(candidates: Sequence[Candidate], stops: Sequence[int]) -> list[tuple[Candidate, int]]:
    """What cross-validation chooses between: candidates and numbers of steps."""
    return [(candidate, step) for candidate in candidates for step in stops]


def final_heads(
    plan: Plan, pool: Batch, starts: Sequence[int], chosen: Sequence[tuple[Candidate, int]]
) -> list[dict[str, Tensor]]:
    """The head of each task on all its rows, in rotated features: `weight [C, r]`, `bias [C]`."""
    members = [(t, FINAL) for t in range(len(plan.tasks))]
    params = fit_heads(plan, pool, starts, members, [c for c, _ in chosen], [steps for _, steps in chosen])
    classes = [len(task.labels) for task in plan.tasks]
    return [{name: p[t][: classes[t]] for name, p in params["head"].items()} for t in range(len(classes))]


def unrotate(head: dict[str, Tensor], rotated: Rotated) -> dict[str, Tensor]:
    """The head on the features themselves: `weight [C, D]`, `bias [C]`."""
    return {"weight": head["weight"][:, : rotated.z.shape[1]] @ rotated.basis, "bias": head["bias"]}


def _shifted(rows: Rows, starts: Sequence[int]) -> Rows:
    index = torch.where(rows.index >= 0, rows.index + torch.tensor(starts)[:, None], -1)
    return Rows(rows.pool, index, rows.labels, rows.class_mask)
