"""The optimisers are torch's and transformers' own, step by step, but with a rate and a state for each task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.optimization import Adafactor as TheirAdafactor

from handful.optim import SGD, Adafactor, AdamW, Layout, Optimizer, optimizer, select
from handful.types import Params

SHAPES = {"scale": (), "bias": (5,), "weight": (3, 4), "kernel": (2, 3, 4)}
RATES = (0.1, 0.03, 0.003)
STEPS = 6


def some_params(tasks: int = len(RATES), seed: int = 0) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {
        "block.1#query": {n: torch.randn(tasks, *s, generator=generator).double() for n, s in SHAPES.items()},
        "head": {"weight": torch.randn(tasks, 2, 3, generator=generator).double()},
    }


def loss(params: Params, step: int) -> Tensor:
    """Different at every step and for every parameter."""
    every = [p for own in params.values() for p in own.values()]
    return torch.stack([(p * (1 + 0.1 * i + 0.1 * step)).sin().sum() for i, p in enumerate(every)]).sum()


def ours(rule: Optimizer) -> Params:
    params = some_params()
    layout = Layout.of(params)
    flat, lr = layout.pack(params), torch.tensor(RATES, dtype=torch.float64)[:, None]
    state = rule.init(flat, layout)
    for step in range(STEPS):
        leaf = flat.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(layout.unpack(leaf), step), leaf)
        flat = flat + rule.step(flat, grad, state, lr, layout)
    return layout.unpack(flat)


def theirs(make: Callable[..., Any], task: int) -> list[Tensor]:
    leaves = [p[task].clone().requires_grad_() for own in some_params().values() for p in own.values()]
    rule = make(leaves, lr=RATES[task])
    for step in range(STEPS):
        rule.zero_grad()
        loss({"": {str(i): leaf[None] for i, leaf in enumerate(leaves)}}, step).backward()
        rule.step()
    return [leaf.detach() for leaf in leaves]


CASES: dict[str, tuple[Optimizer, Callable[..., Any]]] = {
    "sgd": (SGD(), torch.optim.SGD),
    "sgd-decay": (SGD(weight_decay=0.1), lambda p, lr: torch.optim.SGD(p, lr=lr, weight_decay=0.1)),
    "sgd-momentum": (SGD(momentum=0.9), lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
    "adamw": (AdamW(), lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.0)),
    "adamw-decay": (AdamW(weight_decay=0.1), lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.1)),
    "adamw-options": (
        AdamW(beta1=0.8, beta2=0.9, eps=1e-4),
        lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.0),
    ),
    "adafactor": (
        Adafactor(),
        lambda p, lr: TheirAdafactor(p, lr=lr, relative_step=False, scale_parameter=False),
    ),
    "adafactor-decay": (
        Adafactor(weight_decay=0.1),
        lambda p, lr: TheirAdafactor(p, lr=lr, relative_step=False, scale_parameter=False, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_as_the_known_implementation(name: str) -> None:
    rule, make = CASES[name]
    mine = ours(rule)
    for task in range(len(RATES)):
        flat = [p[task] for own in mine.values() for p in own.values()]
        for own, their in zip(flat, theirs(make, task), strict=True):
            torch.testing.assert_close(own, their, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adafactor"])
def test_a_decay_for_each_task(name: Any) -> None:
    params = some_params()
    layout = Layout.of(params)
    flat, lr = layout.pack(params), torch.tensor(RATES, dtype=torch.float64)[:, None]
    decays = [0.0, 0.1, 0.5]
    together = optimizer(name, torch.tensor(decays, dtype=torch.float64)[:, None])
    grad = flat.sin()
    got = together.step(flat, grad, together.init(flat, layout), lr, layout)
    for task, decay in enumerate(decays):
        alone, one = optimizer(name, decay), slice(task, task + 1)
        own = alone.step(flat[one], grad[one], alone.init(flat[one], layout), lr[one], layout)
        torch.testing.assert_close(got[one], own)


@given(
    st.lists(
        st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    st.integers(1, 4),
)
def test_packing_and_unpacking(sites: list[list[tuple[int, ...]]], tasks: int) -> None:
    params = {
        f"site.{i}": {f"p{j}": torch.randn(tasks, *shape) for j, shape in enumerate(shapes)}
        for i, shapes in enumerate(sites)
    }
    layout = Layout.of(params)
    flat = layout.pack(params)
    assert flat.shape == (tasks, layout.size)
    back = layout.unpack(flat)
    assert list(back) == list(params)
    for site, own in params.items():
        assert list(back[site]) == list(own)
        for name, p in own.items():
            assert torch.equal(back[site][name], p)
    masks = [
        layout.mask(lambda site, name, s=site, n=name: (site, name) == (s, n))
        for site in params
        for name in params[site]
    ]
    assert (torch.stack(masks).sum(0) == 1).all()
    for own in layout.unpack(flat).values():
        for p in own.values():
            p += 1  # views: what is changed in them is changed in `flat`
    assert torch.equal(flat, layout.pack(params) + 1)


def test_the_state_of_some_tasks_is_a_copy() -> None:
    state = {"mean": torch.arange(6.0).reshape(3, 2)}
    part = select(state, [2, 0])
    part["mean"] += 1
    assert part["mean"].tolist() == [[5, 6], [1, 2]]
    assert state["mean"].tolist() == [[0, 1], [2, 3], [4, 5]]
