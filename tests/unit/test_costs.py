"""Costs are counted, not guessed."""

from __future__ import annotations

import time

import torch

from handful.attach import attach
from handful.costs import backbone_flops, count_flops, head_flops, measured, peak_memory
from handful.methods.lora import LoRA
from handful.types import Batch
from tiny import FFN, HIDDEN
from tinytext import rows_mask, tiny_text, token_pool


def test_products_are_counted_twice_a_multiply_add() -> None:
    assert count_flops(lambda: torch.zeros(3, 4) @ torch.zeros(4, 5)) == 2 * 3 * 4 * 5
    assert count_flops(lambda: None) == 0


def test_the_flops_of_a_backbone_are_those_of_its_products() -> None:
    tokens, blocks = 10, 2
    projections = 2 * tokens * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * FFN)
    attention = 2 * 2 * tokens * tokens * HIDDEN
    pooler = 2 * HIDDEN * HIDDEN
    assert backbone_flops(tiny_text(), tokens) in (
        blocks * (projections + attention), blocks * (projections + attention) + pooler
    )  # fmt: skip
    assert backbone_flops(tiny_text(), tokens) == backbone_flops(tiny_text(), tokens)


def test_a_method_costs_more_than_the_backbone_alone() -> None:
    adapted, pool = attach(tiny_text(), LoRA(rank=2)), token_pool([8])
    batch = Batch(pool.inputs, rows_mask(1))
    extra = count_flops(lambda: adapted(adapted.init(0), batch)) - backbone_flops(tiny_text(), 8)
    assert extra == 2 * 2 * (2 * 8 * 2 * (HIDDEN + HIDDEN))  # two blocks, two projections each, A and B of rank 2


def test_the_flops_of_a_head() -> None:
    x, w = torch.randn(7, 5), torch.randn(3, 5, requires_grad=True)
    assert count_flops(lambda: (x @ w.mT).sum().backward()) == head_flops(7, 5, 3)


def test_seconds_are_of_the_body_only() -> None:
    with measured() as watch:
        assert watch.seconds == 0
        time.sleep(0.02)
    seen = watch.seconds
    time.sleep(0.02)
    assert seen == watch.seconds >= 0.02
    assert watch.cpu_seconds >= 0


def test_memory_is_in_bytes() -> None:
    assert 50e6 < peak_memory() < 1e12
    before = peak_memory()
    torch.ones(40_000_000)
    assert peak_memory() >= before
