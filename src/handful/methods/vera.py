"""VeRA (Kopiczko et al. 2024, arXiv 2310.11454): two vectors a layer around frozen random matrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class VeRA(Method):
    """`h = W0 x + Lambda_b B Lambda_d A x`: only the diagonals `b [d_out]`, at zero, and `d [rank]` learn.

    `A` and `B` are Kaiming-uniform, one pair for all sites: as large as the widest needs, and cut to the others. They
    are made from `projection_seed` when they are used, never stored; how large, the shape of `extent` says, which has
    no elements. Parameters per site: `rank + d_out`.
    """

    source: ClassVar[str] = "Kopiczko et al. 2024, arXiv 2310.11454, equation 2"

    rank: int = 256
    d_initial: float = 0.1
    projection_seed: int = 0
    dropout: float = 0.0
    roles: frozenset[str] = frozenset({"attention.query", "attention.value"})

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        widest = max(site.d_out for site in sites), max(site.d_in for site in sites)
        return {"extent": torch.empty(0, *widest, dtype=torch.uint8)}

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        if self.rank < 1:
            raise ValueError(f"rank {self.rank} must be at least 1")
        return {"b": torch.zeros(site.d_out), "d": torch.full((self.rank,), self.d_initial)}

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        d_out, d_in = params["extent"].shape[-2:]
        a, b = projections(self.projection_seed, self.rank, d_out, d_in, x.dtype, x.device)
        low = params["d"] * (base.dropout(x, self.dropout) @ a[:, : site.d_in].mT)
        return base(x) + params["b"] * (low @ b[: site.d_out].mT)


@lru_cache(maxsize=16)
def projections(
    seed: int, rank: int, d_out: int, d_in: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`A [rank, d_in]` and then `B [d_out, rank]` from one generator, as `peft` draws them."""
    generator = torch.Generator().manual_seed(seed)

    def kaiming(rows: int, columns: int) -> Tensor:
        bound = math.sqrt(6 / columns)
        return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator).to(device, dtype)

    return kaiming(rank, d_in), kaiming(d_out, rank)
