"""A training step (forward, loss, backward, update) in all layers, against a frozen forward of the same rows."""

from __future__ import annotations

from benchmarks.subjects import (
    Peer,
    frozen_forward,
    peft_ia3,
    peft_lora,
    random_labels,
    random_rows,
    tasks_of,
    training,
)
from benchmarks.timing import Report, compared, interleave

from handful.methods.base import Method
from handful.methods.bottleneck import Houlsby, Pfeiffer
from handful.methods.ia3 import IA3
from handful.methods.lora import LoRA
from handful.types import LINEARS

ROWS, LENGTH, TARGET = 32, 64, 2.25
METHODS: dict[str, Method] = {
    "LoRA": LoRA(),
    "LoRA, all linears": LoRA(roles=LINEARS),
    "(IA)^3": IA3(),
    "Houlsby": Houlsby(),
    "Pfeiffer": Pfeiffer(),
}


def run(quick: bool) -> Report:
    steps = 1 if quick else 2
    pool, labels = random_rows(ROWS, LENGTH), random_labels(ROWS)
    ours = {name: training(method, tasks_of(pool, 1, ROWS), steps) for name, method in METHODS.items()}
    peers = {
        "peft LoRA": Peer(peft_lora()),
        "peft LoRA, dropout off": Peer(peft_lora(), dropout=False),
        "peft LoRA, all linears": Peer(peft_lora(linears=True)),
        "peft (IA)^3": Peer(peft_ia3()),
    }
    theirs = {name: peer.steps(pool, labels, steps) for name, peer in peers.items()}
    timings = interleave({"frozen": frozen_forward(pool, steps), **ours, **theirs}, 3 if quick else 7)
    figures = [compared(f"{name}: step / frozen forward", timings, name, "frozen", TARGET) for name in ours]
    figures += [compared(f"{name}: step / frozen forward", timings, name, "frozen") for name in theirs]
    return Report(figures, {"rows": ROWS, "length": LENGTH, "steps_a_run": steps, "seconds": timings.medians()})
