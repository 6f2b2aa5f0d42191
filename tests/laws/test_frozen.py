"""The backbone stays what it is; a method starts as nothing and keeps dtype and device."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from handful.attach import attach
from handful.backbone import Backbone
from handful.errors import MethodError
from handful.fingerprints import weights_fingerprint
from handful.forward import run_backbone
from handful.methods.combine import union
from laws.cases import (
    DTYPES,
    FAMILIES,
    METHODS,
    NOT_IDENTITY,
    REFUSED,
    Case,
    applies,
    backbone,
    cases,
    leaves,
    loss,
    random_params,
    rows_of,
    stacked,
)

REFUSALS = [(method, family) for method in REFUSED for family in FAMILIES if not applies(method, family)]


@pytest.mark.parametrize(("method", "family"), REFUSALS)
def test_a_method_without_a_place_is_refused_by_name(method: str, family: str) -> None:
    parts = getattr(METHODS[method], "methods", (METHODS[method],))
    with pytest.raises(MethodError) as error:
        attach(backbone(family, "float32"), METHODS[method])
    assert any(type(part).__name__ in str(error.value) for part in parts)
    assert "ffn.out" in error.value.found


@pytest.mark.parametrize("family", FAMILIES)
def test_beside_and_inside_together_are_refused(family: str) -> None:
    with pytest.raises(MethodError, match="beside"):
        attach(backbone(family, "float32"), union(METHODS["houlsby"], METHODS["ladder"]))


@cases("float32", "bfloat16", without=NOT_IDENTITY)
def test_the_start_is_the_identity(case: Case) -> None:
    """Equal to the frozen backbone to the bit, for one task and for a stack."""
    adapted, batch = case.adapted(), rows_of(case, 3, 6)
    two = stacked(case, [batch, batch])
    with torch.no_grad():
        expected, mask = run_backbone(adapted.backbone, batch.inputs)
        alone, together = adapted(adapted.init(3), batch), adapted(adapted.init(3, tasks=2), two)
    assert torch.equal(alone.mask, mask)
    assert torch.equal(alone.hidden, expected)
    assert torch.equal(together.mask, torch.stack([mask, mask]))
    flat = run_backbone(adapted.backbone, {name: x.flatten(0, 1) for name, x in two.inputs.items()})[0]
    if case.model_type in ("gemma3", "gemma3_text"):  # norms of transposed heads, which a stack lays out anew
        torch.testing.assert_close(together.hidden.flatten(0, 1), flat, **case.tolerance)
    else:
        assert torch.equal(together.hidden.flatten(0, 1), flat)


@cases("float32", only=NOT_IDENTITY)
def test_virtual_tokens_are_not_the_identity(case: Case) -> None:
    adapted, batch = case.adapted(), rows_of(case, 3, 6)
    with torch.no_grad():
        assert not torch.allclose(
            adapted(adapted.init(3), batch).hidden, run_backbone(adapted.backbone, batch.inputs)[0]
        )


@cache
def bytes_before(family: str, dtype: str) -> str:
    return backbone(family, dtype).fingerprint


def traces(frozen: Backbone) -> dict[str, object]:
    """Everything that attaching may leave behind: instance attributes, hooks, flags and attention implementations."""
    found: dict[str, object] = {}
    for name, module in frozen.model.named_modules():
        own = {key: value for key, value in module.__dict__.items() if not key.startswith("_")}
        found[name] = sorted(own), module.training, len(module._forward_hooks), len(module._forward_pre_hooks)
        if hasattr(module, "config"):
            found[f"{name} attention"] = module.config._attn_implementation
    return found


@cases("float32", "bfloat16")
def test_only_params_get_gradients_and_the_backbone_stays(case: Case) -> None:
    adapted, frozen = case.adapted(), case.adapted().backbone
    before, before_weights = traces(frozen), bytes_before(case.family, case.dtype)
    tree, flat = leaves(random_params(case, 2))
    batch = stacked(case, [rows_of(case, 2, 6, seed=t) for t in range(2)])
    loss(adapted(tree, batch), batch.row_mask).sum().backward()
    with torch.no_grad():
        for p in flat:
            if p.grad is not None:
                assert p.grad.isfinite().all()
                p -= 0.1 * p.grad
    with pytest.raises(KeyError):  # a call that fails half-way
        adapted({site.name: {} for site in adapted.sites}, batch)
    assert all(p.grad is None and not p.requires_grad for p in frozen.model.parameters())
    assert traces(frozen) == before
    assert all("forward" not in module.__dict__ for module in frozen.model.modules())
    assert weights_fingerprint(frozen.model.state_dict().items()) == before_weights


UNREACHED = {"pooler", "pooler.norm", "pooler.in", "pooler.out", "projection"}


@cases("float64")
def test_every_parameter_in_the_tower_is_reached(case: Case) -> None:
    """A gradient at every site but those that come after the last hidden states, or in a tower that was not called."""
    adapted, batch = case.adapted(), rows_of(case, 2, 6)
    tree, flat = leaves(random_params(case, None))
    grads = iter(torch.autograd.grad(loss(adapted(tree, batch), batch.row_mask), flat, allow_unused=True))
    by_site = {site: [next(grads) for p in own.values() if p.requires_grad] for site, own in tree.items()}
    called = FAMILIES[case.family][1]
    for site in adapted.sites:
        outside = called is not None and site.stack != called
        pooled = called == "vision" and case.model_type == "clip" and site.role == "final.norm"
        reached = all(g is not None and g.abs().max() > 0 for g in by_site[site.name])
        if by_site[site.name]:  # else it has only what is shared
            assert reached != (outside or pooled or site.role in UNREACHED), site.name
    if called is None:
        assert all(g is not None and g.abs().max() > 0 for g in by_site.get("shared", []))


@cases("float32", "bfloat16", "float64")
def test_dtype_and_device_are_kept(case: Case) -> None:
    """States have the backbone's dtype; parameters and their gradients have at least single precision."""
    adapted, batch = case.adapted(), rows_of(case, 2, 6)
    tree, flat = leaves(adapted.init(0))
    states = adapted(tree, batch)
    assert states.hidden.dtype == DTYPES[case.dtype] == adapted.backbone.dtype
    assert states.hidden.device == adapted.backbone.device
    assert states.mask.dtype == torch.bool
    assert states.hidden.shape[:-1] == states.mask.shape
    kept = torch.promote_types(DTYPES[case.dtype], torch.float32)
    grads = torch.autograd.grad(loss(states, batch.row_mask), flat, allow_unused=True)
    assert all(p.dtype == kept for p in flat)
    assert all(g.dtype == kept for g in grads if g is not None)
