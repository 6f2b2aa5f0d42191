"""Quantised backbones: what a layer errs by, that every method answers on them as on the dequantised weights, refusals.

The only error of `int8` beside its weights' own is the rounding of inputs: with inputs left as they are, every method
agrees with the dequantised weights to the last digits, and with them rounded each layer stays within its stated bound.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful import artifact as artifacts
from handful import quantize as quantization
from handful.artifact import Artifact
from handful.attach import Adapted, attach
from handful.backbone import Backbone, from_model, load, quantized, shared
from handful.costs import backbone_flops
from handful.errors import ArtifactError, BackboneError, MethodError
from handful.families import locate
from handful.features import row_keys
from handful.forward import run_backbone
from handful.keys import backbone_digest
from handful.merge import merge, merged
from handful.methods import to_spec
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.predictor import Predictor
from handful.quantize import Int8, Quantized, held_bytes
from handful.types import Batch, Example, Params, map_params, split_id, task_params
from laws.cases import (
    METHODS,
    NOT_IDENTITY,
    RMS_NORMS,
    Case,
    applies,
    leaves,
    loss,
    real,
    rows_of,
    stacked,
    three_tasks,
)
from tiny import TINY
from tinytext import save_tiny

FAMILIES = ("bert", "gpt2", "t5", "llama")
"""separate projections, a fused transposed one, an encoder-decoder without biases, grouped heads with a gate"""
CASES = [Case(method, family, "float64") for family in FAMILIES for method in METHODS if applies(method, family)]
STATES, GRADIENTS = 0.03, 0.2
"""Largest error of all states and of all gradients together on tiny models, relative to their norm. Seen are at most
0.016 (median 0.007) and 0.151 (median 0.005): the largest are of T5, whose relu has a gradient or has none.
"""


@cache
def lower(family: str) -> Backbone:
    return quantized(from_model(TINY[family]().double(), id=family), "int8")


@cache
def dequantised(family: str) -> Backbone:
    """The same backbone on plain linear layers with the weights that the quantised ones show."""
    model = copy.deepcopy(lower(family).model)
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, Quantized):
                plain = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)
                plain.weight.data, plain.bias = child.weight.clone(), child.bias
                setattr(owner, name, plain)
    return from_model(model)


def moved(adapted: Adapted, tasks: int | None = None) -> Params:
    """Params away from the start, on weights that methods may read."""
    generator = torch.Generator().manual_seed(1)

    def move(p: Tensor) -> Tensor:
        return p + 0.1 * torch.randn(p.shape, generator=generator).to(p) if p.is_floating_point() else p

    return map_params(move, adapted.init(0, tasks))


def answers(backbone: Backbone, case: Case, params: Params) -> tuple[Tensor, Tensor]:
    """States of real tokens, and all gradients in one vector."""
    adapted, batch = attach(backbone, METHODS[case.method]), rows_of(case, 3, 6)
    tree, flat = leaves(params)
    states = adapted(tree, batch)
    grads = torch.autograd.grad(loss(states, batch.row_mask), flat, allow_unused=True, materialize_grads=True)
    return real(states).detach(), torch.cat([g.flatten() for g in grads])


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_method_is_what_it_is_on_dequantised_weights(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last digits as long as inputs are not rounded, and within the stated error when they are."""
    params = moved(attach(lower(case.family), METHODS[case.method]))
    expected, own = answers(dequantised(case.family), case, params)
    states, grads = answers(lower(case.family), case, params)
    assert 0 < error(states, expected) < STATES
    assert error(grads, own) < GRADIENTS
    monkeypatch.setattr(quantization, "int8_product", lambda x, layer: F.linear(x, layer.weight, layer.bias))
    states, grads = answers(lower(case.family), case, params)
    exact = 1e-5 if case.model_type in RMS_NORMS else 1e-11
    assert error(states, expected) < exact
    assert error(grads, own) < exact


@pytest.mark.parametrize("case", [c for c in CASES if c.method not in NOT_IDENTITY], ids=str)
def test_the_start_is_the_identity(case: Case) -> None:
    adapted, batch = attach(lower(case.family), METHODS[case.method]), rows_of(case, 3, 6)
    with torch.no_grad():
        assert torch.equal(adapted(adapted.init(3), batch).hidden, run_backbone(adapted.backbone, batch.inputs)[0])


@pytest.mark.parametrize("case", [c for c in CASES if c.family in ("bert", "gpt2")], ids=str)
def test_a_stack_of_tasks_equals_a_loop(case: Case) -> None:
    adapted, tasks = attach(lower(case.family), METHODS[case.method]), three_tasks(case)
    params = moved(adapted, 3)
    with torch.no_grad():
        together = adapted(params, stacked(case, tasks))
        for t, task in enumerate(tasks):
            alone = adapted(task_params(params, t), task)
            mine = replace(together, hidden=together.hidden[t, : len(task.row_mask)])
            torch.testing.assert_close(real(mine, alone), real(alone), **case.tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_task_never_changes_another(family: str) -> None:
    """Not with inputs a thousand times larger either, by which a scale of the whole batch would lose all others."""
    case = Case("houlsby", family, "float64")
    adapted, batch = attach(lower(family), METHODS["houlsby"]), rows_of(case, 2, 6)
    params, both = moved(adapted, 2), stacked(case, [batch, batch])
    for value in (1e3, torch.nan):
        other = map_params(lambda p, to=value: torch.stack([p[0], p[1] * to]), params)
        assert torch.equal(adapted(params, both).hidden[0], adapted(other, both).hidden[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_layer_errs_by_half_a_step_of_each_input(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(24, 40, generator=generator).to(dtype), torch.randn(24, generator=generator).to(dtype)
    layer, x = Int8(weight, bias), torch.randn(3, 5, 40, generator=generator)
    x[0, 0, 3], x[1], x[2, 0] = 1e4, x[1] + 7, 0  # an outlier, a shifted range, nothing
    x = x.to(dtype)
    assert layer.weight.dtype == layer(x).dtype == dtype
    digits = 4 * torch.finfo(dtype).eps
    steps = weight.abs().amax(1, keepdim=True).double() / 127
    assert ((layer.weight.double() - weight.double()).abs() <= steps * (0.5 + 127 * digits)).all()
    wide, held = x.double(), layer.codes.double() * layer.steps.double()[:, None]
    expected = F.linear(wide, held, bias.double())
    step = (wide.amax(-1, keepdim=True) - wide.amin(-1, keepdim=True)) / 254
    bound = step / 2 * held.abs().sum(1)
    found = (layer(x).double() - expected).abs()
    slack = digits * (F.linear(wide.abs(), held.abs()) + bias.double().abs() + expected.abs())
    assert (found <= bound + slack).all()
    assert (found > bound / 50).any()  # the bound is no idle one
    assert torch.equal(layer(x)[2, 0], bias)


def test_a_row_is_the_same_to_the_bit_whatever_stands_beside_it() -> None:
    layer = Int8(torch.randn(48, 64, generator=torch.Generator().manual_seed(0)), None)
    x = torch.randn(33, 64, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([layer(row[None]) for row in x])
    assert torch.equal(layer(x), alone)
    x[7], x[8] = 1e9, torch.nan
    kept = torch.arange(33)[(torch.arange(33) != 7) & (torch.arange(33) != 8)]
    assert torch.equal(layer(x)[kept], alone[kept])
    assert layer(x)[8].isnan().all()
    assert layer(x[:0]).shape == (0, 48)


def test_products_in_floats_are_the_same_where_integers_would_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Int8(torch.randn(48, 64), torch.randn(48)), torch.randn(9, 64)
    expected = layer(x)
    monkeypatch.setattr(quantization, "_integers_are_exact", lambda: False)
    assert torch.equal(layer(x), expected)
    saturates = lambda a, b: (a.long() @ b.long()).clamp(-(2**15), 2**15 - 1).int()  # noqa: E731
    monkeypatch.undo()
    monkeypatch.setattr(quantization, "_INT_PRODUCT", saturates)
    assert not quantization._integers_are_exact.__wrapped__()


def test_derivatives_of_any_order_are_those_of_the_dequantised_weights() -> None:
    layer = Int8(torch.randn(6, 8).double(), None)
    x = torch.randn(3, 8).double().requires_grad_()

    def second(y: Tensor) -> list[Tensor]:
        """Of a function of y whose derivative is given, so that y's own error takes no part."""
        factor = torch.ones_like(y, requires_grad=True)
        (first,) = torch.autograd.grad(y, x, factor, create_graph=True)
        return [first, *torch.autograd.grad(first.square().sum(), factor)]

    for found, expected in zip(second(layer(x)), second(x @ layer.weight.T), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_family_is_quantised(family: str) -> None:
    """All linear layers of the blocks and nothing else; as many parameters, and fewer bytes."""
    model = TINY[family]()
    before, count = held_bytes(model), sum(p.numel() for p in model.parameters())
    backbone = quantized(from_model(model, id=family), "int8")
    paths = [str(locate(model, stack.blocks)) for stack in backbone.family.stacks]
    inside = [m for path in paths for m in model.get_submodule(path).modules()]
    assert not [m for m in inside if type(m) is nn.Linear or type(m).__name__ == "Conv1D"]
    assert all(m in inside for m in model.modules() if isinstance(m, Quantized))
    assert backbone.num_parameters == count
    assert held_bytes(model) < before
    assert backbone.dtype == torch.float32
    assert not any(p.requires_grad for p in model.parameters())


def test_loading_by_name_and_by_option(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "bert")
    plain, found, half = load(folder), load(folder, quantize="int8"), load(folder, quantize="int8", dtype="bfloat16")
    assert (found.id, half.dtype) == (f"{folder}@int8", torch.bfloat16)
    assert shared(f"{folder}@int8").fingerprint == found.fingerprint == half.fingerprint != plain.fingerprint
    assert len(found.fingerprint) == 64
    assert found.max_length == plain.max_length
    assert backbone_digest(f"{folder}@int8") != backbone_digest(str(folder))
    assert split_id(f"{folder}@int8") == (str(folder), "int8")
    assert split_id(str(folder)) == (str(folder), None)
    assert split_id("a@b/c") == ("a@b/c", None)
    there = tmp_path / "odd@int8"
    there.mkdir()
    assert split_id(str(there)) == (str(there), None)
    ids = torch.ones(1, 3, dtype=torch.long)
    rows = Batch({"input_ids": ids, "attention_mask": ids}, torch.ones(1, dtype=torch.bool))
    assert row_keys(plain, "x", rows) != row_keys(found, "x", rows)
    assert backbone_flops(plain, 5) == backbone_flops(found, 5)


def test_an_artifact_says_what_it_was_fitted_on(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "bert")
    backbone = load(folder, quantize="int8")
    adapted = attach(backbone, LoRA(rank=2))
    made = Artifact(
        recipe="test", backbone=backbone.id, fingerprint=backbone.fingerprint, labels=("a", "b"),
        features={"kind": "pooled", "pooling": "mean", "scale": 1.0}, params=moved(adapted),
        head={"weight": torch.randn(2, 32), "bias": torch.zeros(2)}, method=to_spec(adapted.method),
        sites=[{"name": s.name, "role": s.role, "layer": s.layer} for s in adapted.sites],
    )  # fmt: skip
    artifacts.save(made, tmp_path / "task")
    again = artifacts.load(tmp_path / "task")
    examples = [Example("abc de")]
    expected = Predictor(made, backbone).scores(examples).logits
    assert torch.equal(Predictor(again, shared(again.backbone)).scores(examples).logits, expected)
    config = json.loads((tmp_path / "task" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    assert f"base_model: {folder}\n" in (tmp_path / "task" / "README.md").read_text()
    with pytest.raises(ArtifactError, match="bert@int8"):
        Predictor(again, load(folder))


def test_merging_into_quantised_weights_is_refused_by_name() -> None:
    adapted = attach(lower("bert"), METHODS["lora"])
    with pytest.raises(MethodError) as caught:
        merge(adapted, adapted.init(0))
    for said in ("LoRA", "bert@int8", "attention.query", "quantised", "Keep it attached"):
        assert said in str(caught.value)
    norms = attach(lower("bert"), LayerNormTuning())
    params, batch = moved(norms), rows_of(Case("layernorm", "bert", "float64"), 3, 6)
    own = merged(norms, params)
    with torch.no_grad():
        torch.testing.assert_close(run_backbone(own, batch.inputs)[0], norms(params, batch).hidden)
    assert own.fingerprint != norms.backbone.fingerprint


@pytest.mark.parametrize(
    ("kind", "said"),
    [("int4", "int8, nf4, bnb8"), ("nf4", "pip install bitsandbytes"), ("bnb8", "pip install bitsandbytes")],
)
def test_what_cannot_be_held(kind: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    for ask in (lambda: load("minilm", quantize=kind), lambda: load(f"minilm@{kind}")):
        with pytest.raises(BackboneError) as caught:
            ask()
        assert repr(kind) in str(caught.value)
        assert said in str(caught.value)


def test_quantised_and_sharded_is_refused() -> None:
    with pytest.raises(BackboneError, match="sharded"):
        load("minilm", quantize="int8", shard=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["nf4", "bnb8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bitsandbytes(kind: str, family: str) -> None:
    """LoRA and Houlsby on its layers answer as on the dequantised weights."""
    pytest.importorskip("bitsandbytes")
    model = TINY[family]()
    count = sum(p.numel() for p in model.parameters())
    backbone = quantized(from_model(model, id=family), kind)
    assert backbone.num_parameters == count
    copy.deepcopy(backbone.model)  # as `merged` does
    twin = copy.deepcopy(TINY[family]())
    for name, child in backbone.model.named_modules():
        if isinstance(child, Quantized):
            weight, old = child.weight, twin.get_submodule(name)
            old.weight.data = (weight.T if type(old).__name__ == "Conv1D" else weight).clone()
    for method in ("lora", "houlsby"):
        case = Case(method, family, "float32")
        params = moved(attach(backbone, METHODS[method]))
        found, expected = (answers(b, case, params) for b in (backbone, from_model(twin)))
        assert error(found[0], expected[0]) < (1e-4 if kind == "nf4" else STATES)
        assert error(found[1], expected[1]) < (1e-3 if kind == "nf4" else GRADIENTS)
