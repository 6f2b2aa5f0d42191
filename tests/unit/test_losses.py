"""The losses are torch's own on the classes that a task has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from handful.losses import LOSSES, binary_cross_entropy, cross_entropy
from handful.scoring import mask_classes

LOGITS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.tensor([[True, True, False, False], [True] * 4])


def test_cross_entropy_is_torchs_own() -> None:
    labels = torch.tensor([[0, 1, 2, 3, 0], [3, 3, 2, 1, 0]])
    theirs = F.cross_entropy(LOGITS.flatten(0, 1), labels.flatten(), reduction="none")
    torch.testing.assert_close(cross_entropy(LOGITS, labels).flatten(), theirs)


def test_classes_that_a_task_lacks_do_not_count() -> None:
    labels = torch.tensor([[0, 1, 1, 0, 0], [3, 3, 2, 1, 0]])
    logits = LOGITS.clone().requires_grad_()
    got = cross_entropy(mask_classes(logits, MASK), labels)
    torch.testing.assert_close(got[0], F.cross_entropy(LOGITS[0, :, :2], labels[0], reduction="none"))
    got.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, :, 2:] == 0).all()
    torch.testing.assert_close(logits.grad.sum(-1), torch.zeros(2, 5, dtype=torch.float64))


def test_binary_cross_entropy_is_the_mean_over_the_classes_that_a_task_has() -> None:
    labels = (torch.arange(40).reshape(2, 5, 4) % 3 == 0).double()
    logits = LOGITS.clone().requires_grad_()
    got = binary_cross_entropy(mask_classes(logits, MASK), labels)
    for t, own in enumerate((slice(2), slice(4))):
        theirs = F.binary_cross_entropy_with_logits(LOGITS[t, :, own], labels[t, :, own], reduction="none").mean(-1)
        torch.testing.assert_close(got[t], theirs)
    got.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, :, 2:] == 0).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_huge_scores_stay_finite(kind: str) -> None:
    logits = torch.tensor([[1e30, -1e30], [-1e30, 1e30]], requires_grad=True)
    labels = torch.eye(2) if kind == "multilabel" else torch.tensor([0, 1])
    value = LOSSES[kind](logits, labels)
    assert not value.any()
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert grad.isfinite().all()
