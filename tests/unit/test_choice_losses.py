"""T-Few's losses: closed forms, what they do not depend on, and finite gradients."""

from __future__ import annotations

import math

import pytest
import torch

from handful.choice_losses import (
    language_modelling,
    length_normalised,
    mean_logp,
    tfew,
    unlikelihood,
    unlikelihood_as_published,
)

ALL = (language_modelling, unlikelihood, length_normalised, tfew)


def drawn(rows: int = 5, choices: int = 4, length: int = 6, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    logp = torch.randn(rows, choices, length, generator=g, dtype=torch.float64).abs().neg() - 0.01
    lengths = torch.randint(1, length + 1, (rows, choices, 1), generator=g)
    return logp, torch.arange(length) < lengths, torch.randint(0, choices, (rows,), generator=g)


@pytest.mark.parametrize("vocabulary", [2, 100, 32_128])
@pytest.mark.parametrize("choices", [2, 5])
def test_uniform_tokens(vocabulary: int, choices: int) -> None:
    _, mask, gold = drawn(choices=choices)
    logp = torch.full(mask.shape, -math.log(vocabulary), dtype=torch.float64)
    close = {"rtol": 1e-12, "atol": 1e-12}
    expected = torch.full((5,), math.log(vocabulary), dtype=torch.float64)
    torch.testing.assert_close(language_modelling(logp, mask, gold), expected, **close)
    expected = torch.full((5,), -math.log1p(-1 / vocabulary), dtype=torch.float64)
    torch.testing.assert_close(unlikelihood(logp, mask, gold), expected, **close)
    expected = torch.full((5,), math.log(choices), dtype=torch.float64)
    torch.testing.assert_close(length_normalised(logp, mask, gold), expected, **close)


def test_the_length_normalised_loss_of_known_means() -> None:
    logp = torch.tensor([[[-1.0, -1.0], [-3.0, -1.0], [-3.0, 0.0]]])
    mask = torch.tensor([[[True, True], [True, True], [True, False]]])
    assert mean_logp(logp, mask).tolist() == [[-1.0, -2.0, -3.0]]
    assert length_normalised(logp, mask, torch.tensor([0])).item() == pytest.approx(0.407606, abs=1e-6)


def test_unlikelihood_is_a_mean_over_the_tokens_of_all_wrong_choices() -> None:
    logp, mask, gold = drawn()
    for row in range(len(gold)):
        wrong = [c for c in range(4) if c != gold[row]]
        terms = torch.cat([torch.log(1 - logp[row, c][mask[row, c]].exp()) for c in wrong])
        assert unlikelihood(logp, mask, gold)[row].item() == pytest.approx(-terms.mean().item(), rel=1e-10)


@pytest.mark.parametrize("loss", ALL)
def test_what_is_masked_does_not_count(loss) -> None:
    logp, mask, gold = drawn()
    before = loss(logp, mask, gold)
    wider = torch.nn.functional.pad(logp, (0, 3, 0, 2), value=float("nan"))
    torch.testing.assert_close(loss(wider, torch.nn.functional.pad(mask, (0, 3, 0, 2)), gold), before)


@pytest.mark.parametrize("loss", ALL)
def test_the_order_of_choices_does_not_count(loss) -> None:
    logp, mask, gold = drawn()
    order = torch.tensor([2, 0, 3, 1])
    moved = torch.argsort(order)[gold]
    torch.testing.assert_close(loss(logp[:, order], mask[:, order], moved), loss(logp, mask, gold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gradients_are_finite_where_a_wrong_token_is_certain(dtype: torch.dtype) -> None:
    logp = torch.tensor([[[-0.5], [0.0], [-80.0]]], dtype=dtype, requires_grad=True)
    mask = torch.ones(1, 3, 1, dtype=torch.bool)
    loss = tfew(logp, mask, torch.tensor([0]))
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def test_gradients_are_right() -> None:
    logp, mask, gold = drawn(rows=2, choices=3, length=3)
    assert torch.autograd.gradcheck(lambda x: tfew(x, mask, gold), logp.requires_grad_())


def test_a_single_choice_has_nothing_to_be_unlikely() -> None:
    logp, mask, gold = drawn(choices=1)
    assert unlikelihood(logp, mask, gold).tolist() == [0.0] * 5
    assert length_normalised(logp, mask, gold).tolist() == [0.0] * 5


def test_the_published_code_counts_gold_and_padding_too() -> None:
    logp, mask, gold = drawn()
    found = unlikelihood_as_published(logp, mask, gold).item()
    total, count, padded = 0.0, 0, 0
    for row in range(5):
        for c in range(4):
            if c == gold[row]:
                padded += mask.shape[-1]
                continue
            own = logp[row, c][mask[row, c]]
            total += torch.log(1 - own.exp() + 0.01).sum().item()
            count += len(own)
            padded += mask.shape[-1] - len(own)
    assert found == pytest.approx(-(total + padded * math.log(1.01)) / count, rel=1e-10)
    sure = torch.full_like(logp, -50.0)
    assert unlikelihood_as_published(sure, mask, gold).item() < 0 <= unlikelihood(sure, mask, gold).min().item()
