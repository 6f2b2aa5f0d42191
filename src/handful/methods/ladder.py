"""Ladder side tuning (Sung et al. 2022, arXiv 2206.06522): a small transformer beside the frozen one."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class LadderSide(Method):
    """A side network of width `d = D / reduction` with one pre-norm block per backbone block (section 3.2).

    `s_i = block_i(mu_i s_{i-1} + (1 - mu_i) W_i h_i)` with `mu_i = sigmoid(alpha_i / 0.1)`, and the answer is
    `h_L + W_up s_L`. `W_up` starts at zero, so the start is the backbone's own answer. Nothing flows back into the
    backbone: every `h_i` is a cached feature. Parameters: `(L + 1) D d + L (12 d^2 + 1) + d D`.
    """

    reduction: int = 8
    num_heads: int = 2
    roles: frozenset[str] = frozenset({"hidden_states"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        d, depth = self._width(site), site.num_layers

        def normal(*shape: int) -> Tensor:
            return torch.empty(*shape).normal_(0, 1 / math.sqrt(shape[-1]), generator=generator)

        return {
            "down": normal(depth + 1, d, site.d_in),
            "alpha": torch.zeros(depth),
            "qkv": normal(depth, 3 * d, d),
            "out": normal(depth, d, d),
            "ffn_in": normal(depth, 4 * d, d),
            "ffn_out": normal(depth, d, 4 * d),
            "up": torch.zeros(site.d_out, d),
        }

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        # x: the embeddings' and each block's states, L + 1 tensors [..., B, S, D]
        rows, tokens = x[0].shape[-3:-1]
        mu = torch.sigmoid(params["alpha"] / 0.1)

        def weight(name: str, i: int) -> Tensor:
            return params[name][..., i, :, :].mT

        side = x[0].flatten(-3, -2) @ weight("down", 0)
        for i in range(site.num_layers):
            gate = mu[..., i, None]
            side = gate * side + (1 - gate) * (x[i + 1].flatten(-3, -2) @ weight("down", i + 1))
            qkv = (_norm(side) @ weight("qkv", i)).unflatten(-2, (rows, tokens))
            side = side + self._attention(qkv, base.mask).flatten(-3, -2) @ weight("out", i)
            side = side + F.gelu(_norm(side) @ weight("ffn_in", i)) @ weight("ffn_out", i)
        return base(x) + (side @ params["up"].mT).unflatten(-2, (rows, tokens))

    def _attention(self, qkv: Tensor, mask: Tensor) -> Tensor:
        """Self-attention of `qkv [..., B, S, 3 d]` under `mask [..., B, S]`, True at real tokens."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3) for part in qkv.chunk(3, -1))
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask[..., None, None, :], torch.finfo(q.dtype).min)
        return (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)

    def _width(self, site: Site) -> int:
        return max(1, site.d_in // self.reduction // self.num_heads) * self.num_heads


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
