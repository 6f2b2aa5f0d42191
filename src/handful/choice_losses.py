"""Losses of answers that end in text, from log-probabilities of their tokens (Liu et al. 2022, T-Few, section 3.2).

`logp [..., C, L]` is the log-probability of each token of C choices, the end of the sequence among them, -inf where a
choice has no token, and wholly so for a choice that only fills up a ragged row; `gold [...]` is the right one. Each
gives one value a row `[...]`, in float32 or better.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from handful.errors import RequestError
from handful.losses import Loss, cross_entropy

SURE = -1e-6
"""The largest log-probability of a wrong token that is told apart from certainty, so that its loss is finite."""
PUBLISHED_FLOOR, PUBLISHED_ABSENT = 0.01, -100.0


def language_modelling(logp: Tensor, gold: Tensor) -> Tensor:
    """Minus the mean log-probability of the right answer's tokens (equation 1)."""
    return -mean_logp(logp).gather(-1, gold[..., None])[..., 0]


def unlikelihood(logp: Tensor, gold: Tensor) -> Tensor:
    """Minus the mean of `log(1 - p)` over the tokens of all wrong choices (equation 2); 0 where there are none."""
    wrong = _wrong(logp, gold)
    each = torch.where(wrong, _log1mexp(torch.where(wrong, _float(logp), -1.0).clamp(max=SURE)), 0.0)
    return -each.sum((-2, -1)) / wrong.sum((-2, -1)).clamp(min=1)


def length_normalised(logp: Tensor, gold: Tensor) -> Tensor:
    """Cross-entropy of the choices by their mean log-probabilities (equation 3)."""
    return cross_entropy(mean_logp(logp), gold)


LOSSES = {"lm": language_modelling, "ul": unlikelihood, "ln": length_normalised}


def summed(said: str) -> Loss:
    """The sum, without weights, of the losses that `said` names: "lm+ul+ln" are T-Few's. RequestError for others."""
    names = said.split("+")
    if wrong := [name for name in names if name not in LOSSES] or [name for name in names if names.count(name) > 1]:
        found = f"{wrong[0]!r} is none of {', '.join(LOSSES)}, or is there twice."
        raise RequestError(f"The losses {said!r} were asked for.", found, "Join some of them with +, such as lm+ul+ln.")

    def loss(logp: Tensor, gold: Tensor) -> Tensor:
        return torch.stack([LOSSES[name](logp, gold) for name in names]).sum(0)

    return loss


def unlikelihood_as_published(logp: Tensor, gold: Tensor) -> Tensor:
    """What the authors' code computes of a batch `[B, C, L]`, as one number `[]`: to compare with it, not to train on.

    `log(1 - p + 0.01)`; tokens of the right choice and places without a token count as p = exp(-100) in the sum, and
    not in the number that it is divided by, which is of the whole batch. It may be negative.
    """
    wrong = _wrong(logp, gold)
    p = torch.where(wrong, _float(logp), PUBLISHED_ABSENT).exp()
    return -(1 - p + PUBLISHED_FLOOR).log().sum() / wrong.sum()


def sum_logp(logp: Tensor) -> Tensor:
    """Log-probability of each choice `[..., C]`; -inf for absent ones."""
    real = logp > float("-inf")
    return torch.where(real, _float(logp), 0.0).sum(-1).masked_fill(~real.any(-1), float("-inf"))


def mean_logp(logp: Tensor) -> Tensor:
    """Mean log-probability of each choice's tokens `[..., C]`, by which choices are ranked; -inf for absent ones."""
    return sum_logp(logp) / (logp > float("-inf")).sum(-1).clamp(min=1)


def _wrong(logp: Tensor, gold: Tensor) -> Tensor:
    """`[..., C, L]`, True at the tokens of wrong choices."""
    right = torch.arange(logp.shape[-2], device=logp.device) == gold[..., None]
    return (logp > float("-inf")) & ~right[..., None]


def _float(logp: Tensor) -> Tensor:
    return logp.to(torch.promote_types(logp.dtype, torch.float32))


def _log1mexp(x: Tensor) -> Tensor:
    """`log(1 - exp(x))` of negative x without cancellation (Maechler 2012)."""
    near = x > -math.log(2)
    return torch.where(
        near, (-torch.expm1(torch.where(near, x, -1.0))).log(), torch.log1p(-torch.where(near, -1.0, x).exp())
    )
