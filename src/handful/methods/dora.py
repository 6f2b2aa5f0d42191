"""DoRA (Liu et al. 2024, arXiv 2402.09353): a low-rank update of a weight's direction, and a magnitude of its own."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class DoRA(Method):
    """`W' = m V / ||V||`, `V = W0 + (alpha / rank) B A`, the norm over each output's row and without a gradient.

    `m = ||W0|| + dm` with `dm` zero at the start, so that a start needs no weights; its gradient and its steps are
    those of `m`. `||V||` follows from `||W0||`, `W0 A^T` and `A A^T`: no `[d_out, d_in]` product is built. With dropout
    the frozen part reads the dropped input too, as in the released code.

    Parameters per site: `rank * (d_in + d_out) + d_out`.
    """

    source: ClassVar[str] = "Liu et al. 2024, arXiv 2402.09353, equation 5 and section 4.3"

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    roles: frozenset[str] = frozenset({"attention.query", "attention.value"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        if not 1 <= self.rank <= min(site.d_in, site.d_out):
            raise ValueError(f"rank {self.rank} must be from 1 to the smaller width, {min(site.d_in, site.d_out)}")
        bound = 1 / math.sqrt(site.d_in)
        a = torch.empty(self.rank, site.d_in).uniform_(-bound, bound, generator=generator)
        return {"A": a, "B": torch.zeros(site.d_out, self.rank), "dm": torch.zeros(site.d_out)}

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        s, dropped, y = self.alpha / self.rank, base.dropout(x, self.dropout), base(x)
        linear = y if base.bias is None else y - base.bias
        if dropped is not x:
            linear = F.linear(dropped, base.weight)
        share = self._share(params, base.weight, s).to(y)
        low = s * (dropped @ params["A"].mT) @ params["B"].mT
        return y + (share - 1) * linear + share * low

    def _share(self, params: dict[str, Tensor], weight: Tensor, s: float) -> Tensor:
        """`m / ||V||` in the shape of `dm`, at least in single precision, and exactly one at the start."""
        kept = torch.promote_types(weight.dtype, torch.float32)
        m0 = torch.linalg.vector_norm(weight, dim=-1, dtype=kept)
        a, b = params["A"].detach(), params["B"].detach()
        cross = ((a @ weight.mT).mT * b).sum(-1, dtype=kept)
        square = ((b @ (a @ a.mT)) * b).sum(-1, dtype=kept)
        norm = (m0.square() + 2 * s * cross + s**2 * square).clamp_min(torch.finfo(kept).tiny).sqrt()
        return (m0 + params["dm"].to(kept)) / norm.view_as(params["dm"])
