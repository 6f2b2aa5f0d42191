"""Intervals, calibration and honest selection, against closed forms and independent implementations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binomtest
from sklearn.metrics import f1_score, log_loss

from handful import estimate as est


def draw(n: int = 90, way: int = 3, scale: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated scores [n, way] and labels drawn from them."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, scale, (n, way))
    noise = generator.gumbel(size=scores.shape)
    return scores, (scores + noise).argmax(1)


# Intervals


@pytest.mark.parametrize(("right", "n"), [(0, 8), (1, 8), (4, 8), (8, 8), (37, 50), (500, 500)])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_a_test_set_has_wilsons_interval(right: int, n: int, level: float) -> None:
    found = est.accuracy_interval([True] * right + [False] * (n - right), level=level)
    theirs = binomtest(right, n).proportion_ci(level, method="wilson")
    assert found.value == right / n
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_inverts_the_score_test_for_sizes_that_are_not_whole() -> None:
    share, n, z2 = 0.83, 21.7, 1.6448536269514722**2
    low, high = est.wilson(share, n)

    def gap(p: float) -> float:
        return (share - p) ** 2 - z2 * p * (1 - p) / n

    assert low == pytest.approx(brentq(gap, 1e-9, share))
    assert high == pytest.approx(brentq(gap, share, 1 - 1e-9))


def test_out_of_fold_rows_say_less_than_test_rows_and_the_final_model_is_better() -> None:
    correct = [True] * 40 + [False] * 20
    plain, folded = est.accuracy_interval(correct), est.accuracy_interval(correct, num_folds=5)
    error = (1 / 3) * 0.8**est.PESSIMISM
    assert (folded.low, folded.high) == pytest.approx(est.wilson(1 - error, 60 / (1 + est.INFLATION)))
    assert folded.value == plain.value
    assert folded.high - folded.low > plain.high - plain.low


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.sampled_from([0, 2, 4, 5, 10, 40]))
def test_an_interval_holds_its_value_and_is_never_a_point(correct: list[bool], num_folds: int) -> None:
    found = est.accuracy_interval(correct, num_folds=num_folds)
    assert found.value is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.04


def test_no_rows_give_no_value_and_the_whole_range() -> None:
    whole = est.Interval(None, 0, 1)
    assert est.accuracy_interval([]) == est.accuracy_interval(np.zeros(0, bool), num_folds=5) == whole
    assert est.macro_f1_interval(np.zeros(0, int), np.zeros(0, int), 3) == whole


# Macro-F1


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 6))
@settings(max_examples=40)
def test_macro_f1_is_scikit_learns(seed: int, n: int, way: int) -> None:
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, way, (2, n))
    ours = est.macro_f1(labels, predictions, way)
    assert ours == pytest.approx(f1_score(labels, predictions, average="macro", zero_division=0))
    several, guesses = generator.integers(0, 2, (2, n, way))
    present = np.flatnonzero((several | guesses).any(0))
    expected = f1_score(several, guesses, average="macro", labels=present, zero_division=0) if len(present) else 0.0
    assert est.macro_f1(several, guesses, way) == pytest.approx(expected)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("several", [True, False])
def test_eight_perfect_or_hopeless_rows_leave_much_open(right: bool, several: bool) -> None:
    labels = np.repeat([0, 1], 4)
    predictions = labels if right else 1 - labels
    if several:
        labels, predictions = np.eye(2, dtype=int)[labels], np.eye(2, dtype=int)[predictions]
    found = est.macro_f1_interval(labels, predictions, 2)
    assert found.value == float(right)
    assert found.high - found.low > 0.2
    assert (found.high if right else found.low) == found.value


def test_a_rare_class_widens_macro_f1_even_when_all_its_rows_are_right() -> None:
    even, rare = np.repeat([0, 1], 50), np.repeat([0, 1], [97, 3])
    widths = [found.high - found.low for found in (est.macro_f1_interval(y, y, 2) for y in (even, rare))]
    assert widths[1] > 3 * widths[0]


def test_a_balanced_macro_f1_has_about_the_interval_of_the_accuracy() -> None:
    labels = np.repeat(np.arange(4), 50)
    predictions = np.where(np.arange(200) % 5 == 0, (labels + 1) % 4, labels)
    f1, accuracy = est.macro_f1_interval(labels, predictions, 4), est.accuracy_interval(labels == predictions)
    assert (f1.value, f1.low, f1.high) == pytest.approx((accuracy.value, accuracy.low, accuracy.high), abs=0.01)


def test_the_seed_decides_the_draws() -> None:
    labels, predictions = np.random.default_rng(1).integers(0, 3, (2, 40))
    first, again, other = (est.macro_f1_interval(labels, predictions, 3, 5, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) == pytest.approx((other.low, other.high), abs=0.05)


def test_a_class_that_is_missing_does_not_count() -> None:
    labels = np.array([0, 0, 2, 2])
    assert est.macro_f1(labels, labels, 4) == 1.0
    assert est.macro_f1(labels, [0, 1, 2, 2], 4) == pytest.approx((2 / 3 + 0 + 1) / 3)


# Calibration


def test_log_losses_are_scikit_learns() -> None:
    scores, labels = draw()
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert est.probabilities(scores) == pytest.approx(shares)
    assert est.log_losses(scores, labels).mean() == pytest.approx(log_loss(labels, shares))
    stacked = est.log_losses(np.stack([scores, 2 * scores]), labels)
    assert stacked.shape == (2, 90)
    assert stacked[1] == pytest.approx(est.log_losses(2 * scores, labels))
    several = np.random.default_rng(0).integers(0, 2, scores.shape)
    p = 1 / (1 + np.exp(-scores))
    expected = -(several * np.log(p) + (1 - several) * np.log(1 - p)).mean(1)
    assert est.log_losses(scores, several, "multilabel") == pytest.approx(expected)
    assert est.probabilities(scores, "multilabel", 2.0) == pytest.approx(1 / (1 + np.exp(-scores / 2)))


def test_masked_classes_and_huge_scores_stay_finite() -> None:
    scores = np.array([[1e9, -1e9, -np.inf], [0.0, 1.0, -np.inf]])
    assert np.isfinite(est.log_losses(scores, [1, 0])).all()
    assert est.probabilities(scores)[:, 2].tolist() == [0.0, 0.0]
    assert np.isfinite(est.temperature(scores, [1, 0]))


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_temperature_recovers_a_known_scaling(factor: float) -> None:
    scores, labels = draw(5000)
    assert est.temperature(scores * factor, labels) == pytest.approx(factor, rel=0.06)
    generator = np.random.default_rng(0)
    several = (generator.random(scores.shape) < 1 / (1 + np.exp(-scores))).astype(int)
    assert est.temperature(scores * factor, several, "multilabel") == pytest.approx(factor, rel=0.06)


def test_temperature_of_very_few_rows_is_cautious() -> None:
    assert est.temperature(np.zeros((0, 3)), np.zeros(0, int)) == pytest.approx(1.0)
    assert est.temperature(np.zeros((4, 2)), [0, 1, 0, 1]) == pytest.approx(1.0, abs=1e-3)
    right = np.array([[2.0, 0.0], [0.0, 2.0]] * 4)
    assert 0.2 < est.temperature(right, [0, 1] * 4) < 1
    assert 1 < est.temperature(right, [1, 0] * 4) <= 20
    assert est.temperature(1e5 * right, [1, 0] * 4) == pytest.approx(20.0, rel=1e-3)


def test_ece_of_known_bins() -> None:
    shares = np.array([[0.95, 0.05]] * 10 + [[0.65, 0.35]] * 10)
    labels = [0] * 8 + [1] * 2 + [0] * 5 + [1] * 5
    assert est.ece(shares, labels) == pytest.approx((0.15 + 0.15) / 2)
    assert est.ece(shares, labels, bins=1) == pytest.approx(0.15)
    assert est.ece([[1.0, 0.0]] * 3, [0, 0, 0]) == 0
    assert est.ece([[0.9, 0.1]], [[1, 0]]) == pytest.approx(0.1)
    assert est.ece(np.zeros((0, 2)), np.zeros(0, int)) == 0


# Selection


def test_select_takes_the_least_loss_and_the_first_of_equals() -> None:
    folds = np.array([0, 0, 1, 1, -1])
    losses = np.array([[3.0, 3, 1, 1, -99], [1, 1, 2, 2, 99], [1, 1, 2, 2, 99]])
    winner, per_fold = est.select(losses, folds)
    assert winner == 1
    assert per_fold.tolist() == [0, 1]  # chosen without fold 0, and without fold 1
    assert est.select(np.ones((3, 5)), folds)[0] == 0


def test_select_passes_over_candidates_that_diverged() -> None:
    losses = np.array([[np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert est.select(losses, [0, 1, 2])[0] == 2
    assert est.select(losses[:2], [0, 1, 2])[0] == 0


def test_select_of_one_fold_or_none_chooses_nothing_for_it() -> None:
    losses = np.array([[2.0, 2.0], [1.0, 1.0]])
    winner, per_fold = est.select(losses, [0, 0])
    assert (winner, per_fold.tolist()) == (1, [0])
    winner, per_fold = est.select(losses, [-1, -1])
    assert (winner, per_fold.tolist()) == (0, [])


@given(st.integers(0, 100_000), st.integers(1, 5), st.integers(2, 5), st.integers(4, 20))
@settings(max_examples=60)
def test_honest_scores_never_use_the_losses_of_a_rows_own_fold(seed: int, many: int, num_folds: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    scores, losses = generator.normal(size=(many, n, 2)), generator.normal(size=(many, n))
    folds = generator.permutation(np.arange(n) % num_folds)
    before = est.honest_scores(scores, losses, folds)
    fold = int(generator.integers(num_folds))
    losses[:, folds == fold] = generator.normal(size=(many, int((folds == fold).sum()))) * 100
    after = est.honest_scores(scores, losses, folds)
    assert (after[folds == fold] == before[folds == fold]).all()
    chosen = np.stack([(after == one).all(1) for one in scores])
    assert chosen.any(0).all()  # every row's scores are some candidate's scores of that very row


def test_the_best_of_many_guessers_does_not_look_good() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(200, 60, 2)), generator.integers(0, 2, 60)
    losses, folds = est.log_losses(scores, labels), np.arange(60) % 6
    winner, _ = est.select(losses, folds)
    assert (scores[winner].argmax(1) == labels).mean() > 0.6
    assert (est.honest_scores(scores, losses, folds).argmax(1) == labels).mean() < 0.6


# The whole


def test_estimate_holds_everything_and_survives_json() -> None:
    scores, labels = draw(120)
    mask = np.arange(120) < 100
    found = est.estimate(scores, labels, ("a", "b", "ç"), mask, 5, seed=3)
    correct = scores[mask].argmax(1) == labels[mask]
    assert found.accuracy == est.accuracy_interval(correct, num_folds=5)
    assert found.macro_f1.value == pytest.approx(f1_score(labels[mask], scores[mask].argmax(1), average="macro"))
    assert (found.n, found.num_folds, found.warnings) == (100, 5, ())
    assert sum(int(of_class["correct"] or 0) for of_class in found.per_class.values()) == correct.sum()
    assert "100 rows" in found.note
    assert "4 of 5" in found.note
    assert found == est.estimate(scores, labels, ("a", "b", "ç"), mask, 5, seed=3)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert est.Estimate.from_dict(json.loads(text)) == found
    assert set(json.loads(text)["accuracy"]) == {"value", "low", "high", "level"}


def test_estimate_calibrates_on_other_rows_only_when_it_cross_validates() -> None:
    scores, labels = draw(400)
    plain = est.estimate(scores * 5, labels, "abc", np.ones(400, bool), 0)
    folded = est.estimate(scores * 5, labels, "abc", np.ones(400, bool), 5)
    assert plain.log_loss == pytest.approx(est.log_losses(scores * 5, labels).mean())
    assert folded.log_loss < plain.log_loss
    assert folded.ece < plain.ece
    assert folded.log_loss >= est.log_losses(5 * scores / est.temperature(5 * scores, labels), labels).mean()
    assert plain.accuracy == est.accuracy_interval(scores.argmax(1) == labels)
    assert "the fitted model itself" in plain.note


def test_estimate_of_several_labels_a_row() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(0, 3, (80, 3))
    labels = (generator.random(scores.shape) < 1 / (1 + np.exp(-scores))).astype(int)
    found = est.estimate(scores, labels, "abc", np.ones(80, bool), 4, "multilabel")
    guess = scores > 0
    assert found.accuracy.value == pytest.approx((guess == labels).all(1).mean())
    assert found.macro_f1.value == pytest.approx(f1_score(labels, guess, average="macro"))
    assert found.per_class["b"]["n"] == labels[:, 1].sum()
    assert est.Estimate.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_warnings_say_what_cannot_be_known() -> None:
    scores = np.eye(3)[[0, 1, 0, 1, 0, 2]] * 4
    found = est.estimate(scores, [0, 1, 0, 1, 1, 2], ("yes", "no", "rare"), np.ones(6, bool), 2)
    text = "\n".join(found.warnings)
    assert "only 6 rows" in text
    assert "held out of rare:" in text
    assert "may be anything from" in text
    assert found.per_class["rare"] == {"n": 1, "correct": 1, "recall": 1.0}
    constant = est.estimate(np.zeros((300, 2)), np.arange(300) % 2, ("yes", "no"), np.ones(300, bool), 5)
    assert any("most common answer (150 of 300 right)" in warning for warning in constant.warnings)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_nothing_held_out_is_said_and_not_crashed_on(kind: str) -> None:
    labels = np.arange(3) if kind == "classification" else np.eye(3)
    found = est.estimate(np.full((3, 3), np.nan), labels, "abc", np.zeros(3, bool), 3, kind)  # type: ignore[arg-type]
    assert (found.n, found.accuracy.value, found.accuracy.low, found.accuracy.high) == (0, None, 0, 1)
    assert any("only 0 rows" in warning for warning in found.warnings)
    assert all(of_class == {"n": 0, "correct": 0, "recall": None} for of_class in found.per_class.values())
    assert est.Estimate.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_a_single_held_out_row_is_estimated() -> None:
    found = est.estimate([[1.0, 0.0]], [0], ("a", "b"), [True], 2)
    assert found.accuracy.value == 1.0
    assert found.accuracy.low < 0.5
    assert found.per_class["b"]["recall"] is None


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        est.estimate([[np.nan, 0.0], [0.0, 1.0]], [0, 1], ("a", "b"), [True, True], 2)


def test_choices_of_a_row_s_own_are_no_classes() -> None:
    scores = np.array([[2.0, 1.0, -np.inf], [0.0, 3.0, 1.0], [1.0, 0.5, -np.inf], [0.2, 0.1, 0.4]] * 10)
    labels = [0, 1, 1, 2] * 10
    found = est.estimate(scores, labels, ("1", "2", "3"), [True] * 40, 0, "choice")
    assert (found.accuracy.value, found.macro_f1, found.per_class) == (0.75, None, {})
    said = found.to_dict()
    assert "macro_f1" not in said
    assert est.headlines(said) == ("accuracy",)
    assert est.Estimate.from_dict(said) == found
    assert np.isfinite(found.log_loss)
    assert not found.warnings
    wrong = est.estimate(scores, [1, 0, 1, 0] * 10, ("1", "2", "3"), [True] * 40, 0, "choice")
    assert wrong.warnings == ("not shown to beat a guess (42% right)",)  # of two choices, three, two and three
