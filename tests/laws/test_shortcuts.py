"""What saves time or memory changes no result: cached frozen states and recomputed blocks."""

from __future__ import annotations

import pytest
import torch

from handful.attach import attach
from handful.errors import MethodError
from laws.cases import METHODS, Case, assert_same_gradients, cases, leaves, loss, random_params, real, rows_of, stacked
from tiny import DUAL, ENCODER_DECODERS

NOT_RESUMABLE = frozenset({"wavlm"}) | ENCODER_DECODERS | DUAL


@cases("float32", "bfloat16")
def test_cached_states_equal_computed_ones(case: Case) -> None:
    adapted, params = case.adapted(), random_params(case, 2)
    batch = stacked(case, [rows_of(case, 2, 6, seed=t) for t in range(2)])
    above = case.method in ("top-layer", "upper-prefix") and case.model_type not in NOT_RESUMABLE
    assert adapted.cacheable == (above or METHODS[case.method].roles == {"hidden_states"})
    if not adapted.cacheable:
        with pytest.raises(MethodError, match="cached"):
            adapted.freeze(batch)
        return
    warm = attach(adapted.backbone, adapted.method)  # has not seen the backbone run
    held = batch.with_inputs(states=adapted.freeze(batch))
    results = []
    for model, each in ((adapted, batch), (warm, held)):
        tree, flat = leaves(params)
        states = model(tree, each)
        results.append((states, torch.autograd.grad(loss(states, each.row_mask).sum(), flat, allow_unused=True)))
    (plain, plain_grads), (cached, cached_grads) = results
    assert torch.equal(plain.mask, cached.mask)
    torch.testing.assert_close(real(cached), real(plain), **case.tolerance)
    if case.dtype != "bfloat16":
        assert_same_gradients(case, cached_grads, plain_grads)


@cases("float64", variants=False)
def test_recomputed_blocks_equal_stored_ones(case: Case) -> None:
    params = random_params(case, 2)
    batch = stacked(case, [rows_of(case, 2, 6, seed=t) for t in range(2)])
    results = []
    for adapted in (case.adapted(), attach(case.adapted().backbone, case.adapted().method, checkpoint=True)):
        tree, flat = leaves(params)
        states = adapted(tree, batch)
        results.append((real(states), torch.autograd.grad(loss(states, batch.row_mask).sum(), flat, allow_unused=True)))
    (plain, plain_grads), (again, again_grads) = results
    torch.testing.assert_close(again, plain, **case.tolerance)
    assert_same_gradients(case, again_grads, plain_grads)
    assert all("forward" not in module.__dict__ for module in case.adapted().backbone.model.modules())
