"""A Kronecker adapter with factors shared by all sites (the PHM layer of Mahabadi et al. 2021, arXiv 2106.04647)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class KroneckerAdapter(Method):
    """A Houlsby adapter whose matrices are `W = sum_i A_i (x) B_i`, `i = 1..order`.

    The factors `A_i [order, order]` are one set for all sites, the `B_i` are each site's own. The dense `W` is never
    built: `x W` costs `order` small products. `width` must be divisible by `order`, and so must the site's width.
    Parameters: `order^3` once, then `2 d m / order + m + d` a site.
    """

    order: int = 4
    width: int = 24
    roles: frozenset[str] = frozenset({"attention.out", "cross.out", "ffn.out"})

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        return {"A": torch.empty(self.order, self.order, self.order).normal_(0, 0.01, generator=generator)}

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        n, d, m = self.order, site.d_out, self.width
        if d % n or m % n:
            raise ValueError(f"order {n} must divide the width of the site, {d}, and of the adapter, {m}")
        return {
            "down": torch.empty(n, d // n, m // n).normal_(0, (2 / (d + m)) ** 0.5, generator=generator),
            "down_bias": torch.zeros(m),
            "up": torch.zeros(n, m // n, d // n),
            "up_bias": torch.zeros(d),
        }

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        h = base(x)
        inner = F.gelu(kronecker_product(h, params["A"], params["down"]) + params["down_bias"])
        return h + kronecker_product(inner, params["A"], params["up"]) + params["up_bias"]


def kronecker_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`x @ sum_i kron(a_i, b_i)` for `x [..., N, n p]`, `a [..., i, n, n]`, `b [..., i, p, q]` -> `[..., N, n q]`."""
    x = x.unflatten(-1, (a.shape[-1], b.shape[-2]))
    y = torch.einsum("...nap,...ipq->...niaq", x, b)
    return torch.einsum("...niaq,...iab->...nbq", y, a).flatten(-2)
