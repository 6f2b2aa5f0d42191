"""Few entries of the backbone's weights, chosen from all of them: `full.py` says which those are, and their order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from handful.errors import MethodError
from handful.methods.base import Base, Method
from handful.methods.full import DenseDelta, moved, shaped, size_of, tensors_of
from handful.types import LINEARS, NORMS, Params, Site


@dataclass(frozen=True, kw_only=True)
class SparseDelta(Method):
    """Few entries of the backbone's weights: `theta = theta0 + delta`, `delta` zero but for k values.

    `k = floor(fraction d)` of the d covered entries. Fresh ones lie at random, each task's its own; other methods
    choose them. `index [k]`, ascending, and `value [k]` are held once for all sites, `start` says where each begins.
    On disk an entry takes 8 bytes, half of them for its position. `speed` multiplies the learning rate.
    """

    source: ClassVar[str] = "Guo et al. 2021, arXiv 2012.07463, section 3; random masks are a baseline"
    fraction: float = 0.005
    speed: float = 1.0
    roles: frozenset[str] = LINEARS | NORMS | {"pooler"}

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        size_of(site)
        return {"site": torch.tensor([site.index])}

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        size, seed = sum(map(size_of, sites)), int(torch.randint(2**62, (), generator=generator))
        k = kept(self.fraction, size)
        chosen = np.random.default_rng(seed).choice(size, k, replace=False, shuffle=False)
        return _stored(torch.from_numpy(chosen).sort().values, torch.zeros(k), sites)

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        shapes = tensors_of(site)
        parts = self._dense(params, size_of(site)).split([math.prod(shape) for shape in shapes.values()], -1)
        delta = zip(shapes.items(), parts, strict=True)
        return moved(x, base, site, {name: shaped(part, shape) for (name, shape), part in delta})

    def decays(self, name: str) -> bool:
        return False

    def rate(self, name: str) -> float:
        return self.speed

    def _dense(self, params: dict[str, Tensor], size: int) -> Tensor:
        """The entries of one site, `[size]` or `[T, 1, size]`, from those of its stretch of `index`."""
        index, start = params["index"].long(), params["start"].gather(-1, params["site"])
        first, stop = torch.searchsorted(index, start), torch.searchsorted(index, start + size)
        at = first + torch.arange(int((stop - first).max()), device=index.device)  # as many as the widest task has
        near = at.clamp(max=index.shape[-1] - 1)
        where, value = torch.where(at < stop, index.gather(-1, near) - start, size), params["value"].gather(-1, near)
        return value.new_zeros(*value.shape[:-1], size + 1).scatter(-1, where, value)[..., :size]


@dataclass(frozen=True, kw_only=True)
class MagnitudePruning(DenseDelta):
    """Full fine-tuning, of which the entries that moved furthest are kept and tuned on (the "non-adaptive" baseline).

    Kept are `floor(fraction d)` of the d covered entries, by `|delta|`; `speed` multiplies the rate of tuning on.
    Trained parameters per site: all that it has; kept are k values.
    """

    source: ClassVar[str] = "Guo et al. 2021, arXiv 2012.07463, section 5.1"
    refit: ClassVar[float] = 1.0
    fraction: float = 0.005
    speed: float = 5.0

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        kept(self.fraction, sum(map(size_of, sites)))  # refused now, not after training
        return {}

    def finished(self, params: Params, sites: Sequence[Site]) -> tuple[Method, Params]:
        delta = self.delta(params, sites)
        size = {site: {name: p.abs() for name, p in own.items()} for site, own in delta.items()}
        method = SparseDelta(fraction=self.fraction, speed=self.speed, roles=self.roles)
        return method, sparse(size, delta, sites, self.fraction)

    def delta(self, params: Params, sites: Sequence[Site]) -> Params:
        """What is pruned."""
        return params


def kept(fraction: float, size: int) -> int:
    """`floor(fraction size)`, at least one of the entries. MethodError where that is not so."""
    k = math.floor(round(fraction * size, 6)) if 0 < fraction <= 1 else 0  # rounded: 0.29 * 100 is 28.999...
    if k < 1:
        raise MethodError(
            f"A fraction {fraction} of the backbone's {size:,} weights was to be tuned.",
            "That is none of them." if 0 <= fraction <= 1 else "That is no share.", f"Choose {1 / size:.1g} to 1.",
        )  # fmt: skip
    return k


def sparse(score: Params, delta: Params, sites: Sequence[Site], fraction: float) -> Params:
    """The entries of `delta` with the highest scores, exactly k; of equal ones the first. Params of a SparseDelta."""
    flat, values = (torch.cat([p[s.name][n].flatten() for s in sites for n in tensors_of(s)]) for p in (score, delta))
    k = kept(fraction, len(flat))
    least = flat.topk(k, sorted=False).values.min()
    above = flat > least
    above[torch.nonzero(flat == least)[: k - int(above.sum()), 0]] = True
    index = torch.nonzero(above)[:, 0]
    own = {site.name: {"site": torch.tensor([site.index], device=flat.device)} for site in sites}
    return own | {"shared": _stored(index, values[index], sites)}


def _stored(index: Tensor, value: Tensor, sites: Sequence[Site]) -> dict[str, Tensor]:
    start = torch.zeros(1 + max(site.index for site in sites), dtype=torch.long, device=index.device)
    start[[site.index for site in sites]] = torch.tensor([0, *map(size_of, sites)], device=index.device).cumsum(0)[:-1]
    short = sum(map(size_of, sites)) < 2**31
    return {"index": index.int() if short else index, "value": value, "start": start}
