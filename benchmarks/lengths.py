"""Realistic text lengths: passes planned by length against batches in the given order padded to their longest."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import torch
from benchmarks.subjects import examples, minilm, realistic_texts, tasks_of, training
from benchmarks.timing import Report, compared, interleave
from torch import Tensor

from handful.batches import TOKEN_BUDGET, gather, lengths, plan
from handful.methods.lora import LoRA
from handful.prompts import encode
from handful.types import Batch

BATCH = 32


def run(quick: bool) -> Report:
    count = 128 if quick else 512
    pool = encode(minilm(), examples(realistic_texts(count)))
    few = count // 4
    train = Batch({name: value[:few] for name, value in pool.inputs.items()}, pool.row_mask[:few])
    learn = training(LoRA(), tasks_of(train, 1, few), few // BATCH, BATCH)

    def learn_padded() -> None:
        with patch("handful.passes.plan", in_one_pass):
            learn()

    def encode_planned() -> None:
        encode_all(pool, [columns[0] for _, columns in plan(lengths(pool)[None], 2 * TOKEN_BUDGET)])

    runs = {
        "encode, planned": encode_planned,
        "encode, padded": lambda: encode_all(pool, list(torch.arange(count).split(BATCH))),
        "train, planned": learn,
        "train, padded": learn_padded,
    }  # fmt: skip
    timings = interleave(runs, 3 if quick else 5)
    figures = [
        compared("encoding: padded / planned", timings, "encode, padded", "encode, planned", 1.6, ">="),
        compared("training LoRA: padded / planned", timings, "train, padded", "train, planned", 1.6, ">="),
    ]
    size = lengths(pool)
    padded = sum(int(part.max()) * len(part) for part in size.split(BATCH))
    details = {
        "rows": count, "rows_trained": few, "batch": BATCH, "mean_tokens": round(float(size.float().mean()), 1),
        "longest": int(size.max()), "padded_over_real_tokens": round(padded / int(size.sum()), 3),
        "seconds": timings.medians(),
    }  # fmt: skip
    return Report(figures, details)


def encode_all(pool: Batch, parts: list[Tensor]) -> None:
    model = minilm().model
    with torch.inference_mode():
        for rows in parts:
            model(**gather(pool, rows).inputs)


def in_one_pass(length: Tensor, budget: int) -> Iterator[tuple[slice, Tensor]]:
    """All rows of a step in their order as one padded batch, as a plain training loop has it."""
    columns = torch.arange(length.shape[1]).expand(length.shape)
    yield slice(0, length.shape[0]), torch.where(length > 0, columns, -1)
