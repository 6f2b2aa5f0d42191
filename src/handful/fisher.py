"""The diagonal empirical Fisher information of parameters, by one backward pass over many one-row tasks."""

from __future__ import annotations

import torch

from handful.batches import TOKEN_BUDGET, Rows, lengths
from handful.fit import Loss, Model
from handful.types import Params, map_params

BYTES = 1 << 30
"""Most that the gradients of rows that share a pass may take."""


def fisher(model: Model, params: Params, rows: Rows, loss: Loss, *, budget: int = TOKEN_BUDGET) -> Params:
    """`F = (1/N) sum_i (d loss(x_i, y_i) / d params)^2` of T tasks' own N rows and labels, shaped as `params [T, ...]`.

    Sung, Nair & Raffel 2021 (arXiv 2111.09839, equation 3), with true labels and one row at a time. The integers among
    the parameters are handed on, the class head is left out.
    """
    counts = rows.counts().tolist()
    found = {
        site: {name: torch.zeros_like(p) if p.is_floating_point() else p for name, p in own.items()}
        for site, own in params.items()
        if site != "head"
    }
    size = sum(p[0].nbytes for own in found.values() for p in own.values() if p.is_floating_point())
    length = lengths(rows.pool)
    for task, count in enumerate(counts):
        longest = int(length[rows.index[task, :count].cpu()].max())
        together = max(1, min(budget // max(1, longest), BYTES // (2 * size)))
        for columns in torch.arange(count).split(together):
            _add(found, model, map_params(lambda p, t=task: p[t], params), rows, loss, task, columns)
        for own in found.values():
            for p in own.values():
                if p.is_floating_point():
                    p[task] /= count
    return found


def _add(
    found: Params, model: Model, own: Params, rows: Rows, loss: Loss, task: int, columns: torch.Tensor
) -> None:  # fmt: skip
    """The squared gradients of some rows of a task, each of which is a task of its own."""
    num = len(columns)
    each = map_params(lambda p: p.expand(num, *p.shape).clone(), own)
    names = [(s, n) for s, parts in found.items() for n, p in parts.items() if p.is_floating_point()]
    leaves = [each[site][name].requires_grad_() for site, name in names]
    batch = rows.take(torch.full((num,), task), columns[:, None])
    assert batch.labels is not None
    losses = loss(model(each, batch).float(), batch.labels)
    grads = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)
    for (site, name), grad in zip(names, grads, strict=True):
        found[site][name][task] += grad.square().sum(0)
