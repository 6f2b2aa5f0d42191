"""LayerNorm tuning: the scale and shift of every norm learn (a baseline in Liu et al. 2022 and Zhao et al. 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import NORMS, Site


@dataclass(frozen=True, kw_only=True)
class LayerNormTuning(Method):
    """`norm(x) * (w + dw) + (b + db)`, stored as the differences `dw` and, where the norm has a shift, `db`.

    Parameters per site: `d`, or `2 d` with a shift.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2205.05638, table 4; Zhao et al. 2023, arXiv 2312.11420"

    roles: frozenset[str] = NORMS

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        names = ("dw", "db") if site.has_bias else ("dw",)
        return {name: torch.zeros(site.d_out) for name in names}

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        y = base(x) + base.normalized(x) * params["dw"]
        return y + params["db"] if "db" in params else y
