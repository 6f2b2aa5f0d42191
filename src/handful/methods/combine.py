"""Several methods at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from handful.methods.base import Base, Method

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from handful.types import Params, Site


@dataclass(frozen=True, kw_only=True)
class Union(Method):
    """Several methods together; where two act at one site, the later one goes around the earlier."""

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", frozenset().union(*(method.roles for method in self.methods)))

    @property
    def causal(self) -> bool:
        return all(method.causal for method in self.methods)

    def covers(self, site: Site) -> bool:
        return any(method.covers(site) for method in self.methods)

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        for i, method in enumerate(self.methods):
            covered = [site for site in sites if method.covers(site)]
            parts |= {f"{i}.{name}": value for name, value in method.shared(covered, generator).items()}
        return parts

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            f"{i}.{name}": value
            for i, method in enumerate(self.methods)
            if method.covers(site)
            for name, value in method.init(site, generator).items()
        }

    def rate(self, name: str) -> float:
        return self._of(name, lambda method, own: method.rate(own))

    def decays(self, name: str) -> bool:
        return self._of(name, lambda method, own: method.decays(own))

    def tied(self, name: str) -> bool:
        return self._of(name, lambda method, own: method.tied(own))

    def penalty(self, params: Params) -> Tensor | float:
        return sum(method.penalty(_parts(params, f"{i}.")) for i, method in enumerate(self.methods))

    def finished(self, params: Params, sites: Sequence[Site]) -> tuple[Method, Params]:
        methods: list[Method] = []
        kept: Params = {}
        for i, method in enumerate(self.methods):
            done, own = method.finished(_parts(params, f"{i}."), [site for site in sites if method.covers(site)])
            methods.append(done)
            for site, found in own.items():
                kept.setdefault(site, {}).update({f"{i}.{name}": p for name, p in found.items()})
        return (self, params) if methods == list(self.methods) else (Union(methods=tuple(methods)), kept)

    def _of(self, name: str, ask: Callable[[Method, str], Any]) -> Any:
        """What the part that brings the parameter `name` says of it."""
        i, _, own = name.partition(".")
        return ask(self.methods[int(i)], own)

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        layer = base
        for i, method in enumerate(self.methods):
            if method.covers(site):
                layer = cast("Base", _Nested(method, _part(params, f"{i}."), layer, site))
        return layer(x)


@dataclass(frozen=True)
class _Nested:
    """A tuned layer in the place of a frozen one."""

    method: Method
    params: dict[str, Tensor]
    base: Base
    site: Site

    def __call__(self, x: Any) -> Any:
        return self.method.apply(self.params, x, self.base, self.site)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


def _part(params: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _parts(params: Params, prefix: str) -> Params:
    found = {site: _part(own, prefix) for site, own in params.items()}
    return {site: own for site, own in found.items() if own}


def union(*methods: Method) -> Union:
    """`Union`, flattened."""
    flat = [part for method in methods for part in (method.methods if isinstance(method, Union) else (method,))]
    return Union(methods=tuple(flat))
