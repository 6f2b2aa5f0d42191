"""Interleaved timings: A B A B ..., the ratio of each pair, their median and quartiles."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any, Literal

Run = Callable[[], object]
Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Ratio:
    """The median of ratios of neighbouring runs, and their quartiles."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Ratio:
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
        return Ratio(median(values), low, high)

    @staticmethod
    def exact(value: float) -> Ratio:
        """A number that was counted and has no spread."""
        return Ratio(value, value, value)


@dataclass(frozen=True)
class Timings:
    """Seconds of each run by its name, in the order in which the rounds were made."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]

    def ratio(self, a: str, b: str, clock: Clock = "wall", scale: float = 1.0) -> Ratio:
        """Time of `a` over time of `b`, times `scale`, round by round."""
        seconds = self.wall if clock == "wall" else self.cpu
        return Ratio.of([scale * x / max(y, 1e-9) for x, y in zip(seconds[a], seconds[b], strict=True)])

    def medians(self) -> dict[str, dict[str, float]]:
        return {
            name: {"wall_s": round(median(self.wall[name]), 4), "cpu_s": round(median(self.cpu[name]), 4)}
            for name in self.wall
        }


def interleave(runs: Mapping[str, Run], repeats: int, *, warm: int = 1) -> Timings:
    """Times runs in turn, `repeats` rounds after `warm` that are not counted; `{"a": a, "b": b}` for a pair.

    Every other round goes backwards, so that a run does not always follow the same neighbour.
    """
    timings = Timings({name: [] for name in runs}, {name: [] for name in runs})
    for number in range(-warm, repeats):
        for name in list(runs) if number % 2 == 0 else list(reversed(runs)):
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name]()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number >= 0:
                timings.wall[name].append(wall)
                timings.cpu[name].append(cpu)
    return timings


@dataclass(frozen=True)
class Figure:
    """One line of the table: a ratio, and where there is one, its target."""

    name: str
    wall: Ratio
    target: float | None = None
    sense: Literal["<=", ">="] = "<="
    cpu: Ratio | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the wall clock's median meets the target; None where there is none."""
        if self.target is None:
            return None
        return self.wall.value <= self.target if self.sense == "<=" else self.wall.value >= self.target

    def to_json(self) -> dict[str, Any]:
        return _rounded({**asdict(self), "reached": self.reached})


def compared(
    name: str, timings: Timings, a: str, b: str, target: float | None = None,
    sense: Literal["<=", ">="] = "<=", scale: float = 1.0, note: str = "",
) -> Figure:  # fmt: skip
    """The figure of `a` over `b` by both clocks."""
    wall, cpu = (timings.ratio(a, b, clock, scale) for clock in ("wall", "cpu"))
    return Figure(name, wall, target, sense, cpu, note)


@dataclass(frozen=True)
class Report:
    """What a benchmark returns: its figures, and the numbers behind them."""

    figures: Sequence[Figure]
    details: Mapping[str, Any] = field(default_factory=dict)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
