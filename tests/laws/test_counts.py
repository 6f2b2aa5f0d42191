"""Parameter counts equal the closed formulas of the papers, on tiny models and on shapes of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from handful.attach import attach
from handful.counting import Check, checks
from handful.errors import MethodError
from handful.methods import Method
from handful.methods.apt import APT
from handful.methods.bitfit import BitFit
from handful.methods.bottleneck import Houlsby, ParallelAdapter, Pfeiffer
from handful.methods.combine import Union
from handful.methods.diff_pruning import DiffPruning
from handful.methods.dora import DoRA
from handful.methods.full import DenseDelta
from handful.methods.hyperformer import HyperFormer
from handful.methods.ia3 import IA3
from handful.methods.kronecker import KroneckerAdapter
from handful.methods.ladder import LadderSide
from handful.methods.last import LAST
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.methods.losa import LoSA
from handful.methods.lowrank_adapter import LowRankAdapter
from handful.methods.meta_adapter import MetaAdapter
from handful.methods.prefix import PrefixMLP, PrefixTuning
from handful.methods.prompt import PromptMLP, PromptTuning
from handful.methods.said import IntrinsicSAID
from handful.methods.sparse import SparseDelta
from handful.methods.ssf import SSF
from handful.methods.variants import OnLayers, OverTasks
from handful.methods.vera import VeRA
from handful.shapes import shape
from handful.types import LINEARS, Site
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
        case Houlsby(width=m) | MetaAdapter(width=m) if m:
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
        sum(
            p.numel()
            for own in adapted.init(0, tasks=3).values()
            for name, p in own.items()
            if p.is_floating_point() and adapted.method.rate(name) > 0
        )
        == 3 * expected
    )


CHECKS = [check for rows in checks().values() for check in rows if not check.missing]
"""`src/handful/counts.toml`: add a row there."""


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.backbone}-{check.spec or check.measure}")
def test_counts_equal_the_published_ones(check: Check) -> None:
    """What each method costs on a named backbone; `tests/unit/test_counting.py` looks at what papers print, too."""
    found = check.found().trainable
    if check.count is not None and not check.why:
        assert found == check.count


@pytest.mark.parametrize("name", ["t5-base", "llama-7b"])
def test_no_bias_is_refused(name: str) -> None:
    with pytest.raises(MethodError, match=r"BitFit.*add_missing"):
        attach(shape(name), BitFit())
