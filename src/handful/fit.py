"""The training loop over a batch of tasks, and scoring without gradients.

A task's result does not depend on what shares its batch: losses, clipping, rates, order, dropout and stopping are each
task's own, and what is padded is masked. So tasks can be trained by different ranks (`distributed`): each takes its
share, and they meet only where all must be known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from handful import distributed
from handful.batches import TOKEN_BUDGET, Rows, take_all
from handful.checkpoint import Checkpoint, digest
from handful.distributed import Team
from handful.losses import Loss, weights
from handful.methods.base import Method
from handful.noise import Noise
from handful.passes import Pass, Passes
from handful.training import DIVERGED, History, Run, Schedule
from handful.types import Batch, Params

__all__ = ["DIVERGED", "History", "Loss", "Model", "Schedule", "Watch", "evaluate", "fit", "predict"]

Watch = Callable[[int, Params, Sequence[int]], None]
SAVE_EVERY = 5
"""Steps after which ranks may keep their progress together."""


class Model(Protocol):
    """What is trained: params and a batch `[T, B, ...]` -> scores `[T, B, C]`, or of tokens `[T, B, S, C]`."""

    def __call__(self, params: Params, batch: Batch, noise: Noise | None = None) -> Tensor: ...


def fit(
    model: Model,
    params: Params,
    rows: Rows,
    loss: Loss,
    schedule: Schedule,
    *,
    seed: int | Sequence[int],
    watch: Watch | None = None,
    watch_every: int = 1,
    checkpoint: Path | None = None,
    memory: dict[str, Tensor] | None = None,
    budget: int = TOKEN_BUDGET,
    method: Method | None = None,
    groups: Sequence[int] | None = None,
) -> tuple[Params, History]:
    """Trains stacked params `[T, ...]` on T tasks at once; returns them and the history. The input is not changed.

    seed        one for all tasks or one for each; it decides order and dropout
    watch       called as `watch(step, params, tasks)` after every `watch_every` steps with the tasks still training
    checkpoint  a file to continue from, and to keep progress in; the result is the same to the bit
    memory      what `watch` has gathered; it is kept and restored with the checkpoint
    budget      tokens of one forward pass (`batches.plan`)
    method      whose `rate`, `tied` and `penalty` are followed
    groups      a number for each task: `tied` parameters are common to the tasks of one number; None is one group

    A task whose loss is no longer finite stops with its last good parameters, and `History.stopped` says so.
    """
    num_tasks, team = rows.num_tasks, distributed.team()
    seeds = [seed] * num_tasks if isinstance(seed, int) else list(seed)
    run = Run(params, schedule, num_tasks, method or Method(), groups)
    if team.size > 1:
        team.agree("a fit", digest([run.layout.entries, schedule, seeds, rows.index, rows.labels]))
    kept = Checkpoint(checkpoint, run.identity(params, rows, seeds)) if checkpoint else None
    memory = {} if memory is None else memory
    if kept:
        (found, _), *_ = team.exchange((kept.load() or {}) if team.rank == 0 else {})
        if found:
            run.restore(found)
            memory.update({name.removeprefix("memory."): x for name, x in found.items() if name.startswith("memory.")})
    passes = Passes(rows, schedule.batch_size, seeds, budget)
    run.share(team, [passes.cost(task) for task in range(num_tasks)])
    while run.pending:
        with team.meeting():
            run.update(*_gradient(model, run, loss, passes, team))
        watching = watch is not None and run.step % watch_every == 0
        saving = kept is not None and run.step % SAVE_EVERY == 0
        if team.size > 1 and not (watching or saving or run.step == max(run.steps)):
            continue  # the others may be steps behind or ahead
        due = run.meet(team, kept is not None and kept.due)
        ended = not run.pending
        if kept and (due or ended):
            run.fetch(team)
        elif watching or ended:
            run.fetch(team, ["flat", "losses"] if ended else ["flat"])
        if watch and (watching or ended):
            watch(run.step, run.params(run.flat), run.last_active)
        if kept and (due or ended) and team.rank == 0:
            kept.save(lambda: run.tensors | {f"memory.{name}": x for name, x in memory.items()}, last=True)
    history = History(run.losses[: run.step], dict(run.stopped))
    return {s: {n: p.clone() for n, p in own.items()} for s, own in run.params(run.flat).items()}, history


@torch.no_grad()
def evaluate(model: Model, params: Params, rows: Rows, *, budget: int = 4 * TOKEN_BUDGET) -> Tensor:
    """Scores `[T, M, C]` of all rows of T tasks; rows that only pad a task are zero, absent classes -inf.

    Of a model that scores tokens, `[T, M, S, C]` with the pool's S.
    """
    team = distributed.team()
    places: list[Tensor] = []  # [2, n] each: which rows of which tasks the scores are of
    scores: list[Tensor] = []
    for each in team.rounds(take_all(rows, budget, team)):
        tasks, batch, columns = each or rows.first()
        logits = model(_some(params, tasks), batch).float()
        if each is not None:
            t, b = torch.nonzero(columns >= 0, as_tuple=True)
            places.append(torch.stack([tasks[t], columns[t, b]]))
            scores.append(_widened(logits[t, b], rows))
    found = {"places": torch.cat(places, 1), "scores": torch.cat(scores)} if places else {}
    given = [theirs for theirs, _ in team.exchange(found) if theirs]
    like = given[0]["scores"]
    out = like.new_zeros(*rows.index.shape, *like.shape[1:])
    for theirs in given:
        tasks, columns = theirs["places"].cpu()
        out[tasks, columns] = theirs["scores"]
    return out


def predict(
    model: Model, params: Params, pool: Batch, num_classes: int, *, budget: int = 4 * TOKEN_BUDGET
) -> Tensor:  # fmt: skip
    """Scores `[n, C]`, or `[n, S, C]`, of every row of a pool for the params of one task `[...]`."""
    one = {site: {name: p[None] for name, p in own.items()} for site, own in params.items()}
    index = torch.arange(len(pool.row_mask), device=pool.row_mask.device)[None]
    classes = torch.ones(1, num_classes, dtype=torch.bool, device=index.device)
    rows = Rows(pool, index, torch.zeros_like(index), classes)
    return evaluate(model, one, rows, budget=budget)[0]


def _gradient(model: Model, run: Run, loss: Loss, passes: Passes, team: Team) -> tuple[Tensor, Tensor]:
    """Each training task's mean loss `[t]` and gradient `[t, P]`, over forward passes that see every row once."""
    active = torch.tensor(run.active, dtype=torch.long)
    flat = run.flat[active]
    value = torch.zeros(len(flat), dtype=torch.float32, device=flat.device)
    grad = torch.zeros_like(flat)
    for each in team.rounds(passes.of(run.active, run.step)):
        if each is None:
            _pass(model, run, loss, run.params(run.flat[:1], slice(1)), passes.first())
            continue
        losses, found = _pass(model, run, loss, run.params(flat[each.part], active[each.part]), each)
        for sum_, own in zip(_leaves(run.layout.unpack(grad[each.part])), found, strict=True):
            sum_ += own
        value[each.part] += losses
    if len(flat):
        _add_penalty(run, run.params(flat, active), value, grad)
    return value, grad


def _add_penalty(run: Run, params: Params, value: Tensor, grad: Tensor) -> None:
    """Adds what the method asks for beside the loss to `value [t]` and `grad [t, P]`, once a step."""
    leaves = [p.requires_grad_() for p in _leaves(params)]
    penalty = run.method.penalty({site: own for site, own in params.items() if site != "head"})
    if isinstance(penalty, Tensor):
        value += penalty.detach()
        grad += torch.cat([g.reshape(len(grad), -1) for g in _gradients(penalty, leaves)], 1)


def _pass(model: Model, run: Run, loss: Loss, params: Params, each: Pass) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What one forward pass adds to its tasks' losses `[t]` and to the gradients of their parameters."""
    batch = each.batch
    leaves = [p.requires_grad_() for p in _leaves(params)]  # of their own: a slice's gradient is as large as `flat`
    logits = model(params, batch, each.noise(run.step)).float()
    assert batch.labels is not None
    rows = loss(_finite(logits, batch.row_mask), batch.labels) * weights(batch.labels, batch.row_mask)
    losses = torch.where(batch.row_mask, rows, 0.0).sum(1) / each.counts
    return losses.detach(), _gradients(losses, leaves)


def _gradients(losses: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)


def _leaves(params: Params) -> list[Tensor]:
    return [p for own in params.values() for p in own.values() if p.is_floating_point()]


def _finite(logits: Tensor, row_mask: Tensor) -> Tensor:
    """Rows that only pad are zero, so that nothing undefined in them reaches a gradient."""
    return torch.where(row_mask.reshape(*row_mask.shape, *[1] * (logits.ndim - row_mask.ndim)), logits, 0.0)


def _widened(scores: Tensor, rows: Rows) -> Tensor:
    """Scores of tokens `[n, s, C]` padded with zeros to the pool's S; others as they are."""
    if scores.ndim < 3:
        return scores
    return F.pad(scores, (0, 0, 0, rows.pool.inputs["attention_mask"].shape[1] - scores.shape[1]))


def _some(params: Params, tasks: Tensor) -> Params:
    return {site: {name: p[tasks] for name, p in own.items()} for site, own in params.items()}
