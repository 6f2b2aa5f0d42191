"""A first-order meta-step over T tasks at once, against cloning and adapting `peft`'s parameters task by task."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.subjects import CLASSES, minilm, peft_lora, plain_model, random_rows, tasks_of
from benchmarks.timing import Figure, Report, compared, interleave
from torch import Tensor, nn
from torch.func import functional_call

from handful.attach import attach
from handful.batches import Rows
from handful.inner import Inner
from handful.losses import cross_entropy
from handful.meta import Maml
from handful.methods import method
from handful.outer import outer_gradient
from handful.scoring import Classifier

LENGTH, STEPS, LR = 32, 2, 0.01
SHAPES = ((1, 4), (4, 4), (8, 4), (16, 4), (32, 4), (4, 16), (8, 16), (16, 16), (32, 16))
"""Tasks, and rows of each as support and as query."""
TARGETS = {(8, 4): 0.8}
"""A meta-step of eight tasks of four rows takes at most 1 / 1.25 of the loop's time; no other one takes longer."""


def run(quick: bool) -> Report:
    """FOMAML with two inner steps on LoRA of query and value and on the head; the same rows and labels for both."""
    figures, seconds, loop = list[Figure](), {}, Loop()
    for tasks, rows in SHAPES[2:3] if quick else SHAPES:
        support, query = (tasks_of(random_rows(tasks * rows, LENGTH, seed), tasks, rows) for seed in (1, 2))
        pair = {"loop": lambda s=support, q=query: loop.step(s, q), "handful": _ours(support, query)}
        timings = interleave(pair, 2 if quick else 7 if tasks * rows < 128 else 5)
        name = f"{tasks} tasks of {rows} rows: meta-step / loop's"
        figures.append(compared(name, timings, "handful", "loop", TARGETS.get((tasks, rows), 1.0)))
        seconds[f"{tasks}x{rows}"] = timings.medians()
    return Report(figures, {"length": LENGTH, "inner_steps": STEPS, "seconds": seconds})


def _ours(support: Rows, query: Rows) -> Callable[[], None]:
    adapted = attach(minilm(), method("lora"))
    model, learned = Classifier(adapted), adapted.init(0)
    learned["head"] = {"weight": torch.zeros(CLASSES, 384), "bias": torch.zeros(CLASSES)}
    algorithm = Maml(Inner(steps=STEPS, lr=LR), "learned")

    def step() -> None:
        outer_gradient(algorithm, model, learned, support, query, cross_entropy)

    return step


class Loop:
    """Clone, adapt, ask, add up: as a reader of the MAML paper writes it, first order, without dropout."""

    def __init__(self) -> None:
        from peft import get_peft_model

        self.model = get_peft_model(plain_model(), peft_lora()).eval()  # type: ignore[arg-type]
        self.head = nn.Linear(384, CLASSES)
        for p in self.head.parameters():
            nn.init.zeros_(p)
        self.names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        own = dict(self.model.named_parameters())
        self.learned = [own[name] for name in self.names] + list(self.head.parameters())

    def loss(self, values: list[Tensor], inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        *own, weight, bias = values
        hidden = functional_call(self.model, dict(zip(self.names, own, strict=True)), (), inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(hidden.dtype)
        return F.cross_entropy(F.linear((hidden * mask).sum(1) / mask.sum(1), weight, bias), labels)

    def step(self, support: Rows, query: Rows) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in self.learned]
        for t in range(support.num_tasks):
            values = [p.detach().clone().requires_grad_() for p in self.learned]
            for _ in range(STEPS):
                grads = torch.autograd.grad(self.loss(values, *_task(support, t)), values)
                values = [(p - LR * g).detach().requires_grad_() for p, g in zip(values, grads, strict=True)]
            for sum_, own in zip(total, torch.autograd.grad(self.loss(values, *_task(query, t)), values), strict=True):
                sum_ += own
        return total


def _task(rows: Rows, t: int) -> tuple[dict[str, Tensor], Tensor]:
    return {name: value[rows.index[t]] for name, value in rows.pool.inputs.items()}, rows.labels[t]
