"""Class parameters made from a class's support rows by a network that is learned over tasks (LEOPARD's generator)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.attach import Adapted
from handful.inner import Model
from handful.noise import Noise
from handful.scoring import linear_scores, prototypes
from handful.types import Batch, Params

M = TypeVar("M", bound=Model)
WIDTH = 256
"""Width of the space in which classes are told apart, as in the authors' code."""


@dataclass(frozen=True)
class Generated:
    """A model whose features are `[g(h), psi(h)]` of the features h of another, both two-layer perceptrons.

    Rows are told apart by g; the start of class n's weight and bias is the mean of psi over its support rows, zero for
    a class without any. Source: Bansal et al. 2020 (arXiv 1911.03863), section 3.1, with the widths of their code.
    """

    model: Model
    weights: Mapping[str, Tensor]

    @property
    def adapted(self) -> Adapted | None:
        return getattr(self.model, "adapted", None)

    def __call__(self, params: Params, batch: Batch, noise: Noise | None = None) -> Tensor:
        return self.read(params["head"], self.features(params, batch, noise), batch)

    def features(self, params: Params, batch: Batch, noise: Noise | None = None, second_order: bool = False) -> Tensor:
        """`[T?, B, 2 W + 1]`."""
        h = self.model.features(params, batch, noise, second_order)
        return torch.cat([self._perceptron("g", h), self._perceptron("psi", h)], -1)

    def read(self, head: Mapping[str, Tensor], x: Tensor, batch: Batch) -> Tensor:
        """Scores `[T?, B, C]`, or `[T?, B, S, C]` of tokens, of what `features` gave."""
        width = head["weight"].shape[-1]
        return linear_scores(head, x[..., :width], batch)

    def prototypes(self, x: Tensor, batch: Batch, num_classes: int) -> dict[str, Tensor]:
        """The generated head: `weight [T?, C, W]` and `bias [T?, C]`."""
        assert batch.labels is not None
        width = (x.shape[-1] - 1) // 2
        made = prototypes(x[..., width:], batch.labels, batch.row_mask, num_classes)
        return {"weight": made[..., :-1], "bias": made[..., -1]}

    def _perceptron(self, name: str, h: Tensor) -> Tensor:
        w = self.weights
        z = torch.tanh(F.linear(h, w[f"{name}.in.weight"], w[f"{name}.in.bias"]))
        return F.linear(z, w[f"{name}.out.weight"], w[f"{name}.out.bias"])


def applied(model: M, learned: Params) -> M | Generated:
    """`model` with the generator that `learned` holds, itself where there is none."""
    return Generated(model, learned["generator"]) if "generator" in learned else model


def init(d: int, width: int = WIDTH, *, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Fresh weights of g (D -> D/2 -> W) and psi (D -> D/2 -> W + 1) for features of width D."""
    random = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, out in (("g", width), ("psi", width + 1)):
        for layer, shape in (("in", (d // 2, d)), ("out", (out, d // 2))):
            bound = shape[1] ** -0.5
            weights[f"{name}.{layer}.weight"] = bound * (2 * torch.rand(shape, generator=random, dtype=dtype) - 1)
            weights[f"{name}.{layer}.bias"] = torch.zeros(shape[0], dtype=dtype)
    return weights
