"""Losses of scores, one value a row `[T?, B]`; `fit` takes their mean over each task's own rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Single-label: `logits [..., C]` (-inf for absent classes), `labels [...]` int64 -> `[...]`."""
    return logits.logsumexp(-1) - logits.gather(-1, labels[..., None])[..., 0]


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Multi-label: `logits [..., C]`, `labels [..., C]` 0/1 -> mean over present classes `[...]`."""
    present = logits != float("-inf")
    each = F.binary_cross_entropy_with_logits(torch.where(present, logits, 0.0), labels, reduction="none")
    return torch.where(present, each, 0.0).sum(-1) / present.sum(-1)


LOSSES = {"classification": cross_entropy, "multilabel": binary_cross_entropy}
