"""(IA)^3 (Liu et al. 2022, arXiv 2205.05638, section 3.3): learned rescaling of keys, values and inner activations."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class IA3(Method):
    """`l_k * K`, `l_v * V` and `W2 (l_ff * act(W1 x))`, all vectors starting at one.

    What enters `ffn.out` is rescaled, at every other role what leaves. In a gated network the authors rescale the
    linear half, role `ffn.in`, which is the same; without a gate that would come before the activation.
    Parameters: `d_in` at `ffn.out`, `d_out` elsewhere.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2205.05638, section 3.3"

    roles: frozenset[str] = frozenset({"attention.key", "attention.value", "cross.key", "cross.value", "ffn.out"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        return {"l": torch.ones(site.d_in if site.role == "ffn.out" else site.d_out)}

    def decays(self, name: str) -> bool:
        return False

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return base(x * params["l"]) if site.role == "ffn.out" else base(x) * params["l"]
