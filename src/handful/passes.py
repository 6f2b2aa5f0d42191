"""What a training step sees: the rows of each task, in forward passes with little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from handful.batches import Rows, lengths, plan
from handful.losses import weights
from handful.noise import Noise, mix
from handful.types import Batch

KEPT_BYTES = 256 << 20
"""Most that is kept of the batches of full-batch steps, which are the same at every step."""


@dataclass(frozen=True)
class Pass:
    """One forward pass of a step.

    part    the range of the training tasks that it serves, t of them
    batch   their rows `[t, b, ...]`
    columns which of the task's own rows these are, `[t, b]`, -1 for none
    counts  rows (tags, where labels belong to tokens) of each task in the whole step, `[t]`
    seeds   of each task
    """

    part: slice
    batch: Batch
    columns: Tensor
    counts: Tensor
    seeds: Sequence[int]

    def noise(self, step: int) -> Noise:
        """The randomness of each row, by its place in its task, and of each task, whatever else is in the pool."""
        rows = zip(self.seeds, self.columns.tolist(), strict=True)
        tasks = [mix(seed, step) for seed in self.seeds]
        return Noise(lambda: tuple(mix(seed, step, row) for seed, own in rows for row in own), tasks)

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.batch.inputs.values())


class Passes:
    """The forward passes of every step of a training run, a batch of at most `budget` tokens each."""

    def __init__(self, rows: Rows, batch_size: int | None, seeds: Sequence[int], budget: int) -> None:
        self._rows, self._batch_size, self._seeds, self._budget = rows, batch_size, seeds, budget
        self._length, self._counts = lengths(rows.pool), rows.counts().tolist()
        self._always_all = batch_size is None or batch_size >= max(self._counts)
        self._kept: list[Pass] = []
        self._kept_for: list[int] = []

    def of(self, tasks: Sequence[int], step: int) -> Iterator[Pass]:
        """The passes of a step, which together see every row of it once.

        Where every step takes all rows, they are kept while the tasks stay the same, up to KEPT_BYTES.
        """
        if not tasks:
            return
        if self._kept and self._kept_for == tasks:
            yield from self._kept
            return
        self._kept, self._kept_for = [], list(tasks)
        keep, room = [], KEPT_BYTES if self._always_all else -1
        for each in self._planned(tasks, step):
            room -= each.nbytes
            keep = [*keep, each] if room >= 0 else []
            yield each
        self._kept = keep

    def cost(self, task: int) -> int:
        """Tokens that a task sees in a step, on average."""
        index, count = self._rows.index[task].cpu(), max(1, self._counts[task])
        return int(self._length[index[index >= 0]].sum()) * min(self._batch_size or count, count) // count

    def first(self) -> Pass:
        """A pass over one row of the first task."""
        _, batch, columns = self._rows.first()
        return Pass(slice(0, 1), batch, columns, torch.ones(1, device=batch.row_mask.device), self._seeds[:1])

    def _planned(self, tasks: Sequence[int], step: int) -> Iterator[Pass]:
        chosen = torch.tensor(tasks)
        seeds = [self._seeds[t] for t in tasks]
        own = [_columns(self._counts[t], self._batch_size, step, self._seeds[t]) for t in tasks]
        columns = pad_sequence(own, batch_first=True, padding_value=-1)
        index = self._rows.index[chosen[:, None], columns.clamp(min=0)].cpu()
        length = torch.where((columns >= 0) & (index >= 0), self._length[index.clamp(min=0)], 0)
        counts = self._weights(chosen, columns, length > 0)
        for part, ranks in plan(length, self._budget):
            picked = torch.where(ranks >= 0, columns[part].gather(1, ranks.clamp(min=0)), -1)
            yield Pass(part, self._rows.take(chosen[part], picked), picked, counts[part], seeds[part])

    def _weights(self, tasks: Tensor, columns: Tensor, real: Tensor) -> Tensor:
        """`[t]`: what the rows `columns [t, b]` of `tasks [t]` count together (`losses.weights`)."""
        labels = self._rows.labels[tasks[:, None], columns.clamp(min=0)]
        return weights(labels, real.to(labels.device)).sum(1).clamp(min=1)


def _columns(count: int, batch_size: int | None, step: int, seed: int) -> Tensor:
    """Which of a task's `count` rows step `step` takes: epochs of seeded permutations, cut into batches."""
    if batch_size is None or batch_size >= count:
        return torch.arange(count)
    places = torch.arange(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: torch.randperm(count, generator=torch.Generator().manual_seed(mix(seed, epoch)))
        for epoch in (places // count).unique().tolist()
    }
    return torch.stack([orders[place // count][place % count] for place in places.tolist()])
