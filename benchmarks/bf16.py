"""Frozen features in bfloat16 against float32: time, and whether the nearest class stays the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from benchmarks.subjects import DATA, examples, minilm, realistic_texts, rows_of
from benchmarks.timing import Figure, Ratio, Report, compared, interleave
from torch import Tensor

from handful.attach import States
from handful.backbone import Backbone
from handful.batches import TOKEN_BUDGET, gather, lengths, plan
from handful.forward import run_backbone
from handful.prompts import encode
from handful.scoring import pool as pooled
from handful.scoring import prototypes
from handful.types import Batch

SHOTS, DTYPES = 8, ("float32", "bfloat16")


def run(quick: bool) -> Report:
    batch = encode(minilm(), examples(realistic_texts(128 if quick else 384)))
    runs = {dtype: partial(features, minilm(dtype), batch) for dtype in DTYPES}
    timings = interleave(runs, 3 if quick else 5)
    cpuinfo = Path("/proc/cpuinfo")
    hardware = cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text()
    target = 1.8 if hardware else None
    note = "" if hardware else "this processor has no bfloat16 products"
    figures = [compared("frozen features: float32 / bfloat16", timings, "float32", "bfloat16", target, ">=", note=note)]
    details = {"seconds": timings.medians()}
    if DATA.is_dir():
        same, counts = agreement(300 if quick else 3080)
        figures += [
            Figure(f"banking77, {name}: share of the same nearest class", Ratio.exact(share), 0.999, ">=")
            for name, share in same.items()
        ]
        details |= counts
    return Report(figures, details)


@torch.inference_mode()
def features(backbone: Backbone, batch: Batch) -> Tensor:
    """Pooled vectors of unit length `[n, D]`, in float32."""
    out: Tensor | None = None
    for _, columns in plan(lengths(batch)[None], 2 * TOKEN_BUDGET):
        hidden, mask = run_backbone(backbone, gather(batch, columns[0]).inputs)
        x = torch.nn.functional.normalize(pooled(States(hidden.float(), mask), "mean"), dim=-1)
        out = x.new_zeros(batch.row_mask.shape[0], x.shape[1]) if out is None else out
        out[columns[0]] = x
    assert out is not None
    return out


def agreement(asked: int) -> tuple[dict[str, float], dict[str, object]]:
    """How often prototypes and queries in bfloat16 give the class that they give in float32.

    All 77 classes at once, and every row among the 10 classes of the block of ten that its own class is in.
    """
    train, test = rows_of("banking77/train.jsonl.gz"), rows_of("banking77/test.jsonl")[:asked]
    classes = sorted({label for _, label in train})
    support = [row for name in classes for row in [row for row in train if row[1] == name][:SHOTS]]
    batch = encode(minilm(), examples(text for text, _ in support + test))
    owner = torch.tensor([classes.index(label) for _, label in support])
    truth = torch.tensor([classes.index(label) for _, label in test])
    block = torch.arange(len(classes)) // 10
    scores = {}
    for dtype in DTYPES:
        x = features(minilm(dtype), batch)
        known, query = x[: len(support)], x[len(support) :]
        c = prototypes(known, owner, torch.ones(len(support), dtype=torch.bool), len(classes))
        scores[dtype] = 2 * query @ c.T - c.square().sum(-1)
    inside = block[truth][:, None] == block
    guess = {
        name: {dtype: value.masked_fill(~mask, float("-inf")).argmax(-1) for dtype, value in scores.items()}
        for name, mask in (("10 classes", inside), ("77 classes", torch.ones_like(inside)))
    }
    same = {name: float((own["float32"] == own["bfloat16"]).float().mean()) for name, own in guess.items()}
    accuracy = {
        name: {dtype: round(float((value == truth).float().mean()), 4) for dtype, value in own.items()}
        for name, own in guess.items()
    }
    return same, {"rows": len(test), "shots": SHOTS, "accuracy": accuracy}
