"""Tasks that share a batch: each one gets what it would get alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from handful.attach import attach
from handful.methods.bottleneck import ParallelAdapter
from handful.methods.combine import union
from handful.methods.lora import LoRA
from handful.noise import Noise
from handful.types import Batch, Params, map_params, task_params
from laws.cases import (
    Case,
    assert_same_gradients,
    cases,
    leaves,
    loss,
    random_params,
    real,
    rows_of,
    stacked,
    three_tasks,
)


@cases("float32", "bfloat16")
def test_a_stack_of_tasks_equals_a_loop_in_outputs(case: Case) -> None:
    adapted, params, tasks = case.adapted(), random_params(case, 3), three_tasks(case)
    with torch.no_grad():
        together = adapted(params, stacked(case, tasks))
        for t, task in enumerate(tasks):
            alone = adapted(task_params(params, t), task)
            together_t = replace(together, hidden=together.hidden[t, : len(task.row_mask)])
            torch.testing.assert_close(real(together_t, alone), real(alone), **case.tolerance)


@cache
def derivatives(case: Case) -> tuple[tuple[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]:
    """First and second-order gradients of a stack, and of a loop stacked afterwards."""
    adapted, params, tasks = case.adapted(), random_params(case, 2), three_tasks(case)[:2]
    each = [_two_orders(case, task_params(params, t), task) for t, task in enumerate(tasks)]
    loop = tuple([torch.stack(parts) for parts in zip(*order, strict=True)] for order in zip(*each, strict=True))
    assert adapted.backbone.dtype == torch.float64
    return _two_orders(case, params, stacked(case, tasks)), loop  # type: ignore[return-value]


def _two_orders(case: Case, params: Params, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    tree, flat = leaves(params)
    value = loss(case.adapted()(tree, batch, second_order=True), batch.row_mask)
    first = _grad(value.sum(), flat, create_graph=True)
    second = _grad(sum((g.tanh().sum() for g in first), torch.zeros(())), flat)
    return [g.detach() for g in first], second


def _grad(value: Tensor, flat: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    return list(torch.autograd.grad(value, flat, create_graph=create_graph, materialize_grads=True, allow_unused=True))


@cases("float64", variants=False)
def test_a_stack_of_tasks_equals_a_loop_in_gradients(case: Case) -> None:
    together, loop = derivatives(case)
    assert_same_gradients(case, together[0], loop[0])


@cases("float64", variants=False)
def test_a_stack_of_tasks_equals_a_loop_in_second_order_gradients(case: Case) -> None:
    together, loop = derivatives(case)
    assert any(g.abs().max() > 1e-6 for g in loop[1])
    assert_same_gradients(case, together[1], loop[1])


@cases("float32", "bfloat16")
def test_a_task_never_changes_another(case: Case) -> None:
    """Not with other rows, not with NaN in rows or parameters: outputs and gradients stay the same to the bit."""
    adapted, params = case.adapted(), random_params(case, 2)
    results = []
    for seed, broken in ((0, False), (7, True)):
        batch = stacked(case, [rows_of(case, 2, 6, seed=seed), rows_of(case, 2, 6, seed=1)])
        batch = batch.with_inputs(**{n: _nan_first(x) for n, x in batch.inputs.items() if broken and _holds_nan(x)})
        tree, flat = leaves(map_params(_nan_first, params) if broken else params)
        states = adapted(tree, batch)
        grads = _grad(loss(states, batch.row_mask)[1], flat)
        results.append((states.hidden[1].detach(), *(g[1] for g in grads)))
    assert results[0][0].isfinite().all()
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def _holds_nan(x: Tensor) -> bool:
    return x.is_floating_point()


def _nan_first(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return x
    return torch.cat([torch.full_like(x[:1], torch.nan), x[1:]])


@cases("float32", "bfloat16")
def test_rows_of_mixed_tasks_equal_separate_calls(case: Case) -> None:
    adapted, params, batch = case.adapted(), random_params(case, 3), rows_of(case, 4, 6)
    order = [2, 0, 2, 1]
    with torch.no_grad():
        mixed = adapted.mixed(params, batch, torch.tensor(order))
        for row, task in enumerate(order):
            one = replace(
                batch, inputs={n: x[row : row + 1] for n, x in batch.inputs.items()}, row_mask=batch.row_mask[:1]
            )
            alone = adapted(task_params(params, task), one)
            assert torch.equal(mixed.mask[row], alone.mask[0])
            torch.testing.assert_close(mixed.hidden[row][alone.mask[0]], real(alone), **case.tolerance)


@cases("float32", only=("lora", "parallel"))
def test_dropout_belongs_to_a_row(case: Case) -> None:
    """The same seeds give a row the same dropout, whatever shares its batch and however far it is padded."""
    method = union(LoRA(rank=2, dropout=0.5, roles=frozenset({"ffn.in"})), ParallelAdapter(width=4, dropout=0.5))
    adapted, tasks = attach(case.adapted().backbone, method), three_tasks(case)
    params = map_params(lambda p: p + 0.2, adapted.init(0, 3))
    seeds = ((11, 12), (13, 0), (14, 15))
    with torch.no_grad():
        together = adapted(params, stacked(case, tasks), noise=Noise(sum(seeds, ())))
        plain = adapted(params, stacked(case, tasks))
        for t, task in enumerate(tasks):
            rows = len(task.row_mask)
            alone = adapted(task_params(params, t), task, noise=Noise(seeds[t][:rows]))
            both = replace(together, hidden=together.hidden[t, :rows])
            torch.testing.assert_close(real(both, alone), real(alone), **case.tolerance)
            without = replace(plain, hidden=plain.hidden[t, :rows])
            with pytest.raises(AssertionError):
                torch.testing.assert_close(real(without, alone), real(alone), **case.tolerance)
