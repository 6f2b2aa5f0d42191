"""Ladder side tuning (Sung et al. 2022, arXiv 2206.06522): a small transformer beside the frozen one."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.side import Layers, attention, attention_mask, chosen, heads_of, pruned
from handful.types import Site

_ROLES = {"qkv": "attention.query", "out": "attention.out", "ffn_in": "ffn.in", "ffn_gate": "ffn.gate"} | {
    "ffn_out": "ffn.out", "norm": "ffn.norm", "last": "ffn.norm"
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LadderSide(Method):
    """Ladder side tuning: a transformer of width `d = D / r` beside the backbone, fed by gated taps of its blocks.

    `u_0 = D_0 z_0`, `u_i = S_i(mu_i u_{i-1} + (1 - mu_i) D_i z_i)` with `mu_i = sigmoid(alpha_i / 0.1)` for each block
    `i` in `layers`, whose output is `z_i`. `S_i` is a pre-norm block with the backbone's heads, gate and biases, its
    attention and inner widths divided by `r`; it knows positions from the taps alone, and is causal in decoders. The
    answer is `h_L + U LN(u_L)` with `U` zero at the start, or as released (`wiring="gated"`, whose start is not the
    backbone) `mu U LN(u_L) + (1 - mu) h_L`. `start="magnitude"` takes the matrices of `S_i` from the backbone
    (`handful.side.pruned`); the paper prunes by Fisher information, which needs gradients of the backbone: not here.
    Parameters of `n` blocks with attention width `a` and inner width `f`, without the biases of blocks and norms:
    `(n + 1)(D d + d) + n (4 a d + 2 f d + 2 d + 1) + d + d D + D`.
    """

    source: ClassVar[str] = "Sung, Cho & Bansal 2022, arXiv 2206.06522, section 3"

    reduction: int = 8
    num_heads: int | None = None
    layers: Layers = None
    start: Literal["random", "magnitude"] = "random"
    wiring: Literal["residual", "gated"] = "residual"
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    roles: frozenset[str] = frozenset({"hidden_states"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        if not 1 <= self.reduction <= site.d_in:
            raise ValueError(f"reduction={self.reduction}, where 1 to {site.d_in} fits")
        layers, block = chosen(self.layers, site), site.extra["blocks"][0]
        d, n, (heads, head, f) = site.d_in // self.reduction, len(layers), self._widths(site)

        def normal(*shape: int) -> Tensor:
            return torch.empty(*shape).normal_(0, 1 / math.sqrt(shape[-1]), generator=generator)

        p = {"down": normal(n + 1, d, site.d_in), "down_bias": torch.zeros(n + 1, d), "alpha": torch.zeros(n)}
        p |= {"qkv": normal(n, 3 * heads * head, d), "out": normal(n, d, heads * head), "ffn_in": normal(n, f, d)}
        p |= {"ffn_gate": normal(n, f, d)} if "ffn.gate" in block else {}
        p |= {"ffn_out": normal(n, d, f), "norm": torch.ones(n, 2, d), "last": torch.ones(d)}
        for name, role in _ROLES.items():
            if name in p and (role not in block or block[role].site.has_bias):
                p[f"{name}_bias"] = torch.zeros(p[name].shape if role == "ffn.norm" else p[name].shape[:-1])
        gated = self.wiring == "gated"
        p |= {"up": normal(site.d_out, d) if gated else torch.zeros(site.d_out, d), "up_bias": torch.zeros(site.d_out)}
        p |= {"alpha_last": torch.zeros(())} if gated else {}
        if self.start == "random":
            return p
        if self.start != "magnitude" or self.num_heads not in (None, heads_of(site)):
            raise ValueError("start is 'random' or 'magnitude', the latter with the backbone's heads (num_heads=None)")
        return {**p, **pruned(site, layers, d, head, f)}

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        # x: the embeddings' and each block's states, L + 1 tensors [..., B, S, D]
        rows, tokens = x[0].shape[-3:-1]
        mask, heads = attention_mask(base.mask, x[0], causal=site.stack == "decoder"), self._widths(site)[0]
        mu = torch.sigmoid(params["alpha"] / 0.1)
        unit = _layer_norm if "norm_bias" in params else _rms_norm  # without a shift as in T5 and Llama

        def linear(name: str, h: Tensor, i: int, norm: int | None = None) -> Tensor:
            """A layer; scale and shift of the norm before it, if any, go into the matrix instead of over all tokens."""
            weight, bias = params[name][..., i, :, :], params.get(f"{name}_bias")
            bias = None if bias is None else bias[..., i, :]
            if norm is not None and "norm_bias" in params:
                moved = (weight @ params["norm_bias"][..., i, norm, :, None]).squeeze(-1)
                bias = moved if bias is None else bias + moved
            if name == "qkv" and bias is not None:  # what all keys have in common changes no softmax but by rounding
                query, key, value = bias.chunk(3, -1)
                bias = torch.cat([query, torch.zeros_like(key), value], -1)
            weight = weight if norm is None else weight * params["norm"][..., i, norm, None, :]
            return h @ weight.mT if bias is None else h @ weight.mT + bias[..., None, :]

        side = linear("down", x[0].flatten(-3, -2), 0)
        for i, block in enumerate(chosen(self.layers, site)):
            tap = linear("down", x[block + 1].flatten(-3, -2), i + 1)
            side = tap + mu[..., i, None] * (side - tap)
            qkv = linear("qkv", unit(side), i, 0).unflatten(-2, (rows, tokens))
            side = side + linear("out", attention(qkv, mask, heads).flatten(-3, -2), i)
            h, gated = unit(side), "ffn_gate" in params
            inner = getattr(F, self.activation)(linear("ffn_gate" if gated else "ffn_in", h, i, 1))
            side = side + linear("ffn_out", inner * linear("ffn_in", h, i, 1) if gated else inner, i)
        last = unit(side) * params["last"] + params.get("last_bias", 0.0)
        answer = last @ params["up"].mT + params["up_bias"]
        if self.wiring == "residual":
            return base(x) + answer.unflatten(-2, (rows, tokens))
        mix = torch.sigmoid(params["alpha_last"] / 0.1)
        return (mix * answer + (1 - mix) * base(x).flatten(-3, -2)).unflatten(-2, (rows, tokens))

    def _widths(self, site: Site) -> tuple[int, int, int]:
        """Heads of the side network, the width of one, and the inner width of the feed-forward network."""
        heads = self.num_heads or heads_of(site)
        head, inner = heads_of(site) * site.extra["head_size"] // heads, site.extra["blocks"][0]["ffn.in"].site.d_out
        return heads, max(1, head // self.reduction), max(1, inner // self.reduction)


def _layer_norm(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:])


def _rms_norm(h: Tensor) -> Tensor:
    return F.rms_norm(h, h.shape[-1:], eps=1e-6)
