"""Low-rank adapters: the baseline Adapter-LowRank of Karimi Mahabadi et al. 2021, arXiv 2106.04647."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class LowRankAdapter(Method):
    """`h + act(h L_d R_d + b_d) L_u R_u + b_u`: an adapter whose matrices are products of rank `rank`.

    `L [d, r]` and `R [r, m]` start Xavier-uniform with gain sqrt(2), but `R_u` at zero, so that the start is exactly
    the backbone. (The authors' code multiplies `L * R`, which is the product for rank one only.)
    Parameters per site: `2 r (d + m) + m + d`.
    """

    source: ClassVar[str] = "Karimi Mahabadi et al. 2021, arXiv 2106.04647 (Adapter-LowRank)"

    rank: int = 1
    width: int = 24
    activation: Literal["gelu_new", "gelu", "relu", "silu", "tanh"] = "gelu_new"
    roles: frozenset[str] = frozenset({"attention.out", "ffn.out"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        r, d, m = self.rank, site.d_out, self.width
        if not 1 <= r <= min(d, m):
            raise ValueError(f"rank {r} is outside 1 to {min(d, m)}, the smaller of the site's width and the adapter's")

        def drawn(*shape: int) -> Tensor:
            bound = math.sqrt(2 * 6 / sum(shape))
            return torch.empty(*shape).uniform_(-bound, bound, generator=generator)

        return {
            "down_left": drawn(d, r),
            "down_right": drawn(r, m),
            "down_bias": torch.zeros(m),
            "up_left": drawn(m, r),
            "up_right": torch.zeros(r, d),
            "up_bias": torch.zeros(d),
        }

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        h = base(x)
        act = partial(F.gelu, approximate="tanh") if self.activation == "gelu_new" else getattr(F, self.activation)
        inner = act(h @ params["down_left"] @ params["down_right"] + params["down_bias"])
        return h + inner @ params["up_left"] @ params["up_right"] + params["up_bias"]
