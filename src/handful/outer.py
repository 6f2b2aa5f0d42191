"""The outer gradient of a meta-learning algorithm over any number of tasks, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from handful.backbone import Backbone
from handful.batches import TOKEN_BUDGET, Rows, encode_tasks, lengths, stack
from handful.inner import Model, adapt, chosen, task_losses
from handful.losses import Loss, weights
from handful.meta import Algorithm, Question, answers, started
from handful.types import Batch, Episode, Params, Site


def outer_gradient(
    algorithm: Algorithm,
    model: Model,
    learned: Params,
    support: Rows,
    query: Rows,
    loss: Loss,
    *,
    sites: Mapping[str, Site] | None = None,
    progress: float = 1.0,
    budget: int = TOKEN_BUDGET,
) -> tuple[Params, Tensor]:
    """The sum over tasks of their outer gradients, a tree like `learned`, and each task's query loss `[T]`.

    It has what `algorithm.outer` names; tasks run together as long as they have at most `budget` tokens, which does not
    change the result but for rounding.
    """
    tree = {
        site: {
            name: p.detach().requires_grad_(p.is_floating_point() and chosen(algorithm.outer, site, name))
            for name, p in own.items()
        }
        for site, own in learned.items()
    }
    names = [(site, name) for site, own in tree.items() for name, p in own.items() if p.requires_grad]
    leaves = [tree[site][name] for site, name in names]
    total = [torch.zeros_like(p) for p in leaves]
    losses = torch.zeros(support.num_tasks, dtype=torch.float64)
    for tasks in _groups(support, query, budget):
        asked = Question(_all_rows(support, tasks), _all_rows(query, tasks))
        outcome = algorithm(model, tree, asked, loss, sites or {}, progress)
        found = torch.autograd.grad(outcome.objective.sum(), leaves, materialize_grads=True, allow_unused=True)
        for sum_, own in zip(total, found, strict=True):
            sum_ += own
        losses[tasks] = outcome.losses.detach().cpu().double()
    grads: Params = {}
    for (site, name), own in zip(names, total, strict=True):
        grads.setdefault(site, {})[name] = own
    return grads, losses


def ask(
    algorithm: Algorithm,
    model: Model,
    learned: Params,
    support: Rows,
    query: Rows,
    loss: Loss,
    *,
    sites: Mapping[str, Site] | None = None,
    budget: int = TOKEN_BUDGET,
) -> tuple[Tensor, Tensor]:
    """Mean loss and share of right answers (tags) of each task's queries after adaptation, `[T]` each."""
    losses, right = torch.zeros(2, support.num_tasks, dtype=torch.float64)
    for tasks in _groups(support, query, budget):
        asked = Question(_all_rows(support, tasks), _all_rows(query, tasks))
        scores = answers(algorithm, model, learned, asked, loss, sites or {})
        losses[tasks] = task_losses(loss, scores, asked.query).cpu().double()
        right[tasks] = _right(scores, asked.query).cpu().double()
    return losses, right


def adapted_params(
    algorithm: Algorithm,
    model: Model,
    learned: Params,
    rows: Rows,
    loss: Loss,
    *,
    sites: Mapping[str, Site],
    steps: int,
    budget: int = TOKEN_BUDGET,
) -> Params:
    """What T tasks come to from `learned` in `steps` inner steps on all of their rows, stacked `[T, ...]`.

    More steps than meta-training took rise for a tenth of them and then fall, as the released code of LEOPARD's
    authors adapts; fewer or as many take the rates as they are.
    """
    inner = replace(algorithm.inner, steps=steps)
    factors = _warm_and_fall(steps) if steps > algorithm.inner.steps else None
    parts: list[tuple[Tensor, Params]] = []
    for tasks in _groups(rows, rows, budget):
        batch = _all_rows(rows, tasks)
        with torch.no_grad():
            params, _ = started(model, learned, batch, algorithm.head, inner, second_order=False)
            after = adapt(
                model, params, batch, loss, inner, rates=learned.get("rates"), sites=sites, factors=factors
            )  # fmt: skip
        parts.append((tasks, after))
    order = torch.cat([tasks for tasks, _ in parts]).argsort()
    return {
        site: {name: torch.cat([after[site][name].detach() for _, after in parts])[order] for name in own}
        for site, own in parts[0][1].items()
    }


def _warm_and_fall(steps: int) -> list[float]:
    rising = 0.1 * steps
    return [(j + 1) / (rising + 1) if j < rising else (steps - j) / (steps - rising) for j in range(steps)]


def encode_episodes(backbone: Backbone, episodes: Sequence[Episode]) -> tuple[Rows, Rows]:
    """Support and query rows of T episodes over one pool of their examples."""
    halves = [half for episode in episodes for half in (episode.support, episode.query)]
    pool, labels = encode_tasks(halves, backbone)
    ends = torch.tensor([len(half.examples) for half in halves]).cumsum(0).tolist()
    index = [range(end - len(half.examples), end) for end, half in zip(ends, halves, strict=True)]
    classes = [len(half.labels) for half in halves]
    return stack(pool, index[::2], labels[::2], classes[::2]), stack(pool, index[1::2], labels[1::2], classes[1::2])


def _right(scores: Tensor, batch: Batch) -> Tensor:
    """Share of right answers of each task `[T]`, of tagging tasks of tags."""
    assert batch.labels is not None
    hits = (scores.argmax(-1) == batch.labels) & batch.row_mask.reshape(*scores.shape[:2], *(1,) * (scores.ndim - 3))
    return hits.flatten(1).sum(1) / weights(batch.labels, batch.row_mask).sum(1).clamp(min=1)


def _groups(support: Rows, query: Rows, budget: int) -> Iterator[Tensor]:
    """Tasks `[t]` to run together, the largest first: at most `budget` tokens of support or query, or a single task."""
    sizes = []
    for rows in (support, query):
        length = torch.where(
            rows.index >= 0, lengths(rows.pool)[rows.index.clamp(min=0).cpu()].to(rows.index.device), 0
        )
        sizes.append(torch.stack([length.amax(1), (length > 0).sum(1)], 1).cpu())
    size = torch.stack(sizes)  # [2, T, (tokens, rows)]
    order = (size[..., 0] * size[..., 1]).amax(0).argsort(descending=True, stable=True)
    start = 0
    for end in range(1, len(order) + 1):
        ahead = size[:, order[start : end + 1]]
        if end == len(order) or int((ahead.amax(1).prod(1)).max()) * ahead.shape[1] > budget:
            yield order[start:end]
            start = end


def _all_rows(rows: Rows, tasks: Tensor) -> Batch:
    """All rows of some tasks `[t, b, ...]`."""
    own = rows.index[tasks] >= 0
    width = int(own.sum(1).max())
    columns = torch.arange(width, device=own.device).expand(len(tasks), width)
    return rows.take(tasks, torch.where(own[:, :width], columns, -1))
