"""Frozen activations, computed once for each distinct row and used over steps, folds, seeds, tasks and methods."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from handful.backbone import Backbone
from handful.batches import TOKEN_BUDGET, gather, lengths, plan
from handful.cache import FeatureCache
from handful.types import Batch


@cache
def memory() -> FeatureCache:
    """The process's own cache."""
    return FeatureCache()


def frozen(
    backbone: Backbone,
    level: str,
    pool: Batch,
    compute: Callable[[Batch], Tensor],
    *,
    store: FeatureCache | None = None,
    budget: int = 2 * TOKEN_BUDGET,
) -> Tensor:
    """`compute` for every row of a pool, `[n, ...]`, each distinct row once.

    level    names what is computed, with all its settings, e.g. "states:4"
    compute  batch `[b, S]` -> `[b, D]`, or `[b, S, ...]` by token, which is then padded with zeros to the pool's S
    """
    store = store or memory()
    keys = row_keys(backbone, level, pool)
    found = store.get(keys)
    missing = [
        row for key, row in {key: row for row, key in reversed(list(enumerate(keys)))}.items() if key not in found
    ]
    length = lengths(pool)
    fresh: dict[str, Tensor] = {}
    if missing:
        index = torch.tensor(missing)
        for _, columns in plan(length[index][None], budget):
            rows = index[columns[0]]
            with torch.no_grad():
                value = compute(gather(pool, rows))
            by_token = value.ndim > 2
            for row, own in zip(rows.tolist(), value, strict=True):
                fresh[keys[row]] = (own[: int(length[row])] if by_token else own).clone()
        store.put(fresh)
    return _together([(found | fresh)[key] for key in keys], pool)


def row_keys(backbone: Backbone, level: str, pool: Batch) -> list[str]:
    """A key for each row: weights, number format, level and the row's own inputs without padding."""
    length = lengths(pool).tolist()
    inputs = {name: value.cpu() for name, value in sorted(pool.inputs.items())}
    start = hashlib.sha256(f"{backbone.fingerprint}|{backbone.dtype}|{backbone.pooling}|{level}".encode())
    keys = []
    for row, size in enumerate(length):
        state = start.copy()
        for name, value in inputs.items():
            own = value[row, :size] if "attention_mask" in inputs and value.ndim > 1 else value[row]
            state.update(name.encode() + own.contiguous().view(torch.uint8).numpy().tobytes())
        keys.append(state.hexdigest())
    return keys


def _together(values: list[Tensor], pool: Batch) -> Tensor:
    if values[0].ndim == 1:
        return torch.stack(values)
    width = pool.inputs["attention_mask"].shape[1]
    out = values[0].new_zeros(len(values), width, *values[0].shape[1:])
    for row, value in enumerate(values):
        out[row, : value.shape[0]] = value
    return out
