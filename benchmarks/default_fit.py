"""The default fit, with folds, calibration and final model, against `peft` LoRA, 20 epochs, and without its prior."""

from __future__ import annotations

import importlib.util
import random
from functools import partial

import torch
from benchmarks.subjects import DATA, Peer, examples, minilm, peft_lora, realistic_texts, rows_of
from benchmarks.timing import Figure, Ratio, Report, compared, interleave

from handful.batches import gather, lengths
from handful.prompts import encode
from handful.types import Example, Task

SHOTS, EPOCHS, BATCH = 16, 20, 16
SETFIT_OVER_PEFT = 490 / 94
"""CPU seconds of setfit's default over those of the `peft` fit, measured once elsewhere, the former extrapolated."""


def run(quick: bool) -> Report:
    if importlib.util.find_spec("handful.classifier") is None:
        return Report([], {"skipped": "handful.classifier is not there"})
    from handful.classifier import FewShotClassifier
    from handful.features import memory
    from handful.recipes import recipe

    texts, labels = rows()
    epochs = 1 if quick else 4
    classes = sorted(set(labels))
    batch = encode(minilm(), examples(texts))
    y = torch.tensor([classes.index(label) for label in labels])
    task = Task(
        "reviews", [Example(text, label=label) for text, label in zip(texts, labels, strict=True)], tuple(classes)
    )
    peer = Peer(peft_lora(), classes=len(classes))

    def default() -> None:
        memory.cache_clear()  # nothing known beforehand
        FewShotClassifier(backbone="minilm", seed=0).fit(texts, labels)

    def fit(**options: str) -> None:
        memory.cache_clear()
        recipe("default")([task], minilm(), seed=0, **options)

    def peft() -> None:
        for epoch in range(epochs):
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(epoch))
            for part in order.split(BATCH):
                peer.step(gather(batch, part).inputs, y[part])

    timings = interleave({"default": default, "peft": peft}, 2 if quick else 3)
    plain = interleave({"with": fit, "without": partial(fit, prior="none")}, 3 if quick else 15)
    figure = compared(
        f"default fit / peft LoRA, {EPOCHS} epochs", timings, "default", "peft", 0.15, scale=epochs / EPOCHS
    )
    against = Figure(
        "default fit / setfit's default (not run here: from its ratio to peft)",
        *(Ratio(*(x / SETFIT_OVER_PEFT for x in (figure.wall.value, figure.wall.low, figure.wall.high))),),
        target=1 / 30,
    )
    prior = compared("default fit with the shipped prior / without", plain, "with", "without", 1.0)
    details = {
        "classes": len(classes), "rows": len(y), "mean_tokens": round(float(lengths(batch).float().mean()), 1),
        "peft_epochs_timed": epochs, "peft_epochs_scaled_to": EPOCHS, "peft_batch": BATCH,
        "setfit_over_peft": round(SETFIT_OVER_PEFT, 2), "seconds": timings.medians(),
    }  # fmt: skip
    return Report([figure, against, prior], details)


def rows() -> tuple[list[str], list[str]]:
    """4 classes x 16 reviews, the longest of a draw so that they average about 52 tokens."""
    rng = random.Random(0)
    if not DATA.is_dir():
        return realistic_texts(4 * SHOTS), [str(i % 4) for i in range(4 * SHOTS)]
    pairs = rows_of("multiemo_sentiment/hotels_en/train.jsonl")
    texts, labels = [], []
    for name in sorted({label for _, label in pairs}):
        own = rng.sample([text for text, label in pairs if label == name], 2 * SHOTS)
        texts += sorted(own, key=len)[-SHOTS:]
        labels += [name] * SHOTS
    return texts, labels
