"""A method that lives outside the package: `pip install ./examples/toy_plugin`, then `handful fit ... --recipe toy`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handful import Method, Site


@dataclass(frozen=True, kw_only=True)
class Shift(Method):
    """`base(x) (1 + s) + b` with `s, b [d_out]` zero at the start: a scaled and shifted feed-forward layer."""

    roles: frozenset[str] = frozenset({"ffn.out"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        return {"s": torch.zeros(site.d_out), "b": torch.zeros(site.d_out)}

    def apply(self, params: dict[str, Tensor], x: Any, base: Any, site: Site) -> Any:
        return base(x) * (1 + params["s"]) + params["b"]
