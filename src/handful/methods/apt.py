"""Approximated prompt tuning (Wu et al. 2023, arXiv 2306.15706): what deep prompts add to attention, apart from it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class APT(Method):
    """APT: each token reads a bank of learned tokens, and what it reads is added to the frozen attention's output.

    `exp(g) (Y + w E)` with `K = M + (M D) U`, `A = ReLU(R K^T)`, `E = A M` and `w = max_j A_j`, through which nothing
    flows back. `R` is the input of the attention sub-layer (in post-norm blocks the residual itself), `Y` its output
    with the output projection, `M [p, d]` the bank, `D [d, h]`, `U [h, d]`. As released: no `1 / sqrt(d)`, one bank
    for all heads. `M` starts at N(0, 0.02), `D` at N(0, 1), `U` and `g` at zero, which is not the backbone: on MiniLM
    the attention outputs start 11 to 19 % away and the final states 10 % (p = 50: 4 to 7 % and 4 %). Cross-attention is
    the role "cross", where `R` is the query stream. Parameters per site: `p d + 2 d h + 1`.
    """

    source: ClassVar[str] = "Wu et al. 2023, arXiv 2306.15706, section 3 and the released code"

    num_tokens: int = 200
    rank: int = 4
    dropout: float = 0.0
    roles: frozenset[str] = frozenset({"attention"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        if not 1 <= self.rank <= site.d_in or self.num_tokens < 1:
            asked = f"rank={self.rank} and num_tokens={self.num_tokens}"
            raise ValueError(f"{asked}, where ranks of 1 to {site.d_in} and one or more tokens fit")
        return {
            "M": torch.empty(self.num_tokens, site.d_in).normal_(0, 0.02, generator=generator),
            "D": torch.empty(site.d_in, self.rank).normal_(0, 1, generator=generator),
            "U": torch.zeros(self.rank, site.d_in),
            "g": torch.zeros(()),
        }

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        bank = params["M"]
        keys = bank + (bank @ params["D"]) @ params["U"]
        scores = base.dropout(torch.relu(x @ keys.mT), self.dropout)
        weight = scores.amax(-1, keepdim=True).detach()
        return params["g"].exp() * (base(x) + weight * (scores @ bank))
