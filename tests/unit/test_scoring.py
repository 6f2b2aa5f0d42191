"""Pooling, prototypes and class heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from handful import scoring
from handful.attach import States, attach
from handful.cache import FeatureCache
from handful.methods import Method
from handful.methods.lora import LoRA
from handful.methods.variants import OnLayers
from handful.scoring import Classifier, mask_classes, pool, prototype_head, prototypes
from handful.types import Batch
from tinytext import random_params, rows_mask, small, tiny_text, token_pool

HIDDEN = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([[5, 2, 1], [3, 4, 5]])
MASK = torch.arange(5) < LENGTHS[..., None]


@pytest.mark.parametrize(
    ("pooling", "side"), [("mean", "right"), ("mean", "left"), ("first", "right"), ("last", "right"), ("last", "left")]
)
def test_pooling_reads_real_tokens_only(pooling: str, side: str) -> None:
    mask = MASK if side == "right" else MASK.flip(-1)
    got = pool(States(HIDDEN.masked_fill(~mask[..., None], 1e6), mask), pooling)
    for t in range(2):
        for b in range(3):
            real = HIDDEN[t, b][mask[t, b]]
            expected = {"mean": real.mean(0), "first": real[0], "last": real[-1]}[pooling]
            torch.testing.assert_close(got[t, b], expected)


def test_a_prototype_is_the_mean_of_its_class() -> None:
    x = torch.randn(2, 6, 3)
    labels = torch.tensor([[0, 1, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    got = prototypes(x, labels, mask, 3)
    torch.testing.assert_close(got[0, 0], x[0, [0, 2, 4, 5]].mean(0))
    torch.testing.assert_close(got[1, 1], x[1, :3].mean(0))
    assert (got[:, 2] == 0).all()
    assert (got[1, 0] == 0).all()  # its rows only pad


def test_the_prototype_head_scores_by_distance() -> None:
    x, labels = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 3
    head = prototype_head(x, labels, rows_mask(8), 3)
    query = torch.randn(5, 3, dtype=torch.float64)
    scores = query @ head["weight"].mT + head["bias"]
    distances = torch.cdist(query, prototypes(x, labels, rows_mask(8), 3)).square()
    torch.testing.assert_close(scores.softmax(-1), (-distances / 2).softmax(-1))


def test_multilabel_prototypes_share_rows() -> None:
    x = torch.eye(3)
    labels = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert prototypes(x, labels, rows_mask(3), 2).tolist() == [[1, 0, 0], [0.5, 0.5, 0]]


def test_the_multilabel_prototype_head_has_zero_half_way() -> None:
    x = torch.randn(9, 3, dtype=torch.float64) + 5
    labels = (torch.arange(9)[:, None] % torch.tensor([2, 3]) == 0).double()
    head = prototype_head(x, labels, rows_mask(9), 2)
    for c in range(2):
        near, far = x[labels[:, c] == 1].mean(0), x[labels[:, c] == 0].mean(0)
        for share, sign in ((0.4, 1), (0.6, -1)):
            score = ((1 - share) * near + share * far) @ head["weight"][c] + head["bias"][c]
            assert score * sign > 0


def head_of(tasks: int | None, classes: int, width: int) -> dict[str, Tensor]:
    lead = () if tasks is None else (tasks,)
    return {"weight": torch.randn(*lead, classes, width), "bias": torch.randn(*lead, classes)}


@pytest.mark.parametrize("scale", [None, 8.0])
def test_a_stack_of_heads_scores_as_each_head_alone(scale: float | None) -> None:
    model, x = Classifier(None, scale=scale), torch.randn(2, 5, 7)
    head = head_of(2, 3, 7)
    mask = torch.tensor([[True, True, False], [True] * 3])
    together = model({"head": head}, Batch({"features": x}, torch.ones(2, 5, dtype=torch.bool), class_mask=mask))
    assert (together[0, :, 2] == float("-inf")).all()
    for t in range(2):
        one = model({"head": {n: p[t] for n, p in head.items()}}, Batch({"features": x[t]}, rows_mask(5)))
        torch.testing.assert_close(together[t][:, mask[t]], one[:, mask[t]])


def test_features_have_the_length_that_was_asked_for() -> None:
    backbone = tiny_text()
    adapted = attach(backbone, LoRA(rank=2))
    batch, params = token_pool([5, 3]), random_params(adapted.init(0))
    long = Classifier(adapted, "mean", 8.0).features(params, batch)
    torch.testing.assert_close(long.norm(dim=-1), torch.full((2,), 8.0))
    raw = Classifier(adapted, "mean").features(params, batch)
    torch.testing.assert_close(long, 8 * raw / raw.norm(dim=-1, keepdim=True))


def test_no_mask_changes_nothing() -> None:
    logits = torch.randn(2, 3)
    assert mask_classes(logits, None) is logits


@pytest.mark.parametrize("method", [OnLayers(method=LoRA(rank=2), start=1), small("ladder")], ids=["block", "beside"])
def test_frozen_states_that_would_fill_the_memory_are_not_kept(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = attach(tiny_text(), method)
    model, rows, freeze = Classifier(adapted, "mean", 8.0), token_pool([3, 2, 40, 2]), adapted.freeze
    kept = model.prepared(rows, FeatureCache())
    size = kept.inputs["states"].nbytes
    assert size >= 4 * 40 * 32 * 4  # the shortest rows take as much as the longest
    monkeypatch.setattr(scoring, "FROZEN_BYTES", size)
    assert "states" in model.prepared(rows, FeatureCache()).inputs
    monkeypatch.setattr(scoring, "FROZEN_BYTES", size - 1)
    frozen: list[int] = []
    monkeypatch.setattr(adapted, "freeze", lambda batch: (frozen.append(len(batch.row_mask)), freeze(batch))[1])
    assert model.prepared(rows, FeatureCache()) is rows
    assert sum(frozen) <= 1
    params = random_params(adapted.init(0))
    torch.testing.assert_close(model.features(params, rows), model.features(params, kept))
