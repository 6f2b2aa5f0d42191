"""What the frozen part need not compute again: LoRA in the top layers, a side network and a head on cached states."""

from __future__ import annotations

import torch
from benchmarks.subjects import Peer, minilm, peft_lora, random_labels, random_rows, tasks_of, training
from benchmarks.timing import Report, compared, interleave

from handful.attach import Adapted, attach
from handful.methods.ladder import LadderSide
from handful.methods.lora import LoRA
from handful.methods.variants import OnLayers
from handful.scoring import Classifier
from handful.types import Batch

ROWS, LENGTH, BLOCKS = 32, 64, 6


def run(quick: bool) -> Report:
    steps = 1 if quick else 3
    pool, labels = random_rows(ROWS, LENGTH), random_labels(ROWS)
    runs = {}
    for top in (1, 2, 3):
        adapted = attach(minilm(), OnLayers(method=LoRA(), start=-top))
        runs[f"top {top}, cached"] = training(adapted, tasks_of(with_states(adapted, pool), 1, ROWS), steps)
        runs[f"top {top}, peft"] = Peer(peft_lora(list(range(BLOCKS - top, BLOCKS)))).steps(pool, labels, steps)
    side = attach(minilm(), LadderSide())
    runs["side network"] = training(side, tasks_of(with_states(side, pool), 1, ROWS), steps)
    with torch.no_grad():
        features = Classifier(attach(minilm(), LoRA())).features(attach(minilm(), LoRA()).init(0), pool)
    on_features = Batch({"features": features}, pool.row_mask)
    runs["head"] = training(None, tasks_of(on_features, 1, ROWS), 40 * steps)
    runs["all layers, peft"] = Peer(peft_lora()).steps(pool, labels, steps)
    timings = interleave(runs, 3 if quick else 7)
    figures = [
        compared(
            f"LoRA in the top {top} of {BLOCKS}: peft / cached", timings, f"top {top}, peft", f"top {top}, cached",
            2.0 if top == 2 else None, ">=",
        )
        for top in (1, 2, 3)
    ]  # fmt: skip
    figures += [
        compared("ladder side network, cached: peft LoRA / it", timings, "all layers, peft", "side network", 5.0, ">="),
        compared("head on cached features: peft LoRA / it", timings, "all layers, peft", "head", 5.0, ">=", scale=40),
    ]
    return Report(figures, {"rows": ROWS, "length": LENGTH, "steps_a_run": steps, "seconds": timings.medians()})


def with_states(adapted: Adapted, pool: Batch) -> Batch:
    """The pool with what the method cannot change, computed once."""
    return pool.with_inputs(states=adapted.freeze(pool))
