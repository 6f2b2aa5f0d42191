"""Parameter counts equal the closed formulas of the papers, on tiny models and on shapes of real ones."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModel

from handful.attach import attach
from handful.backbone import Backbone, from_model
from handful.errors import MethodError
from handful.methods import Method
from handful.methods.bitfit import BitFit
from handful.methods.bottleneck import Houlsby, ParallelAdapter, Pfeiffer
from handful.methods.combine import OnLayers, Union
from handful.methods.ia3 import IA3
from handful.methods.kronecker import KroneckerAdapter
from handful.methods.ladder import LadderSide
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.methods.prefix import PrefixTuning
from handful.methods.prompt import PromptTuning
from handful.types import LINEARS, Site
from laws.cases import METHODS, Case, cases


def at_site(method: Method, site: Site) -> int:
    """The formula of a method's docstring, for one site."""
    match method:
        case LoRA(rank=r):
            return r * (site.d_in + site.d_out)
        case IA3():
            return site.d_in if site.role == "ffn.out" else site.d_out
        case Houlsby(width=m) if m:
            return 2 * site.d_out * m + m + site.d_out
        case Pfeiffer(width=m) | ParallelAdapter(width=m) if m:
            return m * (site.d_in + site.d_out) + m + site.d_out
        case KroneckerAdapter(width=m, order=n):
            return 2 * site.d_out * m // n + m + site.d_out
        case BitFit():
            return site.d_out
        case LayerNormTuning():
            return site.d_out * (2 if site.has_bias else 1)
        case PromptTuning(num_tokens=q):
            return q * site.d_out
        case PrefixTuning(num_tokens=q):
            return 2 * q * site.d_out
        case LadderSide(reduction=r):
            D, L = site.d_in, site.num_layers
            return (L + 1) * D * (D // r) + L * (12 * (D // r) ** 2 + 1) + (D // r) * D
        case OnLayers(method=inner):
            return at_site(inner, site)
        case Union(methods=parts):
            return sum(at_site(part, site) for part in parts if part.covers(site))
    raise AssertionError(f"no closed formula for {method}: write it here")


@cases("float32")
def test_counts_equal_the_closed_formula(case: Case) -> None:
    adapted = case.adapted()
    shared = METHODS["kronecker"].order ** 3 if case.method == "kronecker" else 0  # type: ignore[attr-defined]
    expected = shared + sum(at_site(adapted.method, site) for site in adapted.sites)
    assert adapted.num_parameters() == expected
    assert sum(p.numel() for own in adapted.init(0, tasks=3).values() for p in own.values()) == 3 * expected


_T5_XL = {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
SHAPES: dict[str, tuple[str, dict[str, object]]] = {
    "bert-base": ("bert", {}),
    "roberta-large": (
        "roberta",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
    "t5-base": ("t5", {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}),
    "t5-small": ("t5", {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}),
    "t0-3b": (
        "t5",
        {**_T5_XL, "feed_forward_proj": "gated-gelu"},
    ),
    "bart-base": (
        "bart",
        {
            "d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
            "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
        },
    ),
    "gpt2-medium": ("gpt2", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "llama-7b": ("llama", {}),
}  # fmt: skip

ENCODER_AND_DECODER_SELF = frozenset({"attention.out", "ffn.out"})
CHECKS: list[tuple[str, Method, int]] = [
    ("bert-base", Houlsby(width=48), 1_789_056),
    ("bert-base", Houlsby(reduction=16), 1_789_056),
    ("bert-base", Houlsby(width=64), 2_417_664 - 38_400),
    ("bert-base", LayerNormTuning(), 38_400),
    ("bert-base", Pfeiffer(width=48), 894_528),
    ("bert-base", LoRA(rank=8), 294_912),
    ("bert-base", IA3(), 55_296),
    ("bert-base", KroneckerAdapter(width=24, order=4), 24 * (2 * 768 * 24 // 4 + 24 + 768) + 64),  # no rank-1 factors
    ("bert-base", BitFit(), 102_912),
    ("bert-base", PromptTuning(num_tokens=20), 15_360),
    ("bert-base", PrefixTuning(num_tokens=30), 552_960),
    ("roberta-large", LoRA(rank=8), 786_432),
    ("t5-base", LayerNormTuning(), 47_616),
    ("t5-small", LayerNormTuning(), 16_384),
    ("t5-base", Houlsby(width=24, roles=ENCODER_AND_DECODER_SELF), 1_855_104 - 47_616),
    ("t5-base", Pfeiffer(width=24), 951_360 - 47_616),
    ("t5-base", PromptTuning(num_tokens=100), 76_800),
    ("t0-3b", LayerNormTuning(), 249_856),
    ("t0-3b", LoRA(rank=4, roles=LINEARS), 8_847_360),
    ("t0-3b", PrefixTuning(num_tokens=2), 589_824),
    ("bart-base", LayerNormTuning(), 49_152),
    ("gpt2-medium", LoRA(rank=4), 393_216),
    ("llama-7b", LoRA(rank=8), 4_194_304),
]


@cache
def shape(name: str) -> Backbone:
    """A backbone of the real shape that holds no weights."""
    model_type, options = SHAPES[name]
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(model_type, **options))
    return from_model(model, id=name, fingerprint="none")


@pytest.mark.parametrize(("name", "method", "count"), CHECKS, ids=lambda x: type(x).__name__ if x not in SHAPES else x)
def test_counts_equal_the_published_ones(name: str, method: Method, count: int) -> None:
    """`docs` and papers: what each method costs on a named backbone, without a head."""
    assert attach(shape(name), method).num_parameters() == count


@pytest.mark.parametrize("name", ["t5-base", "llama-7b"])
def test_no_bias_is_refused(name: str) -> None:
    with pytest.raises(MethodError, match=r"BitFit.*add_missing"):
        attach(shape(name), BitFit())
