"""Meta-gradients of every method: many tasks at once give what one task at a time gives, in both orders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from handful.batches import Rows, concatenate, stack
from handful.inner import Inner
from handful.losses import cross_entropy
from handful.meta import Algorithm, Maml, Reptile
from handful.outer import outer_gradient
from handful.scoring import Classifier
from handful.types import Batch, Params, task_params
from laws.cases import METHODS, Case, applies, random_params, three_tasks

CLASSES = (2, 1, 2)
ALGORITHMS: dict[str, Algorithm] = {
    "first-order": Maml(Inner(steps=2, lr=0.05, rates="tensor", clip=1.0)),
    "second-order": Maml(Inner(steps=2, lr=0.05), second_order=True),
    "reptile": Reptile(Inner(steps=2, lr=0.05)),
}


def episodes(case: Case) -> tuple[Rows, Rows]:
    """Three tasks, ragged in rows, tokens and classes; what is asked are the rows of the next task."""
    tasks = three_tasks(case)
    pool = Batch(concatenate([task.inputs for task in tasks]), torch.cat([task.row_mask for task in tasks]))
    ends = torch.tensor([len(task.row_mask) for task in tasks]).cumsum(0).tolist()
    own = [list(range(end - len(task.row_mask), end)) for end, task in zip(ends, tasks, strict=True)]
    asked = own[1:] + own[:1]

    def labels(rows: list[list[int]]) -> list[Tensor]:
        return [torch.tensor(r) % c for r, c in zip(rows, CLASSES, strict=True)]

    return stack(pool, own, labels(own), CLASSES), stack(pool, asked, labels(asked), CLASSES)


def of_task(rows: Rows, t: int) -> Rows:
    return replace(
        rows, index=rows.index[t : t + 1], labels=rows.labels[t : t + 1], class_mask=rows.class_mask[t : t + 1]
    )


@pytest.mark.parametrize("order", ALGORITHMS)
@pytest.mark.parametrize("method", [m for m in METHODS if applies(m, "bert")])
def test_tasks_together_equal_one_by_one(method: str, order: str) -> None:
    case, algorithm = Case(method, "bert", "float64"), ALGORITHMS[order]
    adapted = case.adapted()
    model = Classifier(adapted, scale=8.0)
    sites = {site.name: site for site in adapted.sites}
    learned: Params = task_params(random_params(case, 1), 0)
    learned["rates"] = algorithm.inner.init_rates(learned, sites)
    support, query = episodes(case)

    def outer(support: Rows, query: Rows, budget: int) -> tuple[Params, Tensor]:
        return outer_gradient(algorithm, model, learned, support, query, cross_entropy, sites=sites, budget=budget)

    together, losses = outer(support, query, 10_000)
    alone = [outer(of_task(support, t), of_task(query, t), 10_000) for t in range(3)]
    few, _ = outer(support, query, 1)  # a task at a time, by the budget
    torch.testing.assert_close(losses, torch.cat([own for _, own in alone]), rtol=1e-12, atol=1e-12)
    for site, own in together.items():
        for name, found in own.items():
            expected = sum((grads[site][name] for grads, _ in alone), torch.zeros_like(found))
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12 * scale)
            torch.testing.assert_close(few[site][name], expected, rtol=1e-11, atol=1e-12 * scale)
    assert any(bool(g.any()) for site, own in together.items() if site != "rates" for g in own.values())
