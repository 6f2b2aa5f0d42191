"""What a fit may claim: accuracy and macro-F1 with intervals, calibration, and the choice between candidates.

Pure functions of one task's scores. `n` rows, `C` classes, `M` candidates; labels are class indices `[n]`, or 0/1
`[n, C]` where the kind is "multilabel". Simulated coverage of the intervals: `benchmarks/coverage.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.types import TaskKind

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

INFLATION = 0.0
PESSIMISM = 0.0
COOLEST, HOTTEST = 0.05, 20.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A share in 0..1 with its `level` interval; `value` is None where no row could be measured."""

    value: float | None
    low: float
    high: float
    level: float = 0.9

    @property
    def width(self) -> float:
        return self.high - self.low

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)

    def __str__(self) -> str:
        return "unknown" if self.value is None else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(share: float, n: float, level: float = 0.9) -> tuple[float, float]:
    """Score interval of a binomial share; `n` need not be whole (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4)."""
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (share * n + z2 / 2) / (n + z2)
    half = (z2 * n * max(share * (1 - share), 0.0) + z2 * z2 / 4) ** 0.5 / (n + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def _interval(value: float, n: float, num_folds: int, level: float) -> Interval:
    """Wilson's interval of `n` rows; of out-of-fold rows, with the two corrections of `accuracy_interval`."""
    centre = value
    if num_folds > 1:
        n /= 1 + INFLATION
        centre = 1 - (1 - value) * (1 - 1 / num_folds) ** PESSIMISM
    low, high = wilson(centre, n, level)
    return Interval(value, min(low, value), max(high, value), level)


def accuracy_interval(correct: ArrayLike, *, num_folds: int = 0, level: float = 0.9) -> Interval:
    """Accuracy of `correct` `[n]` (booleans), and where the accuracy of the handed-over model lies."""
    hits = np.asarray(correct, bool)
    if hits.size == 0:
        return Interval(None, 0.0, 1.0, level)
    return _interval(float(hits.mean()), hits.size, num_folds, level)


def _indicators(values: ArrayLike, num_classes: int) -> Floats:
    """Class indices `[n]` as 0/1 `[n, C]`; 0/1 `[n, C]` as they are."""
    array = np.asarray(values)
    return array.astype(float) if array.ndim == 2 else (array[:, None] == np.arange(num_classes)).astype(float)


def _macro_f1(truth: Floats, guess: Floats, weights: Floats) -> Floats:
    """Macro-F1 `[R]` of rows weighted by `weights` `[R, n]`."""
    hits, sizes = weights @ (truth * guess), weights @ (truth + guess)
    scores = np.divide(2 * hits, sizes, out=np.zeros_like(hits), where=sizes > 0)
    return scores.sum(-1) / np.maximum((sizes > 0).sum(-1), 1)


def macro_f1(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    """Mean F1 over the classes that occur in `labels` or `predictions`, both `[n]`, or 0/1 `[n, C]` (multi-label)."""
    truth, guess = _indicators(labels, num_classes), _indicators(predictions, num_classes)
    return float(_macro_f1(truth, guess, np.ones((1, len(truth))))[0])


def macro_f1_interval(
    labels: ArrayLike,
    predictions: ArrayLike,
    num_classes: int,
    *,
    num_folds: int = 0,
    level: float = 0.9,
    seed: int = 0,
    num_draws: int = 400,
) -> Interval:
    """Macro-F1, and where the handed-over model's lies.

    A percentile bootstrap has no width when every row is right. So the bootstrap, stratified by class (by nothing where
    there are several labels a row), only measures the variance v; F1 = f then counts as a share of f (1 - f) / v rows
    (effective sample size: Korn and Graubard 1998), at most C^2 / sum(1 / n_c), the rows that a mean over classes of
    n_c rows is worth; and the interval is that of `accuracy_interval`.
    """
    truth, guess = _indicators(labels, num_classes), _indicators(predictions, num_classes)
    num_rows, counts = len(truth), truth.sum(0)
    if num_rows == 0:
        return Interval(None, 0.0, 1.0, level)
    value = float(_macro_f1(truth, guess, np.ones((1, num_rows)))[0])
    several = np.ndim(labels) == 2
    strata = [np.arange(num_rows)] if several else [np.flatnonzero(column) for column in truth.T if column.any()]
    generator, draws = np.random.default_rng(seed), list[Floats]()
    for size in [50] * (num_draws // 50):
        weights = np.zeros((size, num_rows))
        for rows in strata:
            weights[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size)
        draws.append(_macro_f1(truth, guess, weights))
    variance = float(np.concatenate(draws).var())
    seen = counts[counts > 0]
    worth = min(float(num_rows), len(seen) ** 2 / float((1 / seen).sum())) if len(seen) else 1.0
    return _interval(value, min(worth, value * (1 - value) / variance) if variance else worth, num_folds, level)


def log_losses(scores: ArrayLike, labels: ArrayLike, kind: TaskKind = "classification") -> Floats:
    """Log-loss `[..., n]` of scores `[..., n, C]`, in nats; of several labels a row, the mean over labels."""
    logits = np.clip(np.asarray(scores, float), -1e6, 1e6)
    if kind == "multilabel":
        return (np.logaddexp(0.0, logits) - np.asarray(labels, float) * logits).mean(-1)
    top = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    index = np.broadcast_to(np.asarray(labels, np.int64)[:, None], (*logits.shape[:-1], 1))
    return total - np.take_along_axis(logits, index, -1)[..., 0]


def probabilities(scores: ArrayLike, kind: TaskKind = "classification", temperature: float = 1.0) -> Floats:
    """Scores `[n, C]` as probabilities, after division by `temperature`."""
    logits = np.clip(np.asarray(scores, float), -1e6, 1e6) / temperature
    if kind == "multilabel":
        return np.exp(-np.logaddexp(0.0, -logits))
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def temperature(scores: ArrayLike, labels: ArrayLike, kind: TaskKind = "classification") -> float:
    """The number that out-of-fold scores `[n, C]` are divided by to be calibrated (Guo et al. 2017, section 4.2).

    Least summed log-loss plus log(T)^2 / 2, a standard normal prior on log T that one row outweighs only if it
    insists, within 0.05 to 20: finite where every row is right, 1 where there is no row.
    """
    values, truth = np.asarray(scores, float), np.asarray(labels)
    if len(values) == 0:
        return 1.0

    def cost(log_t: float) -> float:
        return float(log_losses(values / np.exp(log_t), truth, kind).sum()) + log_t * log_t / 2

    low, high = np.log(COOLEST), np.log(HOTTEST)
    for _ in range(7):  # ever finer grids between the neighbours of the best point
        grid = np.linspace(low, high, 15)
        best = int(np.argmin([cost(float(t)) for t in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 14)]
    return float(np.exp((low + high) / 2))


def ece(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error over `bins` equal bins of confidence (Guo et al. 2017, eq. 3); 0 of no rows.

    `probabilities` `[n, C]`; the winner's probability against whether it is right, or, with 0/1 labels `[n, C]`, every
    label's probability against whether the row has it.
    """
    shares, truth = np.asarray(probabilities, float), np.asarray(labels)
    if truth.ndim == 2:
        confidence, hit = shares.ravel(), truth.ravel().astype(float)
    else:
        confidence, hit = shares.max(-1, initial=0.0), (shares.argmax(-1) == truth).astype(float)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, confidence - hit, bins)
    return float(np.abs(gaps).sum() / max(len(place), 1))


def _choose(losses: Floats, within: float) -> int:
    """Index of the least mean of `[M, n]`, or of the first one no more than `within` paired standard errors above."""
    if losses.shape[1] == 0:
        return 0
    means = losses.mean(1)
    best = int(means.argmin())
    for index in range(best if within > 0 and losses.shape[1] > 1 else 0):
        gaps = losses[index] - losses[best]
        if np.isfinite(means[index]) and gaps.mean() <= within * gaps.std(ddof=1) / len(gaps) ** 0.5:
            return index
    return best


def select(oof_losses: ArrayLike, fold_of_row: ArrayLike, *, within: float = 0.0) -> tuple[int, Ints]:
    """The candidate of least out-of-fold loss `[M, n]`, and for each fold the one chosen without that fold's rows.

    Candidates come in order of preference: the first wins ties, and anything no more than `within` standard errors
    (of the paired difference) worse than the best (Breiman et al. 1984, section 3.4.3). Rows of fold -1 were never held
    out and do not count. With a single fold nothing can be chosen without it: candidate 0.
    """
    losses, folds = np.asarray(oof_losses, float), np.asarray(fold_of_row, np.int64)
    losses = np.where(np.isnan(losses), np.inf, losses)
    others = [
        _choose(losses[:, (folds >= 0) & (folds != fold)], within) for fold in range(int(folds.max(initial=-1)) + 1)
    ]
    return _choose(losses[:, folds >= 0], within), np.array(others, np.int64)


def honest_scores(scores: ArrayLike, losses: ArrayLike, fold_of_row: ArrayLike, *, within: float = 0.0) -> Floats:
    """Out-of-fold scores `[n, C]` to report after a choice among `[M, n, C]` by losses `[M, n]`.

    A row of fold j has the scores of the candidate chosen on the other folds, so that the best of many candidates does
    not look better than it is (as in Tibshirani and Tibshirani 2009); rows of fold -1 those of the overall winner.
    """
    winner, per_fold = select(losses, fold_of_row, within=within)
    folds = np.asarray(fold_of_row, np.int64)
    chosen = np.append(per_fold, winner)[folds]
    return np.asarray(scores, float)[chosen, np.arange(len(folds))]


@dataclass(frozen=True)
class Estimate:
    """What may be said of a fitted task. `num_folds` 0: measured on a test set, not by cross-validation."""

    accuracy: Interval
    macro_f1: Interval
    ece: float
    log_loss: float
    n: int
    num_folds: int
    per_class: Mapping[str, Mapping[str, float | int | None]]
    warnings: tuple[str, ...]
    note: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: no NaN, no infinity; None where there is nothing to measure."""
        return {**asdict(self), "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        spans = {key: Interval(**data[key]) for key in ("accuracy", "macro_f1")}
        return cls(**{**data, **spans, "warnings": tuple(data["warnings"])})


def _cross_calibrated(scores: Floats, labels: Ints, kind: TaskKind, seed: int) -> Floats:
    """Scores `[n, C]`, each tenth of the rows divided by the temperature of the others."""
    part = np.random.default_rng(seed).permutation(len(scores)) % 10
    calibrated = scores.copy()
    for index in range(min(10, len(scores))):
        calibrated[part == index] /= temperature(scores[part != index], labels[part != index], kind)
    return calibrated


def _warnings(found: Estimate, alone: Sequence[str], most_common: float) -> tuple[str, ...]:
    accuracy, texts = found.accuracy, list[str]()
    if found.n < 20:
        texts.append(f"only {found.n} examples were held out: too few to say how good this is; label at least 20")
    if alone:
        names = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
        texts.append(f"at most one example was held out of {names}: nothing can be estimated there; label more of them")
    if accuracy.width > 0.3:
        texts.append(f"the accuracy may lie anywhere from {accuracy.low:.2f} to {accuracy.high:.2f}; label more rows")
    if found.n and accuracy.low <= most_common:
        texts.append(f"not shown to beat giving every row the most common answer ({most_common:.2f} right)")
    return tuple(texts)


def estimate(
    scores: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    held_out_mask: ArrayLike,
    num_folds: int,
    kind: TaskKind = "classification",
    seed: int = 0,
) -> Estimate:
    """Everything that out-of-fold scores `[n, C]` of one task say; rows outside `held_out_mask` `[n]` do not count.

    Give `honest_scores` where the fit chose between candidates. Log-loss and ECE are of probabilities whose temperature
    was fitted on other rows. With `num_folds` 0 the scores are the fitted model's own on a test set, already
    calibrated. Raises ValueError if a score is NaN.
    """
    mask = np.asarray(held_out_mask, bool)
    several = kind == "multilabel"
    values, truth = np.asarray(scores, float)[mask], np.asarray(labels)[mask].astype(np.int64)
    if np.isnan(values).any():
        raise ValueError("estimate: a score is NaN; mask the rows that were never held out")
    guess = (values > 0).astype(np.int64) if several else values.argmax(-1)
    correct = (guess == truth).all(-1) if several else guess == truth
    wanted, given = _indicators(truth, len(classes)), _indicators(guess, len(classes))
    counts, hits = wanted.sum(0).astype(int), (wanted * given).sum(0).astype(int)
    calibrated = values if num_folds == 0 else _cross_calibrated(values, truth, kind, seed)
    n, bins = len(values), int(np.clip(len(values) // 10, 1, 10))
    of = "the model itself, on rows that it never saw"
    if num_folds:
        of = f"{num_folds} models, each trained on about {num_folds - 1} of {num_folds} parts of the rows; "
        of += "the intervals are for the model trained on all rows"
    found = Estimate(
        accuracy=accuracy_interval(correct, num_folds=num_folds),
        macro_f1=macro_f1_interval(truth, guess, len(classes), num_folds=num_folds, seed=seed),
        ece=ece(probabilities(calibrated, kind), truth, bins),
        log_loss=float(log_losses(calibrated, truth, kind).mean()) if n else 0.0,
        n=n,
        num_folds=num_folds,
        per_class={
            name: {"n": int(c), "correct": int(h), "recall": float(h / c) if c else None}
            for name, c, h in zip(classes, counts, hits, strict=True)
        },
        warnings=(),
        note=f"measured on {n} rows: {of}",
    )
    kinds, sizes = np.unique(truth, axis=0, return_counts=True)
    alone = [name for name, count in zip(classes, counts, strict=True) if count <= 1]
    warnings = _warnings(found, alone, float(sizes.max() / n) if len(kinds) else 0.0)
    return replace(found, warnings=warnings)
