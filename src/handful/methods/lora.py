"""LoRA (Hu et al. 2022, arXiv 2106.09685, section 4.1): a low-rank update beside frozen projections."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """`h = W0 x + (alpha / rank) B A x` with `A [rank, d_in]` Kaiming-uniform and `B [d_out, rank]` zero.

    Parameters per site: `rank * (d_in + d_out)`.
    """

    source: ClassVar[str] = "Hu et al. 2022, arXiv 2106.09685, section 4.1"

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    roles: frozenset[str] = frozenset({"attention.query", "attention.value"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        if not 1 <= self.rank <= min(site.d_in, site.d_out):
            raise ValueError(f"rank {self.rank} must be from 1 to the smaller width, {min(site.d_in, site.d_out)}")
        bound = 1 / math.sqrt(site.d_in)  # kaiming_uniform with a = sqrt(5), as in the released code
        a = torch.empty(self.rank, site.d_in).uniform_(-bound, bound, generator=generator)
        return {"A": a, "B": torch.zeros(site.d_out, self.rank)}

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        low = (self.alpha / self.rank) * (base.dropout(x, self.dropout) @ params["A"].mT)
        return base(x) + low @ params["B"].mT
