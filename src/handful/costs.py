"""What a fit and a query cost: FLOPs, seconds, memory, bytes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from handful.backbone import Backbone
from handful.forward import run_backbone
from handful.types import Params


def count_flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of a call, by torch's counter: two for each multiply-add of matrix products."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._int_mm: _product_flops})
    with sdpa_kernel(SDPBackend.MATH), counter:  # the counter does not know the CPU's fused attention
        run()
    return int(counter.get_total_flops())


def _product_flops(a: Sequence[int], b: Sequence[int], **_: Any) -> int:
    """Of `a [m, k]` times `b [k, n]` in 8-bit integers, which torch's counter does not know."""
    return 2 * a[0] * a[1] * b[1]


def peak_memory(device: torch.device | None = None) -> int:
    """Largest memory so far in bytes: of the process, or of the accelerator that a device lies on."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass
class Stopwatch:
    """Wall-clock seconds and processor seconds of the work inside `measured`."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextmanager
def measured() -> Iterator[Stopwatch]:
    """Measures its body."""
    watch, wall, cpu = Stopwatch(), time.perf_counter(), time.process_time()
    try:
        yield watch
    finally:
        watch.seconds, watch.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu


def learning(params: Params, learns: Callable[[str, str], bool]) -> tuple[Params, list[Tensor]]:
    """Copies of a task's params, and those of them whose gradient is to be had: where `learns(site, name)`."""
    tree = {
        site: {n: p.clone().requires_grad_(p.is_floating_point() and learns(site, n)) for n, p in own.items()}
        for site, own in params.items()
    }
    return tree, [p for own in tree.values() for p in own.values() if p.requires_grad]


def backbone_flops(backbone: Backbone, tokens: int) -> int:
    """FLOPs of one frozen forward pass of a row of `tokens` tokens, counted once for each length."""
    return _forward_flops(backbone.fingerprint, tokens, _Counted(backbone))


def head_flops(rows: int, width: int, classes: int) -> int:
    """FLOPs of a training step of a linear head: scores, and the gradient of its weights."""
    return 4 * rows * width * classes


class _Counted:
    """A backbone as an argument that does not take part in the cache's key."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Counted)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=1024)
def _forward_flops(fingerprint: str, tokens: int, counted: _Counted) -> int:
    ids = torch.zeros(1, max(1, tokens), dtype=torch.long, device=counted.backbone.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        return count_flops(lambda: run_backbone(counted.backbone, inputs))
