"""Randomness that belongs to a row: the same row gets the same dropout whatever shares its batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

_MIX = 0x9E3779B97F4A7C15


def mix(*parts: int) -> int:
    """A 63-bit seed from integers, the same on every machine (splitmix64)."""
    state = 0
    for part in parts:
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) + _MIX & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


class Noise:
    """The randomness of one forward pass.

    rows   one seed for each row `[R]` of the batch, or a function that makes them should anything be random
    tasks  one seed for each task, for what a task draws once a step
    """

    def __init__(self, rows: Sequence[int] | Callable[[], Sequence[int]], tasks: Sequence[int] = ()) -> None:
        self._given, self._tasks = rows, tasks

    @cached_property
    def seeds(self) -> Sequence[int]:
        return self._given() if callable(self._given) else self._given

    def uniform(self, shape: Sequence[int], site: int, name: str) -> Tensor:
        """Numbers in [0, 1) of each task, `[T, *shape]`."""
        if not self._tasks:
            raise ValueError("this noise has no seeds of tasks")
        seeds = [mix(seed, site, zlib.crc32(name.encode())) for seed in self._tasks]
        return torch.stack([torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def dropout(self, x: Tensor, p: float, site: int) -> Tensor:
        """Inverted dropout of `x [..., D]` whose leading dimensions hold the R rows in order.

        Masks are drawn by row and token, longest first, so that padding a row further does not change its start.
        """
        tokens, width = x.numel() // (len(self.seeds) * x.shape[-1]), x.shape[-1]
        keep = torch.stack(
            [
                torch.rand(tokens, width, generator=torch.Generator().manual_seed(mix(seed, site))) >= p
                for seed in self.seeds
            ]
        )
        return x * keep.to(device=x.device, dtype=x.dtype).reshape(x.shape) / (1 - p)
