"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): only the bias terms learn."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import LINEARS, NORMS, Site


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """`h = base(x) + b` wherever the backbone has a bias; `add_missing` also gives one to layers without.

    T5 and Llama have no biases, so there `add_missing` must be asked for. The variant of two biases a block, of queries
    and of the first feed-forward layer, is `roles={"attention.query", "ffn.in"}`. Parameters per site: `d_out`.
    """

    source: ClassVar[str] = "Ben Zaken et al. 2022, arXiv 2106.10199"

    add_missing: bool = False
    roles: frozenset[str] = LINEARS | NORMS | {"pooler", "embeddings.projection"}

    def covers(self, site: Site) -> bool:
        return site.role in self.roles and (site.has_bias or self.add_missing)

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        return {"b": torch.zeros(site.d_out)}

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return base(x) + params["b"]
