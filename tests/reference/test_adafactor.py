"""T-Few's optimiser is transformers' own with the flags of the authors' configuration, for each task and rate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.optimization import Adafactor as TheirAdafactor

from handful.optim import Layout, optimizer
from handful.types import Params

SHAPES = {"vector": (7,), "single": (1,), "matrix": (3, 5), "zeros": (4, 2), "kernel": (2, 3, 4)}
RATES = (3e-3, 0.05)
STEPS = 20


def start() -> Params:
    """(IA)^3's ones, LoRA's zeros, and numbers larger and smaller than the least scale, of two tasks."""
    generator = torch.Generator().manual_seed(0)
    size = {"vector": 0.0, "single": 1e-5, "matrix": 3.0, "zeros": 0.0, "kernel": 0.1}
    drawn = {
        name: size[name] * torch.randn(2, *shape, generator=generator, dtype=torch.float64) + (name == "vector")
        for name, shape in SHAPES.items()
    }
    return {"layer": drawn}


def loss(parameters: list[Tensor], step: int) -> Tensor:
    """Different at every step; its gradients differ by orders of magnitude, so that some updates are clipped."""
    return torch.stack(
        [((p + 0.3) * (1 + i + step % 7)).sin().sum() * 10.0 ** (i - 2) for i, p in enumerate(parameters)]
    ).sum()


def ours(steps: int) -> Params:
    params, rule = start(), optimizer("adafactor-scaled")
    layout = Layout.of(params)
    flat, lr = layout.pack(params), torch.tensor(RATES, dtype=torch.float64)[:, None]
    state = rule.init(flat, layout)
    for step in range(steps):
        leaf = flat.clone().requires_grad_()
        each = list(layout.unpack(leaf)["layer"].values())
        (grad,) = torch.autograd.grad(loss(each, step), leaf)
        flat = flat + rule.step(flat, grad, state, lr, layout)
    return layout.unpack(flat)


def theirs(steps: int, task: int) -> list[Tensor]:
    leaves = [p[task].clone().requires_grad_() for p in start()["layer"].values()]
    rule = TheirAdafactor(leaves, lr=RATES[task], relative_step=False, scale_parameter=True, warmup_init=False)
    for step in range(steps):
        rule.zero_grad()
        loss(leaves, step).backward()
        rule.step()
    return [leaf.detach() for leaf in leaves]


@pytest.mark.parametrize("steps", [1, STEPS])
def test_twenty_steps_on_vectors_and_matrices(steps: int) -> None:
    found, first = ours(steps)["layer"], start()["layer"]
    for task in range(len(RATES)):
        for (name, own), their in zip(found.items(), theirs(steps, task), strict=True):
            torch.testing.assert_close(
                own[task], their, rtol=1e-9, atol=1e-12, msg=lambda said, name=name: f"{name}: {said}"
            )
            assert not torch.equal(own[task], first[name][task])


def test_the_rate_is_relative_to_the_size_of_a_tensor() -> None:
    """3e-3 is 3e-3 for ones and 3e-6 for zeros; a matrix of size 3 moves by 9e-3."""
    found, first = ours(1)["layer"], start()["layer"]
    moved = {name: float((found[name] - first[name])[0].square().mean().sqrt()) for name in SHAPES}
    assert moved["vector"] == pytest.approx(3e-3, rel=1e-6)
    assert moved["zeros"] == pytest.approx(3e-6, rel=0.5)
    assert moved["single"] == pytest.approx(3e-6, rel=1e-6)
    assert moved["matrix"] == pytest.approx(3e-3 * float(first["matrix"][0].square().mean().sqrt()), rel=0.5)
