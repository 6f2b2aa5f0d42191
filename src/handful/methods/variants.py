"""A method with something changed: on some blocks only, or with parameters that tasks hold in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from handful.methods.base import Base, Method

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from handful.types import Params, Site


@dataclass(frozen=True, kw_only=True)
class Inner(Method):
    """A method that is `method` in all but what a subclass says."""

    method: Method

    def __post_init__(self) -> None:
        for name in ("roles", "first", "refit"):
            object.__setattr__(self, name, getattr(self.method, name))

    @property
    def causal(self) -> bool:
        return self.method.causal

    def covers(self, site: Site) -> bool:
        return self.method.covers(site)

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        return self.method.shared(sites, generator)

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        return self.method.init(site, generator)

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return self.method.apply(params, x, base, site)

    def rate(self, name: str) -> float:
        return self.method.rate(name)

    def decays(self, name: str) -> bool:
        return self.method.decays(name)

    def tied(self, name: str) -> bool:
        return self.method.tied(name)

    def penalty(self, params: Params) -> Tensor | float:
        return self.method.penalty(params)

    def finished(self, params: Params, sites: Sequence[Site]) -> tuple[Method, Params]:
        method, kept = self.method.finished(params, sites)
        return replace(self, method=method), kept


@dataclass(frozen=True, kw_only=True)
class OnLayers(Inner):
    """A method on blocks `start` (inclusive) to `stop` (exclusive) only; negative numbers count from the top."""

    start: int = 0
    stop: int | None = None

    def covers(self, site: Site) -> bool:
        inside = range(site.num_layers)[slice(self.start, self.stop)]
        return site.layer in inside and self.method.covers(site)


@dataclass(frozen=True, kw_only=True)
class OverTasks(Inner):
    """A method whose tasks, where they are trained together, hold the parameters called `names` in common.

    Sung et al. 2022 (arXiv 2112.06825, section 3.3): all of them (None) are the single adapter, `{"up", "up_bias"}` of
    a bottleneck half-shared ones, none (an empty set) multiple adapters. What is common starts from `start_seed`, not
    from a task's own.
    """

    names: frozenset[str] | None = None
    start_seed: int = 0

    def tied(self, name: str) -> bool:
        return self.names is None or name in self.names or self.method.tied(name)

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        common = self.method.init(site, generator.clone_state().manual_seed(self.start_seed + site.index))
        return {name: common[name] if self.tied(name) else p for name, p in self.method.init(site, generator).items()}

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        common = self.method.shared(sites, generator.clone_state().manual_seed(self.start_seed))
        own = self.method.shared(sites, generator)
        return {name: common[name] if self.tied(name) else p for name, p in own.items()}
