"""Bottleneck adapters: Houlsby et al. 2019 (serial), Pfeiffer et al. 2021 (residual), He et al. 2022 (parallel)."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site

Activation = Literal["relu", "gelu", "silu", "tanh"]


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Method):
    """`A(h) = W_up act(W_down h + b_down) + b_up` of inner width `width`, or `d / reduction` if no width is given.

    `W_down` starts at N(0, 0.02), `W_up` at zero. Parameters per site: `2 d m + m + d`.
    """

    reduction: int = 16
    width: int | None = None
    activation: Activation = "relu"
    scale: float = 1.0
    dropout: float = 0.0
    roles: frozenset[str] = frozenset()

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        m = max(1, site.d_out // self.reduction) if self.width is None else self.width
        if m < 1 or self.reduction < 1:
            raise ValueError(f"width {self.width} and reduction {self.reduction} must be at least 1")
        return {
            "down": torch.empty(m, site.d_in).normal_(0, 0.02, generator=generator),
            "down_bias": torch.zeros(m),
            "up": torch.zeros(site.d_out, m),
            "up_bias": torch.zeros(site.d_out),
        }

    def decays(self, name: str) -> bool:
        return name != "scale"

    def adapter(self, params: dict[str, Tensor], h: Tensor, base: Base) -> Tensor:
        scale = params.get("scale", self.scale)
        inner = getattr(F, self.activation)(h @ params["down"].mT + params["down_bias"])
        inner = scale * base.dropout(inner, self.dropout)  # of the two, the small one is scaled
        return inner @ params["up"].mT + scale * params["up_bias"]


@dataclass(frozen=True, kw_only=True)
class Houlsby(Bottleneck):
    """`h + A(h)` after the attention output and after the feed-forward output, before the residual sum."""

    source: ClassVar[str] = "Houlsby et al. 2019, arXiv 1902.00751, section 2.1"

    roles: frozenset[str] = frozenset({"attention.out", "cross.out", "ffn.out"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        return super().init(_square(site), generator)

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        h = base(x)
        return h + self.adapter(params, h, base)


@dataclass(frozen=True, kw_only=True)
class Pfeiffer(Bottleneck):
    """One adapter a block, at the residual sum `x` after the feed-forward: `norm(x + A(norm(x)))`.

    `norm` is the block's own post-norm (BERT); pre-norm blocks have none there and it is the identity.
    """

    source: ClassVar[str] = "Pfeiffer et al. 2021, arXiv 2005.00247"

    roles: frozenset[str] = frozenset({"ffn.add"})

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return base(x + self.adapter(params, base(x), base))


@dataclass(frozen=True, kw_only=True)
class ParallelAdapter(Bottleneck):
    """`FFN(x) + s A(x)`: beside the feed-forward, from its input. `learned_scale` trains `s` from `scale`.

    `W_down` starts Kaiming-uniform and `W_up` at zero, as LoRA's matrices do. Parameters per site: `2 d m + m + d`, and
    one for a learned scale.
    """

    source: ClassVar[str] = "He et al. 2022, arXiv 2110.04366, table 1"

    scale: float = 4.0
    learned_scale: bool = False
    roles: frozenset[str] = frozenset({"ffn"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        made, bound = super().init(site, generator), 1 / math.sqrt(site.d_in)
        made["down"].uniform_(-bound, bound, generator=generator)  # kaiming_uniform with a = sqrt(5)
        return made | ({"scale": torch.full((1,), self.scale)} if self.learned_scale else {})

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return base(x) + self.adapter(params, x, base)


def _square(site: Site) -> Site:
    """The site seen from its output, for adapters that read the layer's output."""
    return replace(site, d_in=site.d_out)
