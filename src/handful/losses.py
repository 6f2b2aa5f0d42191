"""Losses of scores, one value a row `[T?, B]`; `fit` takes their mean over each task's own rows, by their `weights`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Single-label: `logits [..., C]` (-inf for absent classes), `labels [...]` int64 -> `[...]`."""
    return logits.logsumexp(-1) - logits.gather(-1, labels[..., None])[..., 0]


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Multi-label: `logits [..., C]`, `labels [..., C]` 0/1 -> mean over present classes `[...]`."""
    present = logits != float("-inf")
    each = F.binary_cross_entropy_with_logits(torch.where(present, logits, 0.0), labels, reduction="none")
    return torch.where(present, each, 0.0).sum(-1) / present.sum(-1)


def tag_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Tagging: `logits [..., S, C]`, `labels [..., S]` int64, negative where there is no tag -> mean over tags `[...]`.

    A row without a tag has 0. A plain mean over rows gives each sentence the same weight; weighted by their numbers of
    tags (`weights`), as in `fit`, it is the mean over all tags.
    """
    real = labels >= 0
    each = torch.where(real, cross_entropy(logits, labels.clamp(min=0)), 0.0)
    return each.sum(-1) / real.sum(-1).clamp(min=1)


def weights(labels: Tensor, row_mask: Tensor) -> Tensor:
    """What each row `[T?, B]` counts in its task's mean: the number of its tags `[T?, B, S]`, or else one."""
    tagged = labels.ndim == row_mask.ndim + 1 and not labels.is_floating_point()
    return torch.where(row_mask, (labels >= 0).sum(-1), 0) if tagged else row_mask.long()


LOSSES = {"classification": cross_entropy, "multilabel": binary_cross_entropy, "tagging": tag_cross_entropy}
