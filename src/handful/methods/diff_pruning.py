"""Diff pruning (Guo, Rush and Kim 2021, arXiv 2012.07463): gates learn which weights may differ from the backbone's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.methods.base import Base
from handful.methods.full import moved, tensors_of
from handful.methods.sparse import MagnitudePruning
from handful.types import Params, Site

LOW, HIGH = -1.5, 1.5
"""l and r: the interval to which a gate's sigmoid is stretched before it is clamped to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class DiffPruning(MagnitudePruning):
    """`theta = theta0 + z_g z w`: hard-concrete gates `z`, which an expected-L0 penalty closes, say what is kept.

    `z = min(1, max(0, s (r - l) + l))`, `s = sigmoid(logit(u) + alpha)`, `u ~ U(0, 1)` anew at each step, for each
    entry and, if `structured`, for each tensor `g`; evaluation takes `u = 0.5`. Start: `w = 0`, `alpha = gate`.

    The penalty is `lambda sum_g P(z_g > 0) sum_i P(z_i > 0)`, `P(z > 0) = sigmoid(alpha - log(-l / r))`; the released
    code adds the sums over entries and over tensors, as `additive_penalty` does. `penalty_weight` is lambda; None is
    the paper's 1.25e-7 for 3.3e8 entries, scaled to d. After training `z` is drawn once from `draw_seed` (u = 0.5 if
    `deterministic`), the `floor(fraction d)` largest `|z_g z w|` are kept and tuned on without gates.

    `alpha_rate` is alpha's learning rate over w's. Adam moves alpha by about a rate a step and it has 5 to go, so its
    rate is to be near 0.1 with hundreds of steps, as in the paper (w: 1e-5), and higher with fewer.
    Trained parameters per site: `2 n`, one more a tensor if structured, for its n entries; kept are k values.
    """

    source: ClassVar[str] = "Guo et al. 2021, arXiv 2012.07463, sections 3.1 to 3.3"
    structured: bool = True
    additive_penalty: bool = False
    penalty_weight: float | None = None
    gate: float = 5.0
    alpha_rate: float = 1000.0
    draw_seed: int = 0
    deterministic: bool = False

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        params: dict[str, Tensor] = {}
        for name, shape in tensors_of(site).items():
            params |= {f"w_{name}": torch.zeros(shape), f"alpha_{name}": torch.full(shape, self.gate)}
            params |= {f"alpha_g_{name}": torch.tensor(self.gate)} if self.structured else {}
        return params

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return moved(x, base, site, self._gated(params, site, base.uniform))

    def _gated(self, params: dict[str, Tensor], site: Site, uniform: Any) -> dict[str, Tensor]:
        delta: dict[str, Tensor] = {}
        for name, shape in tensors_of(site).items():
            z = hard_concrete(params[f"alpha_{name}"], uniform(name, *shape))
            if self.structured:
                z = z * hard_concrete(params[f"alpha_g_{name}"], uniform(f"{name} gate", 1))
            delta[name] = z * params[f"w_{name}"]
        return delta

    def rate(self, name: str) -> float:
        return self.alpha_rate if name.startswith("alpha") else 1.0

    def penalty(self, params: Params) -> Tensor | float:
        terms, size = list[Tensor](), 0
        for own, name in [(p, name[2:]) for p in params.values() for name in p if name.startswith("w_")]:
            entries = open_probability(own[f"alpha_{name}"]).flatten(1)
            size += entries.shape[1]
            terms.append(entries.sum(1))
            if self.structured:
                group = open_probability(own[f"alpha_g_{name}"])
                terms[-1] = terms[-1] + group if self.additive_penalty else terms[-1] * group
        weight = 1.25e-7 * 3.3e8 / size if self.penalty_weight is None else self.penalty_weight
        return weight * torch.stack(terms).sum(0)

    def delta(self, params: Params, sites: Sequence[Site]) -> Params:
        generator = torch.Generator().manual_seed(self.draw_seed)

        def uniform(_: str, *shape: int) -> Tensor | None:
            return None if self.deterministic else torch.rand(shape, generator=generator)

        return {site.name: self._gated(params[site.name], site, uniform) for site in sites}


def hard_concrete(alpha: Tensor, u: Tensor | None) -> Tensor:
    """The gate `z` of `alpha` for uniform noise `u`, None for 0.5; computed in single precision at least."""
    s = alpha.to(torch.promote_types(alpha.dtype, torch.float32))
    if u is not None:
        s = s + torch.logit(u.to(s), eps=1e-4)
    return (torch.sigmoid(s) * (HIGH - LOW) + LOW).clamp(0, 1).to(alpha)


def open_probability(alpha: Tensor) -> Tensor:
    """`P(z > 0)`."""
    return torch.sigmoid(alpha - math.log(-LOW / HIGH))
