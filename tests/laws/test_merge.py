"""Merged weights answer as the attached method does, wherever a method is affine; elsewhere the place is named."""

from __future__ import annotations

import pytest
import torch

from handful.attach import States, attach
from handful.errors import MethodError
from handful.forward import run_backbone
from handful.merge import merge, merged
from handful.methods.bitfit import BitFit
from handful.methods.combine import union
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.methods.variants import OnLayers
from handful.types import LINEARS, map_params
from laws.cases import FAMILIES, METHODS, Case, applies, backbone, cases, random_params, real, rows_of

DELTAS = ("full", "sparse", "magnitude_pruning", "diff_pruning", "fish", "said", "said-rank-one")
MERGEABLE = ("lora", "dora", "vera", "ia3", "ssf", "bitfit", "layernorm", "lora-everywhere", *DELTAS)
SHARED_KEYS = {"deberta-v2", "deberta-v2-narrow"}


def refused(case: Case) -> bool:
    """DeBERTa with `share_att_key` uses query and key weights for relative positions too."""
    return case.family in SHARED_KEYS and case.method in (
        "lora",
        "dora",
        "vera",
        "ia3",
        "ssf",
        "bitfit",
        "lora-everywhere",
        *DELTAS,
    )


@cases("float32", "float64", only=MERGEABLE)
def test_merged_equals_attached(case: Case) -> None:
    adapted, params, batch = case.adapted(), random_params(case, None), rows_of(case, 3, 6)
    if refused(case):
        with pytest.raises(MethodError, match="serves other inputs too"):
            merge(adapted, params)
        return
    before = {name: value.clone() for name, value in adapted.backbone.model.state_dict().items()}
    alone = merged(adapted, params)
    with torch.no_grad():
        expected = adapted(params, batch)
        plain, hidden = (run_backbone(b, batch.inputs)[0] for b in (adapted.backbone, alone))
    assert not torch.allclose(plain, hidden, atol=1e-2)
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if case.dtype == "float32" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(real(States(hidden, expected.mask)), real(expected), **tolerance)
    patch = merge(adapted, params)
    added = patch.keys() - before.keys()
    assert not added or (case.method == "ssf" and all(name.endswith(".bias") for name in added))
    patch = {name: value for name, value in patch.items() if name not in added}
    assert all(value.dtype == before[name].dtype and value.shape == before[name].shape for name, value in patch.items())
    assert all(torch.equal(value, before[name]) for name, value in adapted.backbone.model.state_dict().items())
    assert alone.fingerprint != adapted.backbone.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_a_union_and_added_biases_merge(family: str) -> None:
    """Biases that linear layers never had; two methods at one place."""
    if family in SHARED_KEYS or family == "wavlm":
        pytest.skip("its attention projections cannot be merged")
    roles = LINEARS - ({"attention.query", "attention.key"} if family.startswith("deberta") else set())
    method = union(LoRA(rank=2, roles=roles), BitFit(add_missing=True, roles=LINEARS), LayerNormTuning())
    adapted = attach(backbone(family, "float64"), OnLayers(method=method, start=-1))
    params = map_params(lambda p: p + 0.1, adapted.init(0))
    batch = rows_of(Case("lora", family, "float64"), 3, 6)
    with torch.no_grad():
        expected, hidden = adapted(params, batch), run_backbone(merged(adapted, params), batch.inputs)[0]
    torch.testing.assert_close(real(States(hidden, expected.mask)), real(expected), rtol=1e-4, atol=1e-4)


@cases("float64", without=MERGEABLE)
def test_what_is_not_affine_is_refused_by_name(case: Case) -> None:
    adapted = case.adapted()
    bare = any(not s.has_bias and "norm" in s.role for s in adapted.sites)
    if case.method == "bitfit-added" and case.family not in SHARED_KEYS and not bare:
        merge(adapted, random_params(case, None))
        return
    with pytest.raises(MethodError, match="not mergeable at") as error:
        merge(adapted, random_params(case, None))
    assert any(site.name in error.value.found for site in adapted.sites)


def test_every_method_is_merged_or_refused() -> None:
    assert set(MERGEABLE) <= set(METHODS)
    assert all(any(applies(method, family) for family in FAMILIES) for method in METHODS)
