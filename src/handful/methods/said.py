"""Intrinsic SAID (Aghajanyan et al. 2021, arXiv 2012.13255): all weights move with one short vector."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.errors import MethodError
from handful.methods.base import Base, Method
from handful.methods.full import moved, shaped, tensors_of
from handful.types import LINEARS, NORMS, Site

LARGEST_KEPT = 2**20
"""Projections of more numbers than this are drawn anew each time: one of n numbers takes 9 n bytes."""


@dataclass(frozen=True, kw_only=True)
class IntrinsicSAID(Method):
    """`theta_i = theta0_i + lambda_i P_i(theta_d)`: one short vector moves all weights, by fixed random projections.

    `P_i` is a Fastfood transform (`fastfood`), drawn from `projection_seed` for each of the m tensors (weights, biases,
    norms), never stored. `dimension` is the number of trained parameters: `theta_d` (start: zero) has
    `dimension - m`, as there are m scales `lambda` (start: one). Without `structure` (DID) lambda stays one.

    `rank_one` projects to `[u, v]` for a matrix, which moves by `lambda u v^T`, as T-Few does for its size. Then
    matrices have no gradient while `theta_d` is zero: what moves it first are the vectors, or a random `start`.
    """

    source: ClassVar[str] = "Aghajanyan et al. 2021, arXiv 2012.13255, section 3"
    dimension: int = 20_000
    structure: bool = True
    rank_one: bool = False
    start: float = 0.0
    projection_seed: int = 0
    roles: frozenset[str] = LINEARS | NORMS | {"pooler"}

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        one = torch.ones(()) if self.structure else torch.ones((), dtype=torch.long)  # integers are not trained
        return {f"lambda_{name}": one.clone() for name in tensors_of(site)}

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        shapes = [shape for site in sites for shape in tensors_of(site).values()]
        scales = len(shapes) if self.structure else 0
        if self.dimension <= scales:
            raise MethodError(
                f"Intrinsic SAID of {self.dimension} dimensions was asked for.", f"{scales} of them are scales.",
                f"Choose a dimension of at least {scales + 1}, or structure=False.",
            )  # fmt: skip
        if self.rank_one and self.start == 0 and all(len(shape) == 2 for shape in shapes):
            raise MethodError(
                "Intrinsic SAID with rank_one=True was asked for, from zero.",
                "It has matrices only, and their gradients are zero there: it would never move.",
                "Choose start=0.01, or roles with norms or biases.",
            )
        return {"theta": torch.empty(self.dimension - scales).normal_(0, self.start, generator=generator)}

    def decays(self, name: str) -> bool:
        return False

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        delta, low = dict[str, Tensor](), 0
        for name, shape in tensors_of(site).items():
            seed, scale = zlib.crc32(f"{self.projection_seed} {site.name} {name}".encode()), params[f"lambda_{name}"]
            if self.rank_one and len(shape) == 2:
                u, v = fastfood(params["theta"], sum(shape), seed).split(shape, -1)
                low = scale * (x @ shaped(v, (1, shape[1])).mT) * u
            else:
                delta[name] = scale * shaped(fastfood(params["theta"], math.prod(shape), seed), shape)
        return moved(x, base, site, delta) + low


def fastfood(x: Tensor, size: int, seed: int) -> Tensor:
    """`H G Pi H B x / (sqrt(n sum G^2) sqrt(size / n))`, `[..., d]` -> `[..., size]`: a random projection.

    `B` signs, `Pi` permutation, `G` normal numbers, `H` Walsh-Hadamard; n is a power of two, to which `x` is padded
    and which holds `size` (the released code cuts `x` off where it is longer than that).
    """
    n = 1 << (max(x.shape[-1], size) - 1).bit_length()
    b, pi, g = (_kept if n <= LARGEST_KEPT else _drawn)(seed, n, x.device)
    y = F.pad(x.to(torch.promote_types(x.dtype, torch.float32)), (0, n - x.shape[-1]))
    norm = (n * g.double().square().sum()).sqrt() * math.sqrt(size / n)
    return (hadamard(hadamard(y * b).index_select(-1, pi) * g)[..., :size] / norm).to(x)


def _drawn(seed: int, n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    b = torch.randint(2, (n,), generator=generator, dtype=torch.int8) * 2 - 1
    pi, g = torch.randperm(n, generator=generator, dtype=torch.int32), torch.randn(n, generator=generator)
    return b.to(device), pi.to(device), g.to(device)


_kept = lru_cache(maxsize=512)(_drawn)


def hadamard(x: Tensor) -> Tensor:
    """The unnormalised Walsh-Hadamard transform of `[..., n]`: `H_n = H_a (x) H_b (x) ...` with factors up to 64."""
    n, left = x.shape[-1], x.shape[-1]
    while left > 1:
        size = min(left, 64)
        x = (x.unflatten(-1, (n // size, size)) @ _matrix(size).to(x)).mT.flatten(-2)
        left //= size
    return x


@lru_cache(maxsize=8)
def _matrix(size: int) -> Tensor:
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    return torch.ones(1, 1) if size == 1 else torch.kron(two, _matrix(size // 2))
