"""Meta-Adapters: adapters that a task tunes, between modules that were learned over tasks and then stay as they are."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site

APART = {"both": ("lower_", "upper_"), "lower": ("lower_",), "upper": ("upper_",), "none": ()}


@dataclass(frozen=True, kw_only=True)
class MetaAdapter(Method):
    """`MA_hi(A(MA_lo(h)))` after a sublayer, each `M(h) = h + W_up act(W_down h + b_down) + b_up`.

    `A`, of inner width `width`, is a task's own: alone it is trained, and counted. The modules below and above it, of
    `meta_width`, are what meta-training learns (`lower_*`, `upper_*`); tasks hold them. With `wrap="none"` there are
    none, and only the start of `A` is meta-learned: the ablation MAML-Adapters. Each `W_up` starts at zero.
    Parameters per site: `2 d m + m + d`.
    """

    source: ClassVar[str] = "Bansal et al. 2022, PMLR 188:19, section 3"

    width: int = 16
    meta_width: int = 16
    wrap: Literal["both", "lower", "upper", "none"] = "both"
    activation: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    roles: frozenset[str] = frozenset({"attention.out", "cross.out", "ffn.out"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        if min(self.width, self.meta_width) < 1:
            raise ValueError(f"width {self.width} and meta_width {self.meta_width} must be at least 1")
        if self.wrap not in APART:
            raise ValueError(f"wrap is {self.wrap!r}, and must be one of {', '.join(APART)}")
        params: dict[str, Tensor] = {}
        for part, m in (("", self.width), *((part, self.meta_width) for part in APART[self.wrap])):
            params[f"{part}down"] = torch.empty(m, site.d_out).normal_(0, 0.02, generator=generator)
            params[f"{part}down_bias"] = torch.zeros(m)
            params[f"{part}up"] = torch.zeros(site.d_out, m)
            params[f"{part}up_bias"] = torch.zeros(site.d_out)
        return params

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        h = base(x)
        for part in ("lower_", "", "upper_"):
            if not part or part in APART[self.wrap]:
                z = getattr(F, self.activation)(h @ params[f"{part}down"].mT + params[f"{part}down_bias"])
                h = h + z @ params[f"{part}up"].mT + params[f"{part}up_bias"]
        return h

    def rate(self, name: str) -> float:
        """Zero for what only meta-training learns."""
        return 0.0 if name.startswith(APART["both"]) else 1.0
