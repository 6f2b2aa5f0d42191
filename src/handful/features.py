"""Frozen activations, computed once for each distinct row and used over steps, folds, seeds, tasks and methods."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from handful import distributed
from handful.backbone import Backbone
from handful.batches import TOKEN_BUDGET, gather, lengths, shares
from handful.cache import FeatureCache
from handful.distributed import Team
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

    Of several ranks each computes a share.
    """
    store, team = store or memory(), distributed.team()
    keys = row_keys(backbone, level, pool)
    found = store.get(keys)
    missing = _missing(keys, found, team)
    length = lengths(pool)
    fresh: dict[str, Tensor] = {}
    if missing:
        index = torch.tensor(missing)
        for each in team.rounds(shares(length[index][None], budget, team)):
            rows = index[:1] if each is None else index[each[1][0]]
            with torch.no_grad():
                value = compute(gather(pool, rows))
            by_token = value.ndim > 2
            for row, own in zip(rows.tolist(), value, strict=True) if each else ():
                fresh[keys[row]] = (own[: int(length[row])] if by_token else own).clone()
        fresh = {key: value for theirs, _ in team.exchange(fresh) for key, value in theirs.items()}
        store.put(fresh, on_disk=distributed.first_here())
    return _together([(found | fresh)[key] for key in keys], pool)


def frozen_bytes(pool: Batch, compute: Callable[[Batch], Tensor]) -> int:
    """What `frozen` would return takes, with its padding, as the first row tells."""
    first = compute(gather(pool, torch.zeros(1, dtype=torch.long)))
    size = first.nbytes if first.ndim <= 2 else first.nbytes // first.shape[1] * pool.inputs["attention_mask"].shape[1]
    return size * pool.row_mask.shape[0]


def _missing(keys: Sequence[str], found: Mapping[str, Tensor], team: Team) -> list[int]:
    """One row for each distinct key that is not found, at any rank."""
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    missing = [row for key, row in first.items() if key not in found]
    if team.size == 1:
        return missing
    team.agree("the computation of frozen features", hashlib.sha256("".join(keys).encode()).hexdigest())
    everywhere = {row for _, theirs in team.exchange({}, missing) for row in theirs}
    return [row for row in first.values() if row in everywhere]


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
