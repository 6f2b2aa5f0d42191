"""Parameter counts equal the closed formulas of the papers, on tiny models and on shapes of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModel

from handful.attach import attach
from handful.backbone import Backbone, from_model
from handful.errors import MethodError
from handful.methods import Method
from handful.methods.apt import APT
from handful.methods.bitfit import BitFit
from handful.methods.bottleneck import Houlsby, ParallelAdapter, Pfeiffer
from handful.methods.combine import Union, union
from handful.methods.diff_pruning import DiffPruning
from handful.methods.dora import DoRA
from handful.methods.full import DenseDelta
from handful.methods.hyperformer import HyperFormer
from handful.methods.ia3 import IA3
from handful.methods.kronecker import Compacter, CompacterPlusPlus, KroneckerAdapter, PHMAdapter
from handful.methods.ladder import LadderSide
from handful.methods.last import LAST
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.methods.losa import LoSA
from handful.methods.lowrank_adapter import LowRankAdapter
from handful.methods.mam import MAM
from handful.methods.prefix import PrefixMLP, PrefixTuning
from handful.methods.prompt import PromptMLP, PromptTuning
from handful.methods.said import IntrinsicSAID
from handful.methods.sparse import SparseDelta
from handful.methods.ssf import SSF
from handful.methods.variants import OnLayers, OverTasks
from handful.methods.vera import VeRA
from handful.types import LINEARS, NORMS, Site
from laws.cases import Case, cases


def at_site(method: Method, site: Site) -> int:
    """The formula of a method's docstring, for one site."""
    match method:
        case LoRA(rank=r):
            return r * (site.d_in + site.d_out)
        case DoRA(rank=r):
            return r * (site.d_in + site.d_out) + site.d_out
        case VeRA(rank=r):
            return r + site.d_out
        case IA3():
            return site.d_in if site.role == "ffn.out" else site.d_out
        case Houlsby(width=m) if m:
            return 2 * site.d_out * m + m + site.d_out
        case Pfeiffer(width=m) if m:
            return m * (site.d_in + site.d_out) + m + site.d_out
        case ParallelAdapter(width=m, learned_scale=learned) if m:
            return m * (site.d_in + site.d_out) + m + site.d_out + learned
        case KroneckerAdapter(width=m, order=n, rank=r, shared_factors=shared):
            fast = 2 * site.d_out * m // n if r is None else 2 * r * (site.d_out + m)
            return fast + m + site.d_out + (0 if shared else 2 * n**3)
        case LowRankAdapter(width=m, rank=r):
            return 2 * r * (site.d_out + m) + m + site.d_out
        case SSF():
            return site.d_out * (1 if "norm" in site.role and not site.has_bias else 2)
        case BitFit():
            return site.d_out
        case LayerNormTuning():
            return site.d_out * (2 if site.has_bias else 1)
        case PromptTuning(num_tokens=q):
            return q * site.d_out
        case PromptMLP(num_tokens=q, width=m):
            return q * site.d_out + (2 * site.d_out + 1) * m + site.d_out
        case PrefixTuning(num_tokens=q):
            return 2 * q * site.d_out
        case PrefixMLP(width=m):
            return 2 * (m + 1) * site.d_out
        case HyperFormer(reduction=r, networks=networks):
            adapter = 2 * site.d_out * (site.d_out // r) + site.d_out // r + 3 * site.d_out
            return {"none": adapter, "site": (method.projected + 1) * adapter}.get(networks, 0)
        case LadderSide():
            return ladder(method, site)
        case LAST(rank=r, affine=affine):
            return 4 * site.num_layers * site.d_in * r + affine * 2 * site.num_layers * site.d_in
        case LoSA(rank=r, num_tokens=tokens):
            return site.num_layers * (2 * site.d_in * r + 2 * tokens * r)
        case APT(num_tokens=p, rank=h):
            return p * site.d_in + 2 * site.d_in * h + 1
        case DiffPruning(structured=structured):
            return 2 * entries(site) + structured * (2 if site.has_bias else 1)
        case DenseDelta():
            return entries(site)
        case SparseDelta():
            return 0
        case IntrinsicSAID(structure=structure):
            return structure * (2 if site.has_bias else 1)
        case OnLayers(method=inner) | OverTasks(method=inner):
            return at_site(inner, site)
        case Union(methods=parts):
            return sum(at_site(part, site) for part in parts if part.covers(site))
    raise AssertionError(f"no closed formula for {method}: write it here")


def ladder(method: LadderSide, site: Site) -> int:
    """Matrices and norms by the docstring's formula, and the biases that the backbone's blocks have."""
    D, n, r = site.d_in, method.layers or site.num_layers, method.reduction
    assert isinstance(n, int)
    block, d = site.extra["blocks"][0], D // r
    width = block["attention.query"].site.d_out if "attention.query" in block else D
    heads = method.num_heads or width // site.extra["head_size"]
    a, f = heads * (width // heads // r), block["ffn.in"].site.d_out // r
    bias = {role: role not in block or block[role].site.has_bias for role in (*LINEARS, "ffn.norm")}
    gate = (1 + bias["ffn.gate"] / d) * f * d if "ffn.gate" in block else 0
    matrices = (n + 1) * (D * d + d) + n * (4 * a * d + 2 * f * d + 2 * d + 1) + d + d * D + D + n * gate
    linear = 3 * a * bias["attention.query"] + d * bias["attention.out"] + f * bias["ffn.in"] + d * bias["ffn.out"]
    released = method.wiring == "gated"
    return int(matrices) + n * linear + (2 * n + 1) * d * bias["ffn.norm"] + released


def entries(site: Site) -> int:
    """Weights and biases of the frozen layer itself."""
    return site.d_out * ((1 if "norm" in site.role else site.d_in) + site.has_bias)


def once(method: Method, sites: Sequence[Site]) -> int:
    """The part of a method's formula that all its sites hold in common."""
    match method:
        case KroneckerAdapter(order=n, shared_factors=shared):
            return shared * n**3
        case PrefixMLP(num_tokens=q, width=m):
            return (q + m) * max(site.d_out for site in sites) + m
        case HyperFormer(networks="none"):
            return 0
        case HyperFormer(networks="site", embedding=n, projected=t, hidden=e):
            return n + (n + 1) * e + (e + 1) * t
        case HyperFormer(networks=networks, embedding=n, projected=t, hidden=e):
            each = at_site(replace(method, networks="site"), sites[0])  # one width in all stacks of the tiny models
            tables = 1 if networks == "position" else 2
            depth = {site.stack: site.num_layers for site in sites}
            rows = sum(depth.values()) + (2 * len(depth) if networks == "stack" else 0)
            written = {(site.stack, site.role if networks == "position" else "") for site in sites}
            embedder = ((1 + tables) * n + 1) * e + (e + 1) * t + 2 * t
            return n + rows * n + len(depth) * embedder + len(written) * each
        case SparseDelta(fraction=fraction):
            return int(fraction * sum(entries(site) for site in sites))
        case IntrinsicSAID(dimension=d):
            return d - sum(at_site(method, site) for site in sites)
        case _:
            return 0


@cases("float32")
def test_counts_equal_the_closed_formula(case: Case) -> None:
    adapted = case.adapted()
    expected = once(adapted.method, adapted.sites) + sum(at_site(adapted.method, site) for site in adapted.sites)
    assert adapted.num_parameters() == expected
    assert (
        sum(p.numel() for own in adapted.init(0, tasks=3).values() for p in own.values() if p.is_floating_point())
        == 3 * expected
    )


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
    "gpt2": ("gpt2", {}),
    "gpt2-medium": ("gpt2", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "llama-7b": ("llama", {}),
    "vit-b/16": ("vit", {}),
}  # fmt: skip

ENCODER_AND_DECODER_SELF = frozenset({"attention.out", "ffn.out"})
HOULSBY_24 = Houlsby(width=24, roles=ENCODER_AND_DECODER_SELF)
VL_COMPACTER = PHMAdapter(order=2, width=96, roles=frozenset({"attention.out", "cross.out", "ffn.out"}))
IN_BLOCK_NORMS = NORMS - {"embeddings.norm", "final.norm"}
CHECKS: list[tuple[str, Method, int]] = [
    ("bert-base", Houlsby(width=48), 1_789_056),
    ("bert-base", Houlsby(reduction=16), 1_789_056),
    ("bert-base", Houlsby(width=64), 2_417_664 - 38_400),
    ("bert-base", LayerNormTuning(), 38_400),
    ("bert-base", Pfeiffer(width=48), 894_528),
    ("bert-base", LoRA(rank=8), 294_912),
    ("vit-b/16", LAST(rank=8), 294_912),
    ("vit-b/16", LAST(rank=16), 589_824),
    ("vit-b/16", LAST(rank=16, affine=True), 608_256),
    ("vit-b/16", LoSA(rank=8), 185_280),
    ("vit-b/16", APT(num_tokens=200, rank=4), 1_916_940),
    ("vit-b/16", APT(num_tokens=50, rank=4), 534_540),
    ("bert-base", DoRA(rank=8), 294_912 + 24 * 768),
    ("roberta-large", VeRA(rank=256), 48 * (1024 + 256)),
    ("bert-base", IA3(), 55_296),
    ("bert-base", BitFit(), 102_912),
    ("bert-base", PromptTuning(num_tokens=20), 15_360),
    ("bert-base", PrefixTuning(num_tokens=30), 552_960),
    ("bert-base", PrefixMLP(num_tokens=30), (30 + 512) * 768 + 512 + 24 * 513 * 768),
    ("bert-base", MAM(num_tokens=30, width=48), 552_960 + 894_528),
    ("bert-base", DenseDelta(), 85_646_592),  # all but the embedding tables
    ("bert-base", DiffPruning(), 2 * 85_646_592 + 12 * 16 + 4),  # a gate for each of the 196 tensors
    ("bert-base", SparseDelta(fraction=0.005), 428_232),
    ("t5-base", IntrinsicSAID(dimension=20_000), 20_000),
    ("roberta-large", LoRA(rank=8), 786_432),
    ("t5-base", LayerNormTuning(), 47_616),
    ("t5-small", LayerNormTuning(), 16_384),
    ("t5-base", HOULSBY_24, 1_855_104 - 47_616),
    ("t5-base", Pfeiffer(width=24), 951_360 - 47_616),
    ("t5-base", PromptTuning(num_tokens=100), 76_800),
    ("t0-3b", LayerNormTuning(), 249_856),
    ("t0-3b", LoRA(rank=4, roles=LINEARS), 8_847_360),
    ("t0-3b", PrefixTuning(num_tokens=2), 589_824),
    ("bart-base", LayerNormTuning(), 49_152),
    ("gpt2-medium", LoRA(rank=4), 393_216),
    ("llama-7b", LoRA(rank=8), 4_194_304),
    *(
        ("t5-base", union(make(order=n), LayerNormTuning()), count)
        for make, counts in {
            PHMAdapter: (534_144, 355_968, 398_976),
            Compacter: (161_728, 162_176, 163_392),
            CompacterPlusPlus: (104_704, 105_152, 106_368),
        }.items()
        for n, count in zip((4, 8, 12), counts, strict=True)
    ),
    ("t5-base", union(LowRankAdapter(), LayerNormTuning()), 161_664),
    ("t5-base", union(OnLayers(method=HOULSBY_24, start=5), LayerNormTuning()), 1_101_984),  # AdapterDrop
    ("bert-base", Compacter(), 57_088),
    ("bert-base", CompacterPlusPlus(), 28_576),
    ("t0-3b", union(Compacter(width=64, shared_factors=False), LayerNormTuning()), 870_400),
    ("t0-3b", union(CompacterPlusPlus(width=64, shared_factors=False), LayerNormTuning()), 560_128),
    ("bart-base", VL_COMPACTER, 3_870_240 - 49_152 - 1_582_848),  # less its norms and visual projection
    ("vit-b/16", SSF(), 205_824),
    ("vit-b/16", BitFit(roles=BitFit().roles - {"pooler"}), 102_912),
    ("bart-base", BitFit(), 125_952),
    ("bert-base", BitFit(roles=frozenset({"attention.query", "ffn.in"})), 12 * (768 + 3_072)),
    ("t5-base", BitFit(add_missing=True, roles=LINEARS | IN_BLOCK_NORMS), 280_960 - 32_128),  # less its output layer's
    ("t0-3b", union(BitFit(add_missing=True, roles=LINEARS - {"ffn.out"}), LayerNormTuning()), 1_331_200),
    ("t0-3b", union(BitFit(add_missing=True, roles=LINEARS), LayerNormTuning()), 1_429_504),
    ("t0-3b", IA3(), 540_672),
    ("t0-3b", IA3(roles=IA3().roles - {"ffn.out"} | {"ffn.in"}), 540_672),  # the linear half, as its code does it
    ("t5-base", IA3(), 129_024),
    ("t5-small", IA3(), 43_008),
    ("bart-base", IA3(), 64_512),
    ("llama-7b", IA3(), 614_400),
    ("gpt2", IA3(), 55_296),
    ("gpt2", IA3(roles=IA3().roles | {"attention.query"}), 64_512),
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
