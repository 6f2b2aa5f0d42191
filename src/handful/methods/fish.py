"""FISH Mask (Sung, Nair and Raffel 2021, arXiv 2111.09839): the weights with the largest Fisher information learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from handful.methods.base import Method
from handful.methods.full import DenseDelta, size_of
from handful.methods.sparse import SparseDelta, kept, sparse
from handful.types import Params, Site


@dataclass(frozen=True, kw_only=True)
class FishMask(DenseDelta):
    """The weights with the largest Fisher information are tuned, the others stay.

    `F_j = (1/N) sum_i (d log p(y_i | x_i) / d theta_j)^2` over the task's rows with their true labels; the
    `floor(fraction d)` largest of all d covered entries are tuned, from zero. Kept are k values.
    """

    source: ClassVar[str] = "Sung et al. 2021, arXiv 2111.09839, section 3"
    first: ClassVar[Literal["train", "fisher"]] = "fisher"
    refit: ClassVar[float] = 1.0
    fraction: float = 0.002

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        kept(self.fraction, sum(map(size_of, sites)))  # refused now, not after a pass over the rows
        return {}

    def finished(self, params: Params, sites: Sequence[Site]) -> tuple[Method, Params]:
        zero = {site.name: {name: torch.zeros_like(p) for name, p in params[site.name].items()} for site in sites}
        return SparseDelta(fraction=self.fraction, roles=self.roles), sparse(params, zero, sites, self.fraction)
