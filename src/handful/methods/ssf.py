"""SSF (Lian et al. 2022, arXiv 2210.08823): scaling and shifting what every layer answers."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import LINEARS, NORMS, Site


@dataclass(frozen=True, kw_only=True)
class SSF(Method):
    """`y = gamma * base(x) + beta` after every linear layer and norm, and after the patch embedding of images.

    `gamma` starts at one and `beta` at zero, exactly (the authors' code draws both around these, deviation 0.02).
    A norm without a shift gets no `beta`, so that all folds into the layers: `W' = gamma W`, `b' = gamma b + beta`.
    Parameters per site: `2 d_out`, or `d_out` at a norm without a shift.
    """

    source: ClassVar[str] = "Lian et al. 2022, arXiv 2210.08823"

    roles: frozenset[str] = LINEARS | NORMS | {"embeddings.projection"}

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        own = {"gamma": torch.ones(site.d_out), "beta": torch.zeros(site.d_out)}
        if "norm" in site.role and not site.has_bias:
            del own["beta"]
        return own

    def decays(self, name: str) -> bool:
        return name != "gamma"

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        y = params["gamma"] * base(x)
        return y + params["beta"] if "beta" in params else y
