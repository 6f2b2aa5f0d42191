"""Losses of answers that end in text, from log-probabilities of their tokens (Liu et al. 2022, T-Few, section 3.2).

`logp [..., C, L]` is the log-probability of each token of C choices, the end of the sequence among them; `mask
[..., C, L]` is False where a choice has no token, and all False for a choice that only fills up a ragged row; `gold
[...]` is the right one. Each gives one value a row `[...]`, in float32 or better.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from handful.losses import cross_entropy

SURE = -1e-6
"""The largest log-probability of a wrong token that is told apart from certainty, so that its loss is finite."""
PUBLISHED_FLOOR, PUBLISHED_ABSENT = 0.01, -100.0


def language_modelling(logp: Tensor, mask: Tensor, gold: Tensor) -> Tensor:
    """Minus the mean log-probability of the right answer's tokens (equation 1)."""
    return -_of_gold(mean_logp(logp, mask), gold)


def unlikelihood(logp: Tensor, mask: Tensor, gold: Tensor) -> Tensor:
    """Minus the mean of `log(1 - p)` over the tokens of all wrong choices (equation 2); 0 where there are none."""
    wrong = mask & ~_is_gold(mask, gold)
    each = torch.where(wrong, _log1mexp(torch.where(wrong, _float(logp), -1.0).clamp(max=SURE)), 0.0)
    return -each.sum((-2, -1)) / wrong.sum((-2, -1)).clamp(min=1)


def length_normalised(logp: Tensor, mask: Tensor, gold: Tensor) -> Tensor:
    """Cross-entropy of the choices by their mean log-probabilities (equation 3)."""
    return cross_entropy(mean_logp(logp, mask), gold)


def tfew(logp: Tensor, mask: Tensor, gold: Tensor) -> Tensor:
    """The sum of the three, without weights."""
    given = (logp, mask, gold)
    return language_modelling(*given) + unlikelihood(*given) + length_normalised(*given)


def unlikelihood_as_published(logp: Tensor, mask: Tensor, gold: Tensor) -> Tensor:
    """What the authors' code computes of a batch `[B, C, L]`, as one number `[]`: to compare with it, not to train on.

    `log(1 - p + 0.01)`; tokens of the right choice and places without a token count as p = exp(-100) in the sum, and
    not in the number that it is divided by, which is of the whole batch. It may be negative.
    """
    wrong = mask & ~_is_gold(mask, gold)
    p = torch.where(wrong, _float(logp), PUBLISHED_ABSENT).exp()
    return -(1 - p + PUBLISHED_FLOOR).log().sum() / wrong.sum()


def mean_logp(logp: Tensor, mask: Tensor) -> Tensor:
    """Mean log-probability of each choice's tokens `[..., C]`, by which choices are ranked; -inf for absent ones."""
    mean = torch.where(mask, _float(logp), 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    return mean.masked_fill(~mask.any(-1), float("-inf"))


def _of_gold(values: Tensor, gold: Tensor) -> Tensor:
    return values.gather(-1, gold[..., None])[..., 0]


def _is_gold(mask: Tensor, gold: Tensor) -> Tensor:
    return (torch.arange(mask.shape[-2], device=mask.device) == gold[..., None])[..., None]


def _float(logp: Tensor) -> Tensor:
    return logp.to(torch.promote_types(logp.dtype, torch.float32))


def _log1mexp(x: Tensor) -> Tensor:
    """`log(1 - exp(x))` of negative x without cancellation (Maechler 2012)."""
    near = x > -math.log(2)
    return torch.where(
        near, (-torch.expm1(torch.where(near, x, -1.0))).log(), torch.log1p(-torch.where(near, -1.0, x).exp())
    )
