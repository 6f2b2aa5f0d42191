"""Randomness that belongs to a row: the same row gets the same dropout whatever shares its batch."""

from __future__ import annotations

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
    """One seed for each row `[R]` of the batch, or a function that makes them should anything be random."""

    def __init__(self, seeds: Sequence[int] | Callable[[], Sequence[int]]) -> None:
        self._given = seeds

    @cached_property
    def seeds(self) -> Sequence[int]:
        return self._given() if callable(self._given) else self._given

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
