"""Rows on the way to the backbone: pools of encoded examples, stacks of tasks over them, and plans without padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from handful.backbone import Backbone
from handful.distributed import Team
from handful.packing import OF_ANSWERS
from handful.prompts import encode, tag_targets, targets
from handful.types import Batch, Task

TOKEN_BUDGET = 2048
"""Tokens of one forward pass on a CPU; more does not run faster there and only holds memory (benchmarks/README.md)."""
OVERHEAD = 32
"""What starting one more forward pass costs, in tokens."""


@dataclass(frozen=True)
class Rows:
    """T tasks over one pool of encoded examples, so that folds, seeds and sweeps share their encodings.

    pool        `[n, ...]`, each distinct example once, without labels
    index       `[T, M]` rows of the pool, -1 where a task has fewer than M rows
    labels      `[T, M]` int64 class indices, `[T, M, C]` float for multi-label, or for tagging `[T, M, S]` int64, with
                the pool's S and -100 at tokens without a tag
    class_mask  `[T, C]`, True for the classes that a task has
    """

    pool: Batch
    index: Tensor
    labels: Tensor
    class_mask: Tensor

    @property
    def num_tasks(self) -> int:
        return self.index.shape[0]

    @property
    def tagged(self) -> bool:
        """Whether labels belong to tokens."""
        return self.labels.ndim == 3 and not self.labels.is_floating_point()

    def counts(self) -> Tensor:
        """Rows of each task, `[T]`."""
        return (self.index >= 0).sum(1)

    def take(self, tasks: Tensor, columns: Tensor) -> Batch:
        """The batch `[t, b, ...]` of `columns [t, b]` (-1 for none) of `tasks [t]`, cut to its longest row."""
        held = columns.clamp(min=0)
        index = self.index[tasks[:, None], held]
        mask = (columns >= 0) & (index >= 0)
        batch = gather(self.pool, index.clamp(min=0), mask)
        labels = self.labels[tasks[:, None], held]
        if self.tagged:
            labels = labels[..., : batch.inputs["attention_mask"].shape[-1]]
        return replace(batch, labels=labels, class_mask=self.class_mask[tasks])

    def first(self) -> tuple[Tensor, Batch, Tensor]:
        """`(tasks [1], batch [1, 1, ...], columns [1, 1])` of one row."""
        one = torch.zeros(1, dtype=torch.long)
        return one, self.take(one, one[:, None]), one[:, None]


def lengths(pool: Batch) -> Tensor:
    """Real tokens of each row `[n]`; one where rows have no token dimension."""
    mask = pool.inputs.get("attention_mask")
    if mask is None or "features" in pool.inputs:
        return torch.ones(pool.row_mask.shape[0], dtype=torch.long)
    return mask.sum(-1).cpu()


def gather(pool: Batch, index: Tensor, mask: Tensor | None = None) -> Batch:
    """Rows `index [...]` of a pool as a batch `[..., ...]`, without columns on the right that only pad."""
    attention = pool.inputs.get("attention_mask")
    index = index.to(pool.row_mask.device)
    longest, width = None, 0
    if attention is not None:
        longest = max(1, int(attention[index.flatten()].sum(-1).max()))
        width = attention.shape[1]
    inputs = {}
    for name, value in pool.inputs.items():
        if longest is not None and value.ndim > 1 and value.shape[1] == width and name not in OF_ANSWERS:
            value = value[:, :longest]
        inputs[name] = value[index]
    row_mask = torch.ones(index.shape, dtype=torch.bool) if mask is None else mask
    return Batch(inputs, row_mask.to(index.device))


def plan(length: Tensor, budget: int = TOKEN_BUDGET) -> Iterator[tuple[slice, Tensor]]:
    """Splits rows of given lengths `[T, B]` (0 for no row) into forward passes with little padding.

    Yields `(tasks, columns)`: a range of tasks and `[t, b]` columns of their rows (-1 for none), each task's rows
    ordered by length. A pass holds at most `budget` tokens unless a single row is longer; which rows go together does
    not change any result, only the time and memory it takes.
    """
    num_tasks, _ = length.shape
    longest_first = length.argsort(dim=1, descending=True, stable=True)
    ordered = length.gather(1, longest_first)
    rows = int((length > 0).sum(1).max())
    per_task = max(1, int(ordered.sum(1).max()))
    together = max(1, min(num_tasks, budget // per_task))
    for start in range(0, num_tasks, together):
        tasks = slice(start, min(start + together, num_tasks))
        chunk = ordered[tasks, :rows]
        columns = torch.where(chunk > 0, longest_first[tasks, :rows], -1)
        for first, last in _segments(chunk.amax(0).numpy(), chunk.shape[0], budget):
            yield tasks, columns[:, first:last]


def _segments(longest: np.ndarray, num_tasks: int, budget: int) -> list[tuple[int, int]]:
    """Cuts ranks `0..B` (longest first) into segments of least cost: padded tokens plus `OVERHEAD` for each pass."""
    total = int((longest > 0).sum())
    cost, back = np.zeros(total + 1), np.zeros(total + 1, dtype=int)
    first = 0
    for last in range(1, total + 1):
        while first < last - 1 and num_tasks * (last - first) * longest[first] > budget:
            first += 1
        tokens = num_tasks * np.arange(last - first, 0, -1) * longest[first:last]
        costs = cost[first:last] + tokens + OVERHEAD
        back[last] = first + int(costs.argmin())
        cost[last] = costs[back[last] - first]
    cuts = [total]
    while cuts[-1] > 0:
        cuts.append(int(back[cuts[-1]]))
    cuts.reverse()
    return list(pairwise(cuts))


def stack(pool: Batch, index: Sequence[Sequence[int]], labels: Sequence[Tensor], num_classes: Sequence[int]) -> Rows:
    """T ragged tasks over one pool: task t has rows `index[t]` with `labels[t]` and `num_classes[t]` classes."""
    width, classes = max(len(rows) for rows in index), max(num_classes)
    padded = torch.full((len(index), width), -1)
    multi, tagged = labels[0].is_floating_point(), labels[0].ndim == 2
    shape = (len(index), width, *labels[0].shape[1:]) if not multi else (len(index), width, classes)
    held = torch.full(shape, -100 if tagged and not multi else 0, dtype=labels[0].dtype)
    class_mask = torch.zeros(len(index), classes, dtype=torch.bool)
    for t, (rows, own) in enumerate(zip(index, labels, strict=True)):
        padded[t, : len(rows)] = torch.as_tensor(np.asarray(rows))
        if multi:
            held[t, : len(rows), : own.shape[1]] = own
        else:
            held[t, : len(rows)] = own
        class_mask[t, : num_classes[t]] = True
    device = pool.row_mask.device
    return Rows(pool, padded.to(device), held.to(device), class_mask.to(device))


def concatenate(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of several encoded batches as one, padded on the right to the longest."""
    joined = {}
    for name in batches[0]:
        parts = [batch[name] for batch in batches]
        if parts[0].ndim > 1 and len({part.shape[1] for part in parts}) > 1:
            width = max(part.shape[1] for part in parts)
            parts = [torch.cat([p, p.new_zeros(p.shape[0], width - p.shape[1], *p.shape[2:])], 1) for p in parts]
        joined[name] = torch.cat(parts)
    return joined


def encode_tasks(tasks: Sequence[Task], backbone: Backbone) -> tuple[Batch, list[Tensor]]:
    """The rows of all tasks, one after the other, and each task's labels."""
    parts = [encode(backbone, task.examples, template=task.template) for task in tasks]
    rows = Batch(concatenate([part.inputs for part in parts]), torch.cat([part.row_mask for part in parts]))
    return rows, _labels(tasks, rows)


def _labels(tasks: Sequence[Task], rows: Batch) -> list[Tensor]:
    """Each task's labels, by the tokens of its part of the encoded rows where it is a tagging task."""
    if "word" not in rows.inputs:
        return [targets(task) for task in tasks]
    words = rows.inputs["word"].split([len(task.examples) for task in tasks])
    return [tag_targets(task, own).cpu() for task, own in zip(tasks, words, strict=True)]


def take_all(
    rows: Rows, budget: int = TOKEN_BUDGET, team: Team | None = None
) -> Iterator[tuple[Tensor, Batch, Tensor]]:
    """Every row of every task once, with little padding: `(tasks [t], batch [t, b, ...], columns [t, b])`.

    With a team, this rank's share of them.
    """
    length = torch.where(rows.index >= 0, lengths(rows.pool)[rows.index.clamp(min=0).cpu()].to(rows.index.device), 0)
    for part, columns in shares(length.cpu(), budget, team or Team()):
        tasks = torch.arange(rows.num_tasks)[part]
        yield tasks, rows.take(tasks, columns), columns


def shares(length: Tensor, budget: int, team: Team) -> list[tuple[slice, Tensor]]:
    """This rank's share of what `plan` yields, by the tokens that each pass holds."""

    def tokens(each: tuple[slice, Tensor]) -> int:
        part, columns = each
        return int(length[part].gather(1, columns[:, :1].clamp(min=0)).max()) * columns.numel()

    return team.own(list(plan(length, budget)), tokens)
