"""Prefix tuning (Li & Liang 2021, arXiv 2101.00190): learned keys and values in front of every attention."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class PrefixTuning(Method):
    """`K' = [P_K; K]`, `V' = [P_V; V]` with `P_K`, `P_V` `[num_tokens, d_kv]` in every attention layer.

    Not the identity at the start: real attention moves to the prefix. Parameters: `2 * num_tokens * d_kv` a layer.
    Position biases and masks are zero for the prefix; rotary positions are not applied to it.
    """

    num_tokens: int = 20
    std: float = 0.02
    roles: frozenset[str] = frozenset({"attention.kv", "cross.kv"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: torch.empty(self.num_tokens, site.d_out).normal_(0, self.std, generator=generator)
            for name in ("key", "value")
        }

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        key, value = base(x)  # each [..., B, S, d_kv]
        prefixes = (params[name].unsqueeze(-3).expand(*key.shape[:-2], -1, -1).to(key) for name in ("key", "value"))
        return tuple(torch.cat([prefix, real], dim=-2) for prefix, real in zip(prefixes, (key, value), strict=True))
