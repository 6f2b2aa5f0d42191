"""The training loop over a batch of tasks, and scoring without gradients.

A task's result does not depend on what shares its batch: losses, clipping, rates, order, dropout and stopping are each
task's own, and what is padded is masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from handful.batches import TOKEN_BUDGET, Rows, take_all
from handful.checkpoint import Checkpoint
from handful.noise import Noise
from handful.optim import Layout, OptimizerName, optimizer, select
from handful.passes import Pass, Passes
from handful.types import Batch, Params

Loss = Callable[[Tensor, Tensor], Tensor]
Watch = Callable[[int, Params, Sequence[int]], None]
DIVERGED = 1e4
"""A loss this far above the first one is taken for divergence."""


class Model(Protocol):
    """What is trained: params and a batch `[T, B, ...]` -> scores `[T, B, C]`."""

    def __call__(self, params: Params, batch: Batch, noise: Noise | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; `steps` and `lr` may be one number or one for each task.

    batch_size    rows a task sees in a step; None for all of them
    warmup, decay share of steps with rising rate; "linear" to zero, or "constant" after
    head_lr       the rate of the class head, where it differs
    clip          largest gradient norm of a task; None for no limit
    weight_decay  decoupled from the gradient; one number or one for each task
    l2            weight of half the squared norm of all but biases, added to a task's loss; one or one for each task
    """

    steps: int | Sequence[int] = 100
    lr: float | Sequence[float] = 1e-3
    batch_size: int | None = None
    optimizer: OptimizerName = "adamw"
    warmup: float = 0.0
    decay: str = "linear"
    head_lr: float | None = None
    clip: float | None = 1.0
    weight_decay: float | Sequence[float] = 0.0
    l2: float | Sequence[float] = 0.0


@dataclass
class History:
    """losses `[steps, T]` (NaN after a task has ended) and, for tasks that diverged, what happened."""

    losses: Tensor
    stopped: dict[int, str] = field(default_factory=dict)


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
) -> tuple[Params, History]:
    """Trains stacked params `[T, ...]` on T tasks at once; returns them and the history. The input is not changed.

    seed        one for all tasks or one for each; it decides order and dropout
    watch       called as `watch(step, params, tasks)` after every `watch_every` steps with the tasks still training
    checkpoint  a file to continue from, and to keep progress in; the result is the same to the bit
    memory      what `watch` has gathered; it is kept and restored with the checkpoint
    budget      tokens of one forward pass (`batches.plan`)

    A task whose loss is no longer finite stops with its last good parameters, and `History.stopped` says so.
    """
    num_tasks = rows.num_tasks
    seeds = [seed] * num_tasks if isinstance(seed, int) else list(seed)
    layout = Layout.of(params)
    run = _Run(layout, schedule, num_tasks, params)
    kept = Checkpoint(checkpoint, run.identity(params, rows, seeds)) if checkpoint else None
    memory = {} if memory is None else memory
    if kept and (found := kept.load()) is not None:
        run.restore(found)
        memory.update({name.removeprefix("memory."): x for name, x in found.items() if name.startswith("memory.")})
    passes = Passes(rows, schedule.batch_size, seeds, budget)
    while run.active:
        value, grad = _gradient(model, run, loss, passes.of(run.active, run.step))
        run.update(value, grad)
        if watch and (run.step % watch_every == 0 or not run.active):
            watch(run.step, layout.unpack(run.flat), run.last_active)
        if kept:
            kept.save(lambda: run.tensors | {f"memory.{name}": x for name, x in memory.items()}, last=not run.active)
    history = History(run.losses[: run.step], dict(run.stopped))
    return {s: {n: p.clone() for n, p in own.items()} for s, own in layout.unpack(run.flat).items()}, history


@torch.no_grad()
def evaluate(model: Model, params: Params, rows: Rows, *, budget: int = 4 * TOKEN_BUDGET) -> Tensor:
    """Scores `[T, M, C]` of all rows of T tasks; rows that only pad a task are zero, absent classes -inf."""
    out = None
    for tasks, batch, columns in take_all(rows, budget):
        logits = model(_some(params, tasks), batch).float()
        if out is None:
            out = torch.zeros(*rows.index.shape, logits.shape[-1], device=logits.device)
        t, b = torch.nonzero(columns >= 0, as_tuple=True)
        out[tasks[t], columns[t, b]] = logits[t, b]
    assert out is not None
    return out


def predict(model: Model, params: Params, pool: Batch, *, budget: int = 4 * TOKEN_BUDGET) -> Tensor:
    """Scores `[n, C]` of every row of a pool for the params of one task `[...]`."""
    n = pool.row_mask.shape[0]
    one = {site: {name: p[None] for name, p in own.items()} for site, own in params.items()}
    classes = one["head"]["weight"].shape[1]
    device = pool.row_mask.device
    index = torch.arange(n, device=device)[None]
    rows = Rows(pool, index, torch.zeros_like(index), torch.ones(1, classes, dtype=torch.bool, device=device))
    return evaluate(model, one, rows, budget=budget)[0]


class _Run:
    """The state of a training run: everything that decides what comes next is in `tensors`."""

    def __init__(self, layout: Layout, schedule: Schedule, num_tasks: int, params: Params) -> None:
        self.layout, self.schedule = layout, schedule
        self.flat = layout.pack(params)
        device = self.flat.device
        self.steps = torch.as_tensor(schedule.steps).expand(num_tasks).tolist()
        self.lr = torch.as_tensor(schedule.lr, dtype=self.flat.dtype).expand(num_tasks).to(device)
        decay, l2 = (torch.as_tensor(x, dtype=self.flat.dtype) for x in (schedule.weight_decay, schedule.l2))
        self.decay, self.l2 = (x.expand(num_tasks)[:, None].to(device) for x in (decay, l2))
        self.l2 = self.l2 * ~layout.mask(lambda site, name: name == "bias").to(device)
        self.head = layout.mask(lambda site, name: site == "head").to(device)
        self.state = optimizer(schedule.optimizer).init(self.flat, layout)
        self.losses = torch.full((max(self.steps), num_tasks), math.nan)
        self.good, self.step = self.flat.clone(), 0
        self.stopped: dict[int, str] = {}
        self.active = [t for t in range(num_tasks) if self.steps[t] > 0]
        self.last_active = self.active

    def identity(self, params: Params, rows: Rows, seeds: Sequence[int]) -> tuple[object, ...]:
        """What a checkpoint must have been made with to be continued."""
        return (
            self.layout.entries, self.schedule, list(seeds), self.flat, rows.index, rows.labels,
            *(value for _, value in sorted(rows.pool.inputs.items())),
        )  # fmt: skip

    def update(self, value: Tensor, grad: Tensor) -> None:
        """One optimiser step of the active tasks with losses `value [t]` and gradients `[t, P]`."""
        chosen = torch.tensor(self.active)
        flat = self.flat[chosen]
        grad = grad + self.l2[chosen] * flat
        norm = grad.norm(dim=1, keepdim=True)
        first = self.losses[0, chosen] if self.step else value.cpu()
        fine = torch.isfinite(value) & torch.isfinite(norm[:, 0]) & (value.cpu() < first + DIVERGED).to(value.device)
        self.losses[self.step, chosen] = value.cpu()
        for t in chosen[~fine.cpu()].tolist():
            now = float(self.losses[self.step, t])
            self.stopped[t] = f"the loss was {now:.3g} at step {self.step + 1}; kept the step before"
            self.flat[t] = self.good[t]
        chosen, flat, grad, norm = chosen[fine.cpu()], flat[fine], grad[fine], norm[fine]
        if len(chosen):
            self.good[chosen] = flat
            if self.schedule.clip is not None:
                grad = grad * (self.schedule.clip / (norm + 1e-6)).clamp(max=1)
            state = select(self.state, chosen)
            rule = optimizer(self.schedule.optimizer, self.decay[chosen])
            taken = flat + rule.step(flat, grad, state, self._rates(chosen), self.layout)
            finite = taken.isfinite().all(1)
            self.flat[chosen] = torch.where(finite[:, None], taken, flat)
            for t in chosen[~finite.cpu()].tolist():
                self.stopped[t] = f"step {self.step + 1} led out of the finite numbers and was not taken"
            for name, part in state.items():
                self.state[name][chosen] = part
        self.step += 1
        self.last_active = self.active
        self.active = [t for t in self.active if t not in self.stopped and self.step < self.steps[t]]

    def _rates(self, chosen: Tensor) -> Tensor:
        """`[t, 1]`, or `[t, P]` where the head has its own rate."""
        s = self.schedule
        factors = []
        for t in chosen.tolist():
            total, rising = self.steps[t], s.warmup * self.steps[t]
            if self.step < rising:
                factors.append((self.step + 1) / (rising + 1))
            else:
                factors.append(1.0 if s.decay == "constant" else (total - self.step) / max(1.0, total - rising))
        factor = torch.tensor(factors, dtype=self.flat.dtype, device=self.flat.device)[:, None]
        rate = self.lr[chosen][:, None]
        if s.head_lr is None:
            return factor * rate
        return factor * torch.where(self.head, torch.full_like(rate, s.head_lr), rate)

    @property
    def tensors(self) -> dict[str, Tensor]:
        stopped = torch.zeros(len(self.steps), dtype=torch.bool)
        stopped[list(self.stopped)] = True
        state = {f"state.{name}": value for name, value in self.state.items()}
        step = torch.tensor(self.step)
        return {"flat": self.flat, "good": self.good, "losses": self.losses, "step": step, "stopped": stopped, **state}

    def restore(self, kept: dict[str, Tensor]) -> None:
        self.flat, self.good, self.losses = kept["flat"], kept["good"], kept["losses"]
        self.step = int(kept["step"])
        self.state = {name: kept[f"state.{name}"] for name in self.state}
        for t in torch.nonzero(kept["stopped"])[:, 0].tolist():
            self.stopped[t] = "the loss diverged before this run was continued"
        self.active = [t for t in self.active if t not in self.stopped and self.step < self.steps[t]]


def _gradient(model: Model, run: _Run, loss: Loss, passes: Iterable[Pass]) -> tuple[Tensor, Tensor]:
    """Each training task's mean loss `[t]` and gradient `[t, P]`, over forward passes that see every row once."""
    flat = run.flat[torch.tensor(run.active)]
    value = torch.zeros(len(flat), dtype=torch.float32, device=flat.device)
    grad = torch.zeros_like(flat)
    for each in passes:
        params, batch = run.layout.unpack(flat[each.part]), each.batch
        leaves = [p.requires_grad_() for p in _leaves(params)]  # of their own: a slice's gradient is as large as `flat`
        logits = model(params, batch, each.noise(run.step)).float()
        assert batch.labels is not None
        losses = torch.where(batch.row_mask, loss(_finite(logits, batch.row_mask), batch.labels), 0.0).sum(1)
        losses = losses / each.counts
        found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)
        for sum_, own in zip(_leaves(run.layout.unpack(grad[each.part])), found, strict=True):
            sum_ += own
        value[each.part] += losses.detach()
    return value, grad


def _leaves(params: Params) -> list[Tensor]:
    return [p for own in params.values() for p in own.values()]


def _finite(logits: Tensor, row_mask: Tensor) -> Tensor:
    """Rows that only pad are zero, so that nothing undefined in them reaches a gradient."""
    return torch.where(row_mask[..., None], logits, 0.0)


def _some(params: Params, tasks: Tensor) -> Params:
    return {site: {name: p[tasks] for name, p in own.items()} for site, own in params.items()}
