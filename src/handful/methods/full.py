"""Full fine-tuning, as the difference to the backbone's own weights.

Covered are linear layers, norms and the pooler with their biases; tables of embeddings are not. The entries of all
covered tensors have one order: site by site, weight `[d_out, d_in]` (of a norm `[d]`) before bias `[d_out]`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import LINEARS, NORMS, Site


@dataclass(frozen=True, kw_only=True)
class DenseDelta(Method):
    """Full fine-tuning of linear layers, norms and biases: `theta = theta0 + delta`.

    `h = base(x) + dw x + db`, for a norm `base(x) + dw normalized(x) + db`. Parameters per site: all that it has.
    """

    source: ClassVar[str] = "a baseline of Guo et al. 2021, arXiv 2012.07463, table 1"
    roles: frozenset[str] = LINEARS | NORMS | {"pooler"}

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.zeros(shape) for name, shape in tensors_of(site).items()}

    def decays(self, name: str) -> bool:
        return False

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return moved(x, base, site, {name: params[name] for name in tensors_of(site)})


def tensors_of(site: Site) -> dict[str, tuple[int, ...]]:
    """The site's own tensors and their shapes, in order. ValueError where it has none."""
    if ("." not in site.role and site.role not in ("pooler", "projection")) or site.role.endswith((".add", ".kv")):
        raise ValueError(f"the role {site.role} has no weight of its own; linear layers, norms and the pooler have")
    shapes = {"dw": (site.d_out,) if "norm" in site.role else (site.d_out, site.d_in)}
    return shapes | {"db": (site.d_out,)} if site.has_bias else shapes


def size_of(site: Site) -> int:
    return sum(math.prod(shape) for shape in tensors_of(site).values())


def shaped(p: Tensor, shape: Sequence[int]) -> Tensor:
    """`[n]` or `[T, 1, n]` as a vector, or as a matrix `[..., a, b]`."""
    return p if len(shape) == 1 else p.reshape(*p.shape[:-2], *shape)


def moved(x: Any, base: Base, site: Site, delta: dict[str, Tensor]) -> Any:
    """The layer with `delta` added to its tensors."""
    y = base(x)
    if "dw" in delta:
        y = y + (base.normalized(x) * delta["dw"] if "norm" in site.role else x @ delta["dw"].mT)
    return y + delta["db"] if "db" in delta else y
