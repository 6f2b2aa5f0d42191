"""What a fitted tagging task may claim: entity F1 with an interval, and its calibration. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.estimate import (
    Estimate,
    Floats,
    Interval,
    accuracy_interval,
    ece,
    interval_of,
    log_losses,
    probabilities,
    temperature,
)
from handful.tagging import F1, count, read_tags, types_of

DRAWS = 400
Tags = Sequence[Sequence[str]]


def f1_interval(counts: Floats, num_folds: int = 0, level: float = 0.9, seed: int = 0) -> tuple[Interval, Interval]:
    """Micro and macro entity F1 of `tagging.count` `[n, K, 3]`, and where the handed-over model's lie.

    As `estimate.macro_f1_interval`: the bootstrap, here over sentences, gives the variance v, an F1 of f counts as a
    share of f (1 - f) / v rows, at most as many as there are entities, or sentences with one where nothing varies.
    """
    total = counts.sum(0)
    if not total.any():
        return Interval(None, 0, 1, level), Interval(None, 0, 1, level)
    n, generator = len(counts), np.random.default_rng(seed)
    draws = [
        np.tensordot(generator.multinomial(n, np.full(n, 1 / n), 50).astype(float), counts, 1)
        for _ in range(DRAWS // 50)
    ]
    busy, found = float(counts.any((1, 2)).sum()), list[Interval]()
    present = total.any(-1)
    for score in (lambda c: _f1(c.sum(-2)), lambda c: _f1(c)[..., present].mean(-1)):
        value, variance = float(score(total)), float(np.concatenate([score(draw) for draw in draws]).var())
        most = float(np.maximum(total[:, 1], total[:, 2]).sum())
        worth = min(most, value * (1 - value) / variance) if variance and 0 < value < 1 else busy
        found.append(interval_of(value, max(worth, 1.0), num_folds, level))
    return found[0], found[1]


def _f1(counts: Floats) -> Floats:
    """F1 `[...]` of right, said and true entities `[..., 3]`."""
    return 2 * counts[..., 0] / np.maximum(counts[..., 1] + counts[..., 2], 1)


def words_of(truth: Tags, labels: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of W words `[n, W]` each sentence has, and the tag indices of all of them, one after the other."""
    longest = max((len(tags) for tags in truth), default=0)
    real = np.arange(longest) < np.array([len(tags) for tags in truth])[:, None]
    place = {label: i for i, label in enumerate(labels)}
    return real, np.array([place[tag] for tags in truth for tag in tags], np.int64)


def tag_temperature(scores: ArrayLike, truth: Tags, labels: Sequence[str]) -> float:
    """`estimate.temperature` of the words of n sentences with scores `[n, W, C]`; 1 where there is none."""
    if not truth:
        return 1.0
    real, index = words_of(truth, labels)
    return temperature(np.asarray(scores, float)[:, : real.shape[1]][real], index)


def estimate_tags(
    scores: ArrayLike, truth: Tags, labels: Sequence[str], held_out_mask: ArrayLike, num_folds: int, seed: int = 0
) -> Estimate:
    """What out-of-fold scores `[n, W, C]` of words and the sentences' true tags say; as `estimate.estimate`.

    Log-loss and ECE are of probabilities whose temperature was fitted on other sentences.
    """
    mask, kinds = np.asarray(held_out_mask, bool), types_of(labels)
    values, known = np.asarray(scores, float)[mask], [tags for tags, held in zip(truth, mask, strict=True) if held]
    if np.isnan(values).any():
        raise ValueError("estimate_tags: a score is NaN; mask the sentences that were never held out")
    n = len(known)
    guess = read_tags(values.argmax(-1).tolist(), [len(tags) for tags in known], labels)
    counts = count(known, guess, kinds)
    micro, macro = f1_interval(counts, num_folds, seed=seed)
    accuracy = accuracy_interval([tuple(a) == b for a, b in zip(known, guess, strict=True)], num_folds)
    error, loss = _calibration(values, known, labels, num_folds, seed)
    per_type = {kind: _measures(F1.of(*own), own) for kind, own in zip(kinds, counts.sum(0).tolist(), strict=True)}
    entities = int(counts[..., 2].sum())
    parts = f"{num_folds} models that each saw {num_folds - 1} of {num_folds} parts of them; the intervals are for "
    note = f"measured on {n} sentences with {entities} entities, with "
    note += f"{parts}the model of all sentences" if num_folds else "the fitted model itself"
    warnings = _warnings(micro, per_type, n, entities)
    return Estimate(accuracy, macro, error, loss, n, num_folds, per_type, warnings, note, entity_f1=micro)


def _measures(found: F1, counts: Sequence[float]) -> dict[str, float | int | None]:
    right, said, true = (int(c) for c in counts)
    return {
        "n": true, "correct": right, "recall": right / true if true else None,
        "precision": right / said if said else None, "f1": found.f1 if said + true else None,
    }  # fmt: skip


def _warnings(micro: Interval, per_type: dict[str, dict[str, Any]], n: int, entities: int) -> tuple[str, ...]:
    alone = [kind for kind, own in per_type.items() if own["n"] <= 1]
    names = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
    wide = f"the entity F1 may be anything from {micro.low:.2f} to {micro.high:.2f}; label more to know it better"
    said = {
        f"only {n} sentences with {entities} entities were held out: too few to say how good this is": entities < 20,
        f"at most one entity was held out of {names}: nothing can be estimated there; label more of them": bool(alone),
        wide: micro.high - micro.low > 0.3,
    }
    return tuple(text for text, applies in said.items() if applies)


def _calibration(values: Floats, truth: Tags, labels: Sequence[str], num_folds: int, seed: int) -> tuple[float, float]:
    """ECE and log-loss over words; temperatures of out-of-fold scores are those of other sentences."""
    n = len(truth)
    if not n:
        return 0.0, 0.0
    real, index = words_of(truth, labels)
    words, row = values[:, : real.shape[1]][real], np.nonzero(real)[0]
    num_parts = min(n, 10 if len(words) <= 1000 else 2) if num_folds else 0
    part = (np.random.default_rng(seed).permutation(n) % max(num_parts, 1))[row]
    for p in range(num_parts):
        words[part == p] = words[part == p] / temperature(values[:, : real.shape[1]][real][part != p], index[part != p])
    error = ece(probabilities(words), index, int(np.clip(len(words) // 10, 1, 10)))
    return error, float(log_losses(words, index).mean())
