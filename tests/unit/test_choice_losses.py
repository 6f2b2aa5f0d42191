"""T-Few's losses: closed forms, what they do not depend on, and finite gradients."""

from __future__ import annotations

import math

import pytest
import torch

from handful.choice_losses import (
    language_modelling,
    length_normalised,
    mean_logp,
    summed,
    unlikelihood,
    unlikelihood_as_published,
)
from handful.errors import RequestError

ABSENT = float("-inf")
TFEW = summed("lm+ul+ln")
ALL = (language_modelling, unlikelihood, length_normalised, TFEW)


def drawn(rows: int = 5, choices: int = 4, length: int = 6, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    logp = torch.randn(rows, choices, length, generator=g, dtype=torch.float64).abs().neg() - 0.01
    lengths = torch.randint(1, length + 1, (rows, choices, 1), generator=g)
    gold = torch.randint(0, choices, (rows,), generator=g)
    return logp.masked_fill(torch.arange(length) >= lengths, ABSENT), gold


@pytest.mark.parametrize("vocabulary", [2, 100, 32_128])
@pytest.mark.parametrize("choices", [2, 5])
def test_uniform_tokens(vocabulary: int, choices: int) -> None:
    shape, gold = drawn(choices=choices)
    logp = torch.where(shape == ABSENT, ABSENT, torch.full_like(shape, -math.log(vocabulary)))
    close = {"rtol": 1e-12, "atol": 1e-12}
    expected = torch.full((5,), math.log(vocabulary), dtype=torch.float64)
    torch.testing.assert_close(language_modelling(logp, gold), expected, **close)
    expected = torch.full((5,), -math.log1p(-1 / vocabulary), dtype=torch.float64)
    torch.testing.assert_close(unlikelihood(logp, gold), expected, **close)
    expected = torch.full((5,), math.log(choices), dtype=torch.float64)
    torch.testing.assert_close(length_normalised(logp, gold), expected, **close)


def test_the_length_normalised_loss_of_known_means() -> None:
    logp = torch.tensor([[[-1.0, -1.0], [-3.0, -1.0], [-3.0, ABSENT]]])
    assert mean_logp(logp).tolist() == [[-1.0, -2.0, -3.0]]
    assert length_normalised(logp, torch.tensor([0])).item() == pytest.approx(0.407606, abs=1e-6)


def test_unlikelihood_is_a_mean_over_the_tokens_of_all_wrong_choices() -> None:
    logp, gold = drawn()
    for row in range(len(gold)):
        wrong = [c for c in range(4) if c != gold[row]]
        terms = torch.cat([torch.log(1 - logp[row, c][logp[row, c] > ABSENT].exp()) for c in wrong])
        assert unlikelihood(logp, gold)[row].item() == pytest.approx(-terms.mean().item(), rel=1e-10)


@pytest.mark.parametrize("loss", ALL)
def test_what_is_masked_does_not_count(loss) -> None:
    logp, gold = drawn()
    before = loss(logp, gold)
    wider = torch.nn.functional.pad(logp, (0, 3, 0, 2), value=ABSENT)
    torch.testing.assert_close(loss(wider, gold), before)


@pytest.mark.parametrize("loss", ALL)
def test_the_order_of_choices_does_not_count(loss) -> None:
    logp, gold = drawn()
    order = torch.tensor([2, 0, 3, 1])
    moved = torch.argsort(order)[gold]
    torch.testing.assert_close(loss(logp[:, order], moved), loss(logp, gold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gradients_are_finite_where_a_wrong_token_is_certain(dtype: torch.dtype) -> None:
    logp = torch.tensor([[[-0.5], [0.0], [-80.0]]], dtype=dtype, requires_grad=True)
    loss = TFEW(logp, torch.tensor([0]))
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def test_gradients_are_right() -> None:
    shape, gold = drawn(rows=2, choices=3, length=3)
    real = shape > ABSENT

    def loss(x: torch.Tensor) -> torch.Tensor:
        return TFEW(shape.masked_scatter(real, x), gold)

    assert torch.autograd.gradcheck(loss, shape[real].requires_grad_())


def test_a_single_choice_has_nothing_to_be_unlikely() -> None:
    logp, gold = drawn(choices=1)
    assert unlikelihood(logp, gold).tolist() == [0.0] * 5
    assert length_normalised(logp, gold).tolist() == [0.0] * 5


def test_the_published_code_counts_gold_and_padding_too() -> None:
    logp, gold = drawn()
    found = unlikelihood_as_published(logp, gold).item()
    total, count, padded = 0.0, 0, 0
    for row in range(5):
        for c in range(4):
            if c == gold[row]:
                padded += logp.shape[-1]
                continue
            own = logp[row, c][logp[row, c] > ABSENT]
            total += torch.log(1 - own.exp() + 0.01).sum().item()
            count += len(own)
            padded += logp.shape[-1] - len(own)
    assert found == pytest.approx(-(total + padded * math.log(1.01)) / count, rel=1e-10)
    sure = torch.where(logp == ABSENT, ABSENT, torch.full_like(logp, -50.0))
    assert unlikelihood_as_published(sure, gold).item() < 0 <= unlikelihood(sure, gold).min().item()


def test_losses_are_joined_by_name() -> None:
    logp, gold = drawn()
    whole = language_modelling(logp, gold) + unlikelihood(logp, gold) + length_normalised(logp, gold)
    torch.testing.assert_close(TFEW(logp, gold), whole)
    torch.testing.assert_close(summed("lm")(logp, gold), language_modelling(logp, gold))
    for wrong in ("lm+xx", "", "lm+lm"):
        with pytest.raises(RequestError, match="lm, ul, ln"):
            summed(wrong)
