"""Prefix tuning (Li & Liang 2021, arXiv 2101.00190): learned keys and values in front of every attention."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Params, Site

_ATTENTION = frozenset({"attention.kv", "cross.kv"})


@dataclass(frozen=True, kw_only=True)
class PrefixTuning(Method):
    """`K' = [P_K; K]`, `V' = [P_V; V]` with `P_K`, `P_V` `[num_tokens, d_kv]` in every attention layer.

    Not the identity at the start: real attention moves to the prefix. Parameters: `2 * num_tokens * d_kv` a layer.
    Position biases and masks are zero for the prefix; rotary positions are not applied to it. Real tokens keep their
    positions, in decoders too: the first one is at 0, where `peft` and the authors' code put it at `num_tokens`.
    """

    source: ClassVar[str] = "Li & Liang 2021, arXiv 2101.00190, section 4.2"

    num_tokens: int = 20
    std: float = 0.02
    roles: frozenset[str] = _ATTENTION

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        _some(self.num_tokens)
        return {
            name: torch.empty(self.num_tokens, site.d_out).normal_(0, self.std, generator=generator)
            for name in ("key", "value")
        }

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return _in_front(params["key"], params["value"], base(x))


@dataclass(frozen=True, kw_only=True)
class PrefixMLP(Method):
    """Prefix tuning that learns through `[P_K, P_V] = W_2 tanh(W_1 E + b_1) + b_2` and keeps `P_K` and `P_V` only.

    `E [num_tokens, D]` and `W_1 [width, D]` are one for all attention layers, `W_2` and `b_2` are each layer's own.
    Trained: `(q + width) D + width` once and `2 (width + 1) d_kv` a layer, with `D` the largest `d_kv`; kept after
    training: the `2 q d_kv` a layer of a `PrefixTuning`, which `finished` answers.
    """

    source: ClassVar[str] = "Li & Liang 2021, arXiv 2101.00190, section 4.3"

    num_tokens: int = 20
    width: int = 512
    roles: frozenset[str] = _ATTENTION

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        d = max(site.d_out for site in sites)
        return {
            "E": torch.empty(self.num_tokens, d).normal_(generator=generator),
            "W1": _uniform(self.width, d, fan_in=d, generator=generator),
            "b1": _uniform(self.width, fan_in=d, generator=generator),
        }

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        _some(self.num_tokens)
        made: dict[str, Tensor] = {}
        for name in ("key", "value"):
            made[name] = _uniform(site.d_out, self.width, fan_in=self.width, generator=generator)
            made[f"{name}_bias"] = _uniform(site.d_out, fan_in=self.width, generator=generator)
        return made

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        prefix = self._prefix(params)
        return _in_front(prefix["key"], prefix["value"], base(x))

    def finished(self, params: Params, sites: Sequence[Site]) -> tuple[Method, Params]:
        kept = {site.name: self._prefix(params[site.name] | params["shared"]) for site in sites}
        return PrefixTuning(num_tokens=self.num_tokens, roles=self.roles), kept

    def _prefix(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        inner = torch.tanh(params["E"] @ params["W1"].mT + params["b1"])
        return {name: inner @ params[name].mT + params[f"{name}_bias"] for name in ("key", "value")}


def _in_front(key: Tensor, value: Tensor, real: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Prefixes `[..., q, d]` in front of `(keys, values)`, each `[..., B, S, d_kv]`."""
    joined = zip((key, value), real, strict=True)
    return tuple(torch.cat([p.unsqueeze(-3).expand(*x.shape[:-2], -1, -1).to(x), x], dim=-2) for p, x in joined)


def _uniform(*shape: int, fan_in: int, generator: torch.Generator) -> Tensor:
    """The start of torch's own linear layers, of weight and bias."""
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)


def _some(num_tokens: int) -> None:
    if num_tokens < 1:
        raise ValueError(f"num_tokens {num_tokens} must be at least 1")
