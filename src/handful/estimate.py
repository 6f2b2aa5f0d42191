"""What a fit may claim: accuracy and macro-F1 with intervals, calibration, and the choice between candidates.

Pure functions of one task's scores: `n` rows, `C` classes, `M` candidates; labels `[n]`, or 0/1 `[n, C]` (multi-label).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.types import TaskKind

Floats = NDArray[np.float64]

INFLATION = 0.8
PESSIMISM = 0.35


@dataclass(frozen=True, slots=True)
class Interval:
    """A share in 0..1 with its `level` interval; `value` is None where no row could be measured."""

    value: float | None
    low: float
    high: float
    level: float = 0.9

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


def wilson(share: float, n: float, level: float = 0.9) -> tuple[float, float]:
    """Score interval of a binomial share; `n` need not be whole (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4)."""
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (share * n + z2 / 2) / (n + z2)
    half = (z2 * n * max(share * (1 - share), 0.0) + z2 * z2 / 4) ** 0.5 / (n + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy_interval(correct: ArrayLike, num_folds: int = 0, level: float = 0.9) -> Interval:
    """Accuracy of `correct` `[n]` (booleans), and where the accuracy of the handed-over model lies.

    Of the rows of a test set (`num_folds` 0) Wilson's interval. Out-of-fold rows of K folds differ in two ways. Their
    models saw (K - 1) / K of the rows, and error falls as a power of the rows: the interval is put around an error of
    (1 - accuracy) (1 - 1 / K)^PESSIMISM. And the models share rows, while the handed-over one is one draw of what such
    rows can give (Nadeau and Bengio 2003; Bates, Hastie and Tibshirani 2023): n rows are worth n / (1 + INFLATION).
    `value` stays the plain share. Chosen for the default recipe on three data sets, judged on others, and simulated for
    plain heads in `benchmarks/results/coverage.md`.
    """
    hits = np.asarray(correct, bool)
    return interval_of(float(hits.mean()), hits.size, num_folds, level) if hits.size else Interval(None, 0, 1, level)


def interval_of(value: float, n: float, num_folds: int, level: float = 0.9) -> Interval:
    """A share that is worth that of `n` rows, with its interval; `accuracy_interval` says what folds change."""
    shrink, grow = ((1 - 1 / num_folds) ** PESSIMISM, 1 + INFLATION) if num_folds > 1 else (1.0, 1.0)
    low, high = wilson(1 - (1 - value) * shrink, n / grow, level)
    return Interval(value, min(low, value), max(high, value), level)


def _indicators(values: ArrayLike, num_classes: int) -> Floats:
    """Class indices `[n]` as 0/1 `[n, C]`; 0/1 `[n, C]` as they are."""
    array = np.asarray(values)
    return array.astype(float) if array.ndim == 2 else (array[:, None] == np.arange(num_classes)).astype(float)


def _macro_f1(truth: Floats, guess: Floats, weights: Floats) -> Floats:
    """Macro-F1 `[R]` of rows weighted by `weights` `[R, n]`."""
    hits, sizes = weights @ (truth * guess), weights @ (truth + guess)
    return (2 * hits / np.maximum(sizes, 1)).sum(-1) / np.maximum((sizes > 0).sum(-1), 1)


def macro_f1(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    """Mean F1 over the classes that occur in `labels` or `predictions`, both `[n]`, or 0/1 `[n, C]` (multi-label)."""
    truth, guess = _indicators(labels, num_classes), _indicators(predictions, num_classes)
    return float(_macro_f1(truth, guess, np.ones((1, len(truth))))[0])


def macro_f1_interval(
    labels: ArrayLike, predictions: ArrayLike, num_classes: int, num_folds: int = 0, level: float = 0.9, seed: int = 0
) -> Interval:
    """Macro-F1, and where the handed-over model's lies.

    A percentile bootstrap has no width where every row is right. So the bootstrap, stratified by class (by nothing
    where a row has several labels), only gives the variance v: a macro-F1 of f counts as a share of f (1 - f) / v rows
    (Korn and Graubard 1998), at most C^2 / sum(1 / n_c), the worth of classes of n_c rows; then as `accuracy_interval`.
    """
    truth, guess = _indicators(labels, num_classes), _indicators(predictions, num_classes)
    n, several = len(truth), np.ndim(labels) == 2
    if n == 0:
        return Interval(None, 0, 1, level)
    strata = [np.arange(n)] if several else [np.flatnonzero(column) for column in truth.T if column.any()]
    generator, draws = np.random.default_rng(seed), list[Floats]()
    for _ in range(8):
        weights = np.zeros((50, n))
        for rows in strata:
            weights[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), 50)
        draws.append(_macro_f1(truth, guess, weights))
    value, variance = macro_f1(labels, predictions, num_classes), float(np.concatenate(draws).var())
    sizes = np.maximum(truth.sum(0), 1)[(truth + guess).any(0)]
    worth = min(float(n), len(sizes) ** 2 / float((1 / sizes).sum())) if len(sizes) else 1.0
    return interval_of(value, min(worth, value * (1 - value) / variance) if variance else worth, num_folds, level)


def probabilities(scores: ArrayLike, kind: TaskKind = "classification", temperature: float = 1.0) -> Floats:
    """Scores `[..., n, C]` as probabilities, after division by `temperature`."""
    logits = np.clip(np.asarray(scores, float), -1e6, 1e6) / temperature
    if kind == "multilabel":
        return np.exp(-np.logaddexp(0.0, -logits))
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def log_losses(scores: ArrayLike, labels: ArrayLike, kind: TaskKind = "classification") -> Floats:
    """Log-loss `[..., n]` of scores `[..., n, C]`, in nats; multi-label: the mean over labels."""
    return _losses(_margins(scores, labels, kind), kind)


def _margins(scores: ArrayLike, labels: ArrayLike, kind: TaskKind) -> Floats:
    """By how much each class is ahead of the true one, or each label on its wrong side; same shape as `scores`."""
    logits, truth = np.clip(np.asarray(scores, float), -1e6, 1e6), np.asarray(labels, np.int64)
    if kind == "multilabel":
        return np.where(truth == 1, -logits, logits)
    return logits - logits[..., np.arange(len(truth)), truth][..., None]


def _losses(margins: Floats, kind: TaskKind) -> Floats:
    if kind == "multilabel":
        return np.logaddexp(0.0, margins).mean(-1)
    top = margins.max(-1, keepdims=True)
    return np.log(np.exp(margins - top).sum(-1)) + top[..., 0]


def temperature(scores: ArrayLike, labels: ArrayLike, kind: TaskKind = "classification") -> float:
    """The number that out-of-fold scores `[n, C]` are to be divided by (Guo et al. 2017, section 4.2).

    Least summed log-loss plus log(T)^2 / 2 (a standard normal prior on log T, so about one row's worth of doubt) in
    0.05 to 20: finite where every row is right, 1 where there is no row.
    """
    margins = _margins(scores, labels, kind)
    low, high = float(np.log(0.05)), float(np.log(20.0))
    for _ in range(5 if len(margins) else 0):  # ever finer grids, between the neighbours of the best point
        grid = np.linspace(low, high, 15)
        best = int(np.argmin([_losses(margins / np.exp(t), kind).sum() + t * t / 2 for t in grid]))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 14)])
    return float(np.exp((low + high) / 2))


def ece(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error over `bins` equal bins of confidence (Guo et al. 2017, eq. 3); 0 of no rows.

    `probabilities` `[n, C]`: the winner's probability against whether it is right, or, with 0/1 labels `[n, C]`, every
    label's probability against whether the row has it.
    """
    shares, truth = np.asarray(probabilities, float), np.asarray(labels)
    confidence = shares.ravel() if truth.ndim == 2 else shares.max(-1, initial=0.0)
    hit = truth.ravel() if truth.ndim == 2 else shares.argmax(-1) == truth
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(place, confidence - hit, bins)).sum() / max(len(place), 1))


def select(oof_losses: ArrayLike, fold_of_row: ArrayLike) -> tuple[int, NDArray[np.int64]]:
    """The candidate of least out-of-fold loss `[M, n]`, and for every fold the one chosen without that fold's rows.

    The first wins ties. Rows of fold -1 were never held out and do not count; where no row is left to choose by, as for
    a single fold, candidate 0.
    """
    losses, folds = np.nan_to_num(np.asarray(oof_losses, float), nan=np.inf, posinf=np.inf), np.asarray(fold_of_row)
    sums = [losses[:, (folds >= 0) & (folds != fold)].sum(1) for fold in range(-1, int(folds.max(initial=-1)) + 1)]
    winner, *per_fold = (int(total.argmin()) for total in sums)
    return winner, np.array(per_fold, np.int64)


def honest_scores(scores: ArrayLike, losses: ArrayLike, fold_of_row: ArrayLike) -> Floats:
    """Out-of-fold scores `[n, C]` to report after a choice among `[M, n, C]` by losses `[M, n]`.

    A row of fold j has the scores of the candidate chosen on the other folds, so that the best of many candidates does
    not look better than it is (cf. Tibshirani and Tibshirani 2009); a row of fold -1 those of the overall winner.
    """
    winner, per_fold = select(losses, fold_of_row)
    folds = np.asarray(fold_of_row, np.int64)
    return np.asarray(scores, float)[np.append(per_fold, winner)[folds], np.arange(len(folds))]


@dataclass(frozen=True)
class Estimate:
    """What may be said of a fitted task. `num_folds` 0: measured on a test set, not by cross-validation.

    Of a tagging task rows are sentences, and one is right if all its tags are; macro-F1 is over entity types,
    `per_class` of these; log-loss and ECE are over words. `entity_f1` is the measure to look at; others have none.
    A choice task has neither `macro_f1` nor `per_class`: that a choice comes second is no class.
    """

    accuracy: Interval
    macro_f1: Interval | None
    ece: float
    log_loss: float
    n: int
    num_folds: int
    per_class: Mapping[str, Mapping[str, float | int | None]]
    warnings: tuple[str, ...]
    note: str
    entity_f1: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: no NaN, no infinity; None where there is nothing to measure."""
        optional = ("macro_f1", "entity_f1")
        kept = {name: value for name, value in asdict(self).items() if name not in optional or value is not None}
        return {**kept, "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        names = [name for name in ("accuracy", "macro_f1", "entity_f1") if data.get(name) is not None]
        changed: dict[str, Any] = {name: Interval(**data[name]) for name in names}
        changed["warnings"] = tuple(data["warnings"])
        changed.setdefault("macro_f1", None)
        return cls(**{**data, **changed})


def headlines(estimate: Mapping[str, Any]) -> tuple[str, ...]:
    """Which shares of an `Estimate.to_dict()` say how good a task is, the first one first."""
    known = ("entity_f1",) if "entity_f1" in estimate else ("accuracy", "macro_f1")
    return tuple(name for name in known if name in estimate)


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
    was fitted on other rows; with `num_folds` 0 the scores are of a test set and calibrated. ValueError if one is NaN.
    Choices that a row of a choice task does not have are -inf.
    """
    mask, several, ranked = np.asarray(held_out_mask, bool), kind == "multilabel", kind == "choice"
    values, truth = np.asarray(scores, float)[mask], np.asarray(labels)[mask].astype(np.int64)
    if np.isnan(values).any():
        raise ValueError("estimate: a score is NaN; mask the rows that were never held out")
    n, guess = len(values), (values > 0).astype(np.int64) if several else values.argmax(-1)
    correct = (guess == truth).all(-1) if several else guess == truth
    wanted = _indicators(truth, len(classes))
    counts, hits = wanted.sum(0).astype(int), (wanted * _indicators(guess, len(classes))).sum(0).astype(int)
    num_parts = min(n, 10 if n <= 1000 else 2) if num_folds else 0
    calibrated, part = values.copy(), np.random.default_rng(seed).permutation(n) % max(num_parts, 1)
    for index in range(num_parts):
        calibrated[part == index] /= temperature(values[part != index], truth[part != index], kind)
    accuracy = accuracy_interval(correct, num_folds)
    f1 = None if ranked else macro_f1_interval(truth, guess, len(classes), num_folds, seed=seed)
    error = ece(probabilities(calibrated, kind), truth, int(np.clip(n // 10, 1, 10)))
    loss = float(log_losses(calibrated, truth, kind).mean()) if n else 0.0
    of_class: dict[str, dict[str, float | int | None]] = {
        name: {"n": int(c), "correct": int(h), "recall": float(h / c) if c else None}
        for name, c, h in zip(classes, counts, hits, strict=True)
        if not ranked
    }
    parts = f"{num_folds} models that each saw {num_folds - 1} of {num_folds} parts of them; the intervals are for "
    note = f"measured on {n} rows with {parts + 'the model of all rows' if num_folds else 'the fitted model itself'}"
    alone = [name for name, c in zip(classes, counts, strict=True) if c <= 1 and not ranked]
    names = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
    low, high, most = accuracy.low, accuracy.high, np.unique(truth, axis=0, return_counts=True)[1].max(initial=0)
    chance, most = (1 / np.isfinite(values).sum(-1)).mean() if ranked and n else 0.0, 0 if ranked else most
    warnings = {
        f"only {n} rows were held out: too few to say how good this is; label at least 20": n < 20,
        f"at most one row was held out of {names}: nothing can be estimated there; label more of them": bool(alone),
        f"the accuracy may be anything from {low:.2f} to {high:.2f}; label more to know it better": high - low > 0.3,
        f"not shown to beat giving every row the most common answer ({most} of {n} right)": n > 0
        and low * n <= most
        and not ranked,
        f"not shown to beat a guess ({chance:.0%} right)": n > 0 and ranked and low <= chance,
    }
    said = tuple(text for text, applies in warnings.items() if applies)
    return Estimate(accuracy, f1, error, loss, n, num_folds, of_class, said, note)
