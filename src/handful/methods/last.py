"""LAST (Tang et al. 2024, arXiv 2402.04009): low-rank self-attention beside the frozen backbone."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.side import Layers, attention, attention_mask, chosen
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class LAST(Method):
    """LAST: a side network of low-rank self-attention without feed-forward networks, on the blocks' inputs.

    `v_i = u_i + z_i`, `u_{i+1} = v_i + LSA_i(LN(v_i))`, `u_0 = 0`, where `z_i` enters block `i` of `layers` and
    `LSA(v) = softmax(Q K^T / sqrt(r)) V W_o` with `Q, K, V = v W_q, v W_k, v W_v` of width `r`, one head. The answer is
    `h_L + u_m - sum z_i = h_L + sum LSA_i`, with `W_o` zero at the start. `corrected=False` leaves the sum of `z_i` in,
    `with_backbone=False` leaves `h_L` out (`W_o` then starts random); neither starts as the backbone. Where the norm
    stands, `u_0` and `h_L` are our choices: the paper's text does not fix them. Attention is causal in decoders.
    Parameters of `n` blocks: `4 n d r`, with `affine` norms `2 n d` more.
    """

    source: ClassVar[str] = "Tang, Fu, Zhu & Wu 2024, arXiv 2402.04009, section 3"

    rank: int = 8
    layers: Layers = None
    affine: bool = False
    dropout: float = 0.0
    corrected: bool = True
    with_backbone: bool = True
    roles: frozenset[str] = frozenset({"hidden_states"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        n, d, r = len(chosen(self.layers, site)), site.d_in, self.rank
        if not 1 <= r <= d:
            raise ValueError(f"rank={r}, where 1 to {d} fits")
        qkv = torch.empty(n, 3 * r, d).normal_(0, 1 / math.sqrt(d), generator=generator)
        out = torch.empty(n, d, r).normal_(0, 1 / math.sqrt(r), generator=generator)
        params = {"qkv": qkv, "out": out.zero_() if self.with_backbone else out}
        return params | ({"scale": torch.ones(n, d), "shift": torch.zeros(n, d)} if self.affine else {})

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        # x: the embeddings' and each block's states, L + 1 tensors [..., B, S, D]
        rows, tokens = x[0].shape[-3:-1]
        mask = attention_mask(base.mask, x[0], causal=site.stack == "decoder")
        own = read = torch.zeros_like(x[0]).flatten(-3, -2)  # sum of LSA_i and of z_i
        for i, block in enumerate(chosen(self.layers, site)):
            read = read + x[block].flatten(-3, -2)
            v = F.layer_norm(own + read, read.shape[-1:])
            if self.affine:
                v = v * params["scale"][..., i, None, :] + params["shift"][..., i, None, :]
            qkv = (v @ params["qkv"][..., i, :, :].mT).unflatten(-2, (rows, tokens))
            update = attention(qkv, mask, 1).flatten(-3, -2) @ params["out"][..., i, :, :].mT
            own = own + base.dropout(update, self.dropout)
        answer = (own if self.corrected else own + read).unflatten(-2, (rows, tokens))
        return base(x) + answer if self.with_backbone else answer
