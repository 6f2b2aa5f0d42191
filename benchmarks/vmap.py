"""The task dimension by batched products, by `torch.func.vmap` over `Method.apply`, and by a loop over the tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.subjects import minilm, random_rows, start, tasks_of
from benchmarks.timing import Report, compared, interleave
from torch import Tensor

from handful.attach import Adapted, attach, map_params
from handful.insertions import Base, Call
from handful.losses import cross_entropy
from handful.methods.base import Method
from handful.methods.bottleneck import Houlsby
from handful.methods.lora import LoRA
from handful.scoring import Classifier
from handful.sites import Place
from handful.types import Batch, Params

ROWS, LENGTH, COUNTS = 4, 32, (1, 4, 8, 32)
METHODS: dict[str, Method] = {"LoRA": LoRA(), "Houlsby": Houlsby()}


class VmapCall(Call):
    """A forward pass that runs `Method.apply`, written for one task, under `vmap` over the tasks."""

    def apply(self, place: Place, x: Any, base: Base) -> Any:
        def one(params: dict[str, Tensor], tokens: Tensor) -> Any:
            return self.method.apply(params, tokens, base, place.site)

        return torch.func.vmap(one)(self.params[place.site.name], x)

    def _broadcastable(self, p: Tensor) -> Tensor:
        return p


def run(quick: bool) -> Report:
    figures, seconds = [], {}
    for name, method in METHODS.items():
        adapted = attach(minilm(), method)
        for num_tasks in (1, 8) if quick else COUNTS:
            runs = variants(adapted, num_tasks, times=max(1, 16 // num_tasks))
            timings = interleave(runs, 3 if quick or num_tasks > 8 else 5)
            title = f"{name}, {num_tasks} tasks"
            seconds[title] = timings.medians()
            figures.append(compared(f"{title}: vmap / batched", timings, "vmap", "batched"))
            figures.append(compared(f"{title}: loop / batched", timings, "loop", "batched"))
    return Report(figures, {"rows_a_task": ROWS, "length": LENGTH, "seconds": seconds})


def variants(adapted: Adapted, num_tasks: int, times: int) -> dict[str, Callable[[], None]]:
    """Three ways to the same gradients of all tasks, each `times` times."""
    rows = tasks_of(random_rows(num_tasks * ROWS, LENGTH), num_tasks, ROWS)
    batch = rows.take(torch.arange(num_tasks), torch.arange(ROWS).expand(num_tasks, -1))
    params = map_params(lambda p: p.requires_grad_(), start(adapted, num_tasks))
    model = Classifier(adapted)

    def batched() -> None:
        for _ in range(times):
            gradients(model, params, batch)

    def vmap() -> None:
        with patch("handful.attach.Call", VmapCall):
            batched()

    def loop() -> None:
        for _ in range(times):
            for t in range(num_tasks):
                gradients(model, map_params(lambda p, t=t: p[t].detach().requires_grad_(), params), alone(batch, t))

    return {"batched": batched, "vmap": vmap, "loop": loop}


def gradients(model: Classifier, params: Params, batch: Batch) -> list[Tensor]:
    assert batch.labels is not None
    loss = cross_entropy(model(params, batch), batch.labels).mean(-1).sum()
    return list(torch.autograd.grad(loss, [p for own in params.values() for p in own.values()]))


def alone(batch: Batch, task: int) -> Batch:
    """One task's rows, without the task dimension."""
    assert batch.labels is not None
    assert batch.class_mask is not None
    inputs = {name: value[task] for name, value in batch.inputs.items()}
    return Batch(inputs, batch.row_mask[task], batch.labels[task], batch.class_mask[task])
