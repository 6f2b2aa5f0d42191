"""The state of a training run over a batch of tasks, of which this rank trains its share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from handful.batches import Rows
from handful.distributed import Team, deal
from handful.errors import RequestError
from handful.methods.base import Method
from handful.optim import Layout, OptimizerName, optimizer, select
from handful.types import Params

DIVERGED = 1e4
"""A loss this far above the first one is taken for divergence."""


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


class Run:
    """The state of a training run: everything that decides what comes next is in `tensors`.

    active       this rank's tasks that still train
    pending      all ranks', as far as is known: `meet` asks
    last, last_active  the last step that was taken, and the tasks that took it
    method       whose rates, ties and penalty are followed
    groups       for each task a number: tied parameters are held in common by the tasks of a group

    Every rank has room for all tasks; the others' rows are as they were when they were last fetched.
    """

    def __init__(
        self, params: Params, schedule: Schedule, num_tasks: int, method: Method, groups: Sequence[int] | None
    ) -> None:
        self.layout = layout = Layout.of(params)
        self.schedule, self.method = schedule, method
        self.data = {s: {n: p for n, p in own.items() if not p.is_floating_point()} for s, own in params.items()}
        self.flat = layout.pack(params)
        device = self.flat.device
        self.scale = layout.values(lambda site, name: 1.0 if site == "head" else method.rate(name)).to(self.flat)
        self.tied = layout.mask(lambda site, name: site != "head" and method.tied(name)).to(device)
        self.ties, self.scaled = bool(self.tied.any()), bool((self.scale != 1).any())
        self.groups = torch.as_tensor(groups if groups is not None else [0] * num_tasks, device=device)
        self.steps = torch.as_tensor(schedule.steps).expand(num_tasks).tolist()
        self.lr = torch.as_tensor(schedule.lr, dtype=self.flat.dtype).expand(num_tasks).to(device)
        if self.ties:
            self._refuse_unequal()
        decay, l2 = (torch.as_tensor(x, dtype=self.flat.dtype) for x in (schedule.weight_decay, schedule.l2))
        self.decay, self.l2 = (x.expand(num_tasks)[:, None].to(device) for x in (decay, l2))
        decays = layout.mask(lambda site, name: site == "head" or method.decays(name)).to(device)
        self.decay = self.decay if bool(decays.all()) else self.decay * decays
        self.l2 = self.l2 * ~layout.mask(lambda site, name: name == "bias").to(device)
        self.l2s = bool(self.l2.any())
        self.head = layout.mask(lambda site, name: site == "head").to(device)
        self.state = optimizer(schedule.optimizer).init(self.flat, layout)
        self.losses = torch.full((max(self.steps), num_tasks), math.nan)
        self.good, self.step = self.flat.clone(), 0
        self.stopped: dict[int, str] = {}
        self.active = self.pending = [t for t in range(num_tasks) if self.steps[t] > 0]
        self.last, self.last_active = 0, self.active
        self.hands = [list(range(num_tasks))]

    def params(self, flat: Tensor, tasks: Tensor | slice = slice(None)) -> Params:
        """`[t, P]` of some tasks -> their stacked params with the integers that are not trained."""
        found = self.layout.unpack(flat)
        return {s: {n: p[tasks] for n, p in own.items()} | found.get(s, {}) for s, own in self.data.items()}

    def identity(self, params: Params, rows: Rows, seeds: Sequence[int]) -> tuple[object, ...]:
        """What a checkpoint must have been made with to be continued."""
        return (
            self.layout.entries, self.schedule, list(seeds), self.flat, rows.index, rows.labels,
            *(p for own in self.data.values() for p in own.values()),
            *(value for _, value in sorted(rows.pool.inputs.items())),
        )  # fmt: skip

    def update(self, value: Tensor, grad: Tensor) -> None:
        """One optimiser step of the active tasks with losses `value [t]` and gradients `[t, P]`."""
        if self.active:
            self._update(value, grad)
            self.last, self.last_active = self.step + 1, self.active
        self.step += 1
        self.active = [t for t in self.active if t not in self.stopped and self.step < self.steps[t]]

    def _update(self, value: Tensor, grad: Tensor) -> None:
        chosen = torch.tensor(self.active)
        flat = self.flat[self._place(chosen)]
        if self.l2s:
            grad = grad + self.l2[chosen] * flat
        if self.ties:
            grad = self._in_common(grad, self.groups[chosen])
        norm = (torch.where(self.tied, 0.0, grad) if self.ties else grad).norm(dim=1, keepdim=True)
        first = self.losses[0, chosen] if self.step else value.cpu()
        fine = torch.isfinite(value) & torch.isfinite(norm[:, 0]) & (value.cpu() < first + DIVERGED).to(value.device)
        self.losses[self.step, chosen] = value.cpu()
        if self.ties:  # what one of them has lost, all have
            fine = fine & grad.isfinite().all(1)
            lost = self.groups[chosen[~fine.cpu()]]
            fine = fine & ~torch.isin(self.groups[chosen], lost)
        for t in chosen[~fine.cpu()].tolist():
            now = float(self.losses[self.step, t])
            self.stopped[t] = f"the loss was {now:.3g} at step {self.step + 1}; kept the step before"
            self.flat[t] = self.good[t]
        if not bool(fine.all()):
            chosen, flat, grad, norm = chosen[fine.cpu()], flat[fine], grad[fine], norm[fine]
        if len(chosen):
            place = self._place(chosen)
            self.good[place] = flat
            if self.schedule.clip is not None:
                factor = (self.schedule.clip / (norm + 1e-6)).clamp(max=1)
                if self.ties:  # what is held in common has a norm of its own, so that it stays in common
                    common = torch.where(self.tied, grad, 0.0).norm(dim=1, keepdim=True)
                    factor = torch.where(self.tied, (self.schedule.clip / (common + 1e-6)).clamp(max=1), factor)
                grad *= factor
            state = self.state if isinstance(place, slice) else select(self.state, chosen)
            rule = optimizer(self.schedule.optimizer, self.decay[chosen])
            taken = rule.step(flat, grad, state, self._rates(chosen), self.layout).add_(flat)
            finite = taken.amax(1).isfinite() & taken.amin(1).isfinite()
            self.flat[place] = taken if bool(finite.all()) else torch.where(finite[:, None], taken, flat)
            for t in chosen[~finite.cpu()].tolist():
                self.stopped[t] = f"step {self.step + 1} led out of the finite numbers and was not taken"
            if state is not self.state:
                for name, part in state.items():
                    self.state[name][chosen] = part

    def _place(self, chosen: Tensor) -> Tensor | slice:
        """Where the rows of some tasks lie; of all of them nothing need be copied."""
        return slice(None) if len(chosen) == len(self.steps) else chosen

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
        rate = self.lr[chosen][:, None] * self.scale if self.scaled else self.lr[chosen][:, None]
        if s.head_lr is None:
            return factor * rate
        return factor * torch.where(self.head, torch.full_like(rate, s.head_lr), rate)

    def _refuse_unequal(self) -> None:
        """RequestError where tasks that hold parameters in common would not take the same steps."""
        for group in self.groups.unique().tolist():
            tasks = torch.nonzero(self.groups == group)[:, 0].tolist()
            if len({(self.steps[t], float(self.lr[t])) for t in tasks}) > 1:
                raise RequestError(
                    "Tasks were to be trained that hold parameters in common.",
                    "They have different steps or learning rates, so what is common would not stay so.",
                    "Give one number of steps and one rate.",
                )

    def _in_common(self, grad: Tensor, groups: Tensor) -> Tensor:
        """Gradients `[t, P]` whose tied part is the mean over the tasks of a group."""
        _, place = groups.unique(return_inverse=True)
        total = grad.new_zeros(int(place.max()) + 1, grad.shape[1]).index_add_(0, place, grad)
        return torch.where(self.tied, (total / place.bincount()[:, None])[place], grad)

    @property
    def tensors(self) -> dict[str, Tensor]:
        stopped = torch.zeros(len(self.steps), dtype=torch.bool)
        stopped[list(self.stopped)] = True
        state = {f"state.{name}": value for name, value in self.state.items()}
        step = torch.tensor(self.step)
        return {"flat": self.flat, "good": self.good, "losses": self.losses, "step": step, "stopped": stopped, **state}

    def restore(self, kept: dict[str, Tensor]) -> None:
        device = self.flat.device
        self.flat, self.good, self.losses = kept["flat"].to(device), kept["good"].to(device), kept["losses"].cpu()
        self.step = self.last = int(kept["step"])
        self.state = {name: kept[f"state.{name}"].to(device) for name in self.state}
        for t in torch.nonzero(kept["stopped"])[:, 0].tolist():
            self.stopped[t] = "the loss diverged before this run was continued"
        self.pending = [t for t in self.pending if t not in self.stopped and self.step < self.steps[t]]
        self.active = self.pending

    # -- with other ranks ----------------------------------------------------------------------------------------------

    def share(self, team: Team, costs: Sequence[int]) -> None:
        """Keeps the tasks of this rank active, by what a step of each costs; those with common parameters together."""
        work = [cost * steps for cost, steps in zip(costs, self.steps, strict=True)]
        groups = self.groups.tolist() if self.ties else range(len(work))
        together = [[t for t, own in enumerate(groups) if own == group] for group in dict.fromkeys(groups)]
        hands = deal([sum(work[t] for t in tasks) for tasks in together], team.size)
        self.hands = [sorted(t for i in hand for t in together[i]) for hand in hands]
        self.active = [t for t in self.hands[team.rank] if t in self.pending]

    def meet(self, team: Team, due: bool) -> bool:
        """Asks all ranks which tasks still train; whether it was `due` at the main one.

        Where none does, the run ended with the last step that any took.
        """
        notes = [note for _, note in team.exchange({}, (self.active, self.last, self.last_active, self.stopped, due))]
        self.pending = sorted(t for active, *_ in notes for t in active)
        if not self.pending:
            self.step = max(last for _, last, *_ in notes)
        self.last_active = sorted(t for _, last, tasks, *_ in notes if last == self.step for t in tasks)
        self.stopped = {t: why for *_, stopped, _ in notes for t, why in stopped.items()}
        return notes[0][-1]

    def fetch(self, team: Team, names: Iterable[str] | None = None) -> None:
        """Brings the other ranks' rows of the named tensors here, of all if none are named."""
        if team.size == 1:
            return
        views = {"flat": self.flat, "good": self.good, "losses": self.losses.T}
        views |= {f"state.{name}": value for name, value in self.state.items()}
        views = {name: views[name] for name in names or views}
        given = team.exchange({name: value[self.hands[team.rank]] for name, value in views.items()})
        for rank, (tensors, _) in enumerate(given):
            for name, theirs in tensors.items():
                if rank != team.rank:
                    views[name][self.hands[rank]] = theirs.to(views[name].device)
