"""Adapters of Kronecker products: Compacter, Compacter++ and PHM (Mahabadi et al. 2021, arXiv 2106.04647)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class KroneckerAdapter(Method):
    """`h + act(h D + b_d) U + b_u`, where `D` and `U` are sums of Kronecker products, `sum_i A_i (x) B_i`.

    The `A_i [n, n]`, `i = 1..n` (`order`), are one set for all sites, or one each for `D` and `U` of a site if not
    `shared_factors`; `B_i = s_i t_i` has rank `rank`, or is a full matrix for None. `s`, `t`, `B` start Xavier-uniform
    with gain sqrt(2), but `t` (or `B`) of `U` at zero: the start is exactly the backbone. `A ~ N(0, std)`: the authors'
    1e-4 for shared ones makes a start that is nearly the backbone, but beside a zero leaves `t` gradients below Adam's
    epsilon; their 0.01 for a site's own serves both.
    """

    source: ClassVar[str] = "Karimi Mahabadi et al. 2021, arXiv 2106.04647"

    order: int = 4
    width: int = 24
    rank: int | None = 1
    shared_factors: bool = True
    std: float = 0.01
    activation: Literal["gelu_new", "gelu", "relu", "silu", "tanh"] = "gelu_new"
    roles: frozenset[str] = frozenset({"attention.out", "ffn.out"})

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        return {"A": self._factors(generator)} if self.shared_factors else {}

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        n, d, m = self.order, site.d_out, self.width
        if min(n, m) < 1 or d % n or m % n:
            raise ValueError(f"order {n} must divide the site's width, {d}, and the adapter's, {m}, at least once")
        if self.rank is not None and not 1 <= self.rank <= min(d, m) // n:
            raise ValueError(
                f"rank {self.rank} is outside 1 to {min(d, m) // n}, the smaller side of {d // n} x {m // n} factors"
            )
        own = {} if self.shared_factors else {f"A_{part}": self._factors(generator) for part in ("down", "up")}
        for part, p, q in (("down", d // n, m // n), ("up", m // n, d // n)):
            shapes = {"B": (p, q)} if self.rank is None else {"s": (p, self.rank), "t": (self.rank, q)}
            for name, shape in shapes.items():
                bound = math.sqrt(2 * 6 / sum(shape))
                own[f"{part}_{name}"] = torch.empty(n, *shape).uniform_(-bound, bound, generator=generator)
        own["up_B" if self.rank is None else "up_t"].zero_()
        return own | {"down_bias": torch.zeros(m), "up_bias": torch.zeros(d)}

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        h = base(x)
        act = partial(F.gelu, approximate="tanh") if self.activation == "gelu_new" else getattr(F, self.activation)
        inner = act(self._times(h, params, "down") + params["down_bias"])
        change = self._times(inner, params, "up") + params["up_bias"]
        return base(x + change) if site.role.endswith(".add") else h + change

    def _factors(self, generator: torch.Generator) -> Tensor:
        return torch.empty(self.order, self.order, self.order).normal_(0, self.std, generator=generator)

    def _times(self, x: Tensor, params: dict[str, Tensor], part: str) -> Tensor:
        a = params["A"] if self.shared_factors else params[f"A_{part}"]
        product = kronecker_product if self.rank is None else low_rank_kronecker_product
        return product(x, a, *(params[f"{part}_{name}"] for name in ("B" if self.rank is None else "st")))


@dataclass(frozen=True, kw_only=True)
class Compacter(KroneckerAdapter):
    """Adapters of Kronecker products of rank one, with small factors shared by all sites; no cross-attention.

    The paper also tunes all norms. Parameters: `2 r (d + m) + m + d` a site, and `n^3` once.
    """


@dataclass(frozen=True, kw_only=True)
class CompacterPlusPlus(KroneckerAdapter):
    """Compacter after the feed-forward network only. Parameters: `2 r (d + m) + m + d` a site, and `n^3` once."""

    roles: frozenset[str] = frozenset({"ffn.out"})


@dataclass(frozen=True, kw_only=True)
class PHMAdapter(KroneckerAdapter):
    """Adapters of Kronecker products, all factors each site's own. Parameters per site: `2 d m / n + 2 n^3 + m + d`."""

    rank: int | None = None
    shared_factors: bool = False


def kronecker_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`x @ sum_i kron(a_i, b_i)` for `x [..., N, n p]`, `a [..., i, n, n]`, `b [..., i, p, q]` -> `[..., N, n q]`.

    A full `b` saves nothing on `N n p n q` products: beside them are `N n^3` times the narrower of `p` and `q` for a
    product factor by factor, or `n^3 p q` once for the dense matrix. The cheaper one is done.
    """
    n, p, q = a.shape[-1], *b.shape[-2:]
    if x.shape[-2] > max(p, q):
        return x @ torch.einsum("...iac,...ipq->...apcq", a, b).flatten(-4, -3).flatten(-2)
    x = x.unflatten(-1, (n, p))
    if q < p:
        return torch.einsum("...nap,...ipq,...iac->...ncq", x, b, a).flatten(-2)
    return torch.einsum("...nap,...iac,...ipq->...ncq", x, a, b).flatten(-2)


def low_rank_kronecker_product(x: Tensor, a: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """`x @ sum_i kron(a_i, s_i @ t_i)`, `s [..., i, p, r]`, `t [..., i, r, q]`: `N r n (n (p + q) + n^2)` products."""
    n, p, q, r = a.shape[-1], s.shape[-2], t.shape[-1], s.shape[-1]
    if r * (n * (p + q) + n * n) >= n * p * q:  # more than with a matrix
        return kronecker_product(x, a, s @ t)
    u = (x.unflatten(-1, (n, p)) @ s.transpose(-3, -2).flatten(-2).unsqueeze(-3)).unflatten(-1, (n, r))
    v = torch.einsum("...nair,...iac->...ncir", u, a).flatten(-2)
    return (v @ t.flatten(-3, -2).unsqueeze(-3)).flatten(-2)
