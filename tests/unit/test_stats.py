"""Means, paired comparisons, ranks and pooled measures, against scipy, closed forms and numbers worked by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as sp

from gridstore import results
from handful import paired, pooled, ranks, stats
from handful.cells import Result
from handful.stats import Arm, TaskName

A, B, C = (Arm(name, "minilm") for name in "abc")
ONE, TWO = TaskName("", "one"), TaskName("", "two")


def grid_of(scores: dict[str, list[list[float]]], shots: int = 4, rows: int = 10**9) -> list[Result]:
    """{recipe: [task][seed]} as results; so many rows that rounding is no noise."""
    return results(
        {
            (recipe, f"t{t}", shots, s): score
            for recipe, tasks in scores.items()
            for t, seeds in enumerate(tasks)
            for s, score in enumerate(seeds)
        },
        rows,
    )


def t_interval(values: list[float], level: float = 0.9) -> tuple[float, float]:
    low, high = sp.t.interval(level, len(values) - 1, np.mean(values), sp.sem(values))
    return float(low), float(high)


# Means


def test_one_task_has_the_t_interval_of_its_seeds() -> None:
    own = {0: 0.5, 1: 0.6, 2: 0.55, 3: 0.71}
    found = stats.clustered({(ONE, 4): own})
    assert (found.low, found.high) == pytest.approx(t_interval(list(own.values())), abs=1e-12)
    assert found.value == pytest.approx(0.59)


def test_many_tasks_have_the_t_interval_of_the_seeds_own_means() -> None:
    draws = np.random.default_rng(0).random((5, 4))
    found = stats.clustered({(TaskName("", str(t)), 4): dict(enumerate(row)) for t, row in enumerate(draws)}, 0.95)
    assert (found.low, found.high) == pytest.approx(t_interval(draws.mean(0).tolist(), 0.95), abs=1e-12)


def test_a_grid_with_a_hole_by_hand() -> None:
    """Task one has seeds 0, 1 (0.2, 0.4), task two only 0, 1, 2 (0.1, 0.4, 0.7): S = 3 clusters.

    u_0 = (-0.1 / 2 - 0.3 / 3) / 2 = -0.075, u_1 = (0.1 / 2 + 0) / 2 = 0.025, u_2 = (0.3 / 3) / 2 = 0.05;
    the variance is 3 / 2 (0.005625 + 0.000625 + 0.0025) = 0.013125.
    """
    found = stats.clustered({(ONE, 4): {0: 0.2, 1: 0.4}, (TWO, 4): {0: 0.1, 1: 0.4, 2: 0.7}})
    assert found.value == pytest.approx(0.35)
    assert found.half == pytest.approx(2.9199855803537256 * math.sqrt(0.013125))


def test_tasks_count_the_same_however_many_shots_they_have() -> None:
    found = stats.clustered({(ONE, 4): {0: 0.0}, (ONE, 16): {0: 0.2}, (TWO, 4): {0: 0.9}})
    assert found.value == pytest.approx((0.1 + 0.9) / 2)


def test_one_seed_leaves_the_noise_unknown() -> None:
    found = stats.clustered({(ONE, 4): {3: 0.5}, (TWO, 4): {3: 0.7}})
    assert (found.low, found.high, found.half) == (None, None, None)
    assert found.holds_zero


def test_two_seeds_that_agree_by_chance_are_not_without_noise() -> None:
    found = stats.clustered({(ONE, 4): {0: 0.5, 1: 0.5}}, steps={(ONE, 4): 0.1})
    assert found.half == pytest.approx(float(sp.t.ppf(0.95, 1)) * math.sqrt(0.1**2 / 12 / 2))
    assert stats.clustered({(ONE, 4): {0: 0.5, 1: 0.5}}).half == 0


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no value"):
        stats.clustered({})


def test_means_are_of_what_all_arms_have() -> None:
    found = results(
        {("a", "one", 4, 0): 0.5, ("a", "one", 4, 1): 0.9, ("b", "one", 4, 0): 0.6, ("b", "one", 4, 1): None}
    )
    assert [(mean.arm, mean.span.value, mean.cells) for mean in stats.overall(found)] == [(B, 0.6, 1), (A, 0.5, 1)]
    assert [mean.cells for mean in stats.means(found)] == [1, 1]


def test_quartiles_are_of_the_means_of_seeds() -> None:
    draws = [[0.1, 0.9, 0.4, 0.7, 0.2], [0.3, 0.5, 0.0, 0.1, 0.6]]
    (found,) = stats.overall(grid_of({"a": draws}))
    assert found.quartiles == pytest.approx(np.quantile(np.mean(draws, 0), [0.25, 0.5, 0.75]))
    (alone,) = stats.overall(grid_of({"a": [[0.4], [0.6]]}))
    assert alone.quartiles == pytest.approx((0.5,) * 3)


def test_an_arm_with_few_cells_is_left_out_and_named() -> None:
    scores = {("a", "one", 4, s): 0.5 for s in range(4)} | {
        ("b", "one", 4, s): 0.6 if s < 1 else None for s in range(4)
    }
    found = results(scores)
    assert stats.left_out(found) == (B,)
    assert [(mean.arm, mean.cells) for mean in stats.overall(found)] == [(A, 4)]


def test_the_grid_says_what_is_missing() -> None:
    found = results({("a", "one", 4, 0): 0.5, ("a", "two", 4, 1): None, ("b", "one", 16, 0): 0.1})
    waiting = replace(found[2], status="pending", outcome=None)
    grid = stats.grid([*found[:2], waiting])
    assert (grid.asked, grid.done, len(grid.failed), grid.waiting, grid.full) == (3, 1, 1, 1, 2 * 2 * 2 * 2)
    assert grid.shots == (4, 16)


def test_a_score_that_is_no_number_does_not_count() -> None:
    found = results({("a", "one", 4, 0): math.nan, ("a", "one", 4, 1): 0.5})
    assert stats.grid(found).done == 1


def test_curves_are_of_tasks_that_have_every_number_of_shots() -> None:
    scores = {(recipe, "one", k, s): 0.1 * k for recipe in "ab" for k in (2, 4) for s in (0, 1)}
    scores |= {(recipe, "two", 2, s): 0.9 for recipe in "ab" for s in (0, 1)}
    first, second = stats.curves(results(scores))
    assert [(p.shots, p.tasks, p.span.value) for p in first.points] == [
        (2, 1, pytest.approx(0.2)),
        (4, 1, pytest.approx(0.4)),
    ]
    assert (first.arm, second.arm) == (A, B)


# Pairs


def test_few_tasks_are_compared_over_seeds() -> None:
    one, other = np.random.default_rng(1).random((2, 3, 5))
    found = paired.compare(grid_of({"a": one.tolist(), "b": other.tolist()}), A, B)
    assert found is not None
    assert found.scope == "draws"
    assert (found.span.low, found.span.high) == pytest.approx(t_interval((one - other).mean(0).tolist()), abs=1e-9)
    assert found.p == pytest.approx(brute_signs((one - other).mean(0).tolist()))


def test_many_tasks_are_compared_over_tasks() -> None:
    one, other = np.random.default_rng(2).random((2, 7, 3))
    found = paired.compare(grid_of({"a": one.tolist(), "b": other.tolist()}), A, B)
    assert found is not None
    assert (found.scope, found.tasks, found.seeds, found.pairs, found.of) == ("tasks", 7, 3, 21, 21)
    gaps = (one - other).mean(1)
    assert (found.span.low, found.span.high) == pytest.approx(t_interval(gaps.tolist()), abs=1e-9)
    assert found.p == pytest.approx(sp.wilcoxon(gaps, method="exact").pvalue)


def test_only_pairs_count() -> None:
    found = paired.compare(
        results({("a", "one", 4, 0): 0.9, ("a", "one", 4, 1): 0.1, ("b", "one", 4, 0): 0.5, ("b", "one", 8, 1): 0.0}),
        A,
        B,
    )
    assert found is not None
    assert (found.span.value, found.pairs, found.of) == (pytest.approx(0.4), 1, 3)
    assert found.inside_noise  # of one seed
    assert paired.compare(results({("a", "one", 4, 0): 0.9, ("b", "one", 4, 1): 0.5}), A, B) is None


def test_a_task_is_won_lost_or_tied_by_its_own_interval() -> None:
    won, lost, tied = [0.9, 0.8, 0.85], [0.1, 0.2, 0.15], [0.1, 0.9, 0.5]
    base = [0.5, 0.5, 0.5]
    found = paired.compare(grid_of({"a": [won, lost, tied], "b": [base, base, base]}), A, B)
    assert found is not None
    assert (found.wins, found.ties, found.losses) == (1, 1, 1)
    assert [d.verdict for d in found.by_task] == ["win", "loss", "tie"]
    turned = paired.compare(grid_of({"a": [won, lost, tied], "b": [base, base, base]}), B, A)
    assert turned is not None
    assert turned.span.value == pytest.approx(-found.span.value)


def test_several_comparisons_have_wider_intervals_and_larger_p() -> None:
    draws = np.random.default_rng(3).random((4, 6, 3))
    found = grid_of({name: own.tolist() for name, own in zip("abcd", draws, strict=True)})
    alone, together = paired.compare(found, A, B), paired.against(found, A)
    assert alone is not None
    gaps = (draws[0] - draws[1]).mean(1).tolist()
    assert len(together) == 3
    assert together[0].span.level == pytest.approx(1 - 0.1 / 3)
    assert (together[0].span.low, together[0].span.high) == pytest.approx(t_interval(gaps, 1 - 0.1 / 3), abs=1e-9)
    assert [c.holm for c in together] == pytest.approx(ranks.holm([c.p for c in together]))


def test_differences_by_task_shots_seed_and_episode() -> None:
    found = results(
        {("a", t, k, s): 0.5 for t in ("one", "two") for k in (4, 8) for s in (0, 1)}
        | {("b", t, k, s): 0.5 - 0.01 * k - 0.1 * s for t in ("one", "two") for k in (4, 8) for s in (0, 1)}
    )
    by = {kind: paired.differences(found, A, B, kind) for kind in ("task", "shots", "seed", "episode")}
    assert [d.unit for d in by["task"]] == ["one", "two"]
    assert [round(d.span.value, 12) for d in by["shots"]] == [0.09, 0.13]
    assert [round(d.span.value, 12) for d in by["seed"]] == [0.06, 0.16]
    assert len(by["episode"]) == 8
    assert by["episode"][0].unit == "one, 4 shots, seed 0"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Over tasks: 8 tasks that differ, 3 seeds each. The percentile bootstrap over tasks would hold it less often."""
    generator, held, bootstrap = np.random.default_rng(4), 0, 0
    for _ in range(400):
        gaps = 0.02 + generator.normal(0, 0.05, (8, 1)) + generator.normal(0, 0.03, (8, 3))
        found = paired.compare(grid_of({"a": (0.5 + gaps).tolist(), "b": np.full((8, 3), 0.5).tolist()}), A, B)
        assert found is not None
        assert found.span.low is not None
        assert found.span.high is not None
        held += found.span.low <= 0.02 <= found.span.high
        low, high = np.quantile(generator.choice(gaps.mean(1), (300, 8)).mean(1), [0.05, 0.95])
        bootstrap += low <= 0.02 <= high
    assert 0.87 <= held / 400 <= 0.93
    assert bootstrap < held - 10


# Signs and ranks


def brute_signs(values: list[float]) -> float:
    total = abs(sum(values)) - 1e-12
    every = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=len(values))]  # fmt: skip  # noqa: E501
    return sum(s >= total for s in every) / len(every)


def test_sign_flips_are_scipys_exact_permutation_test() -> None:
    values = [0.3, -0.1, 0.25, 0.02, 0.4, 0.11]
    theirs = sp.permutation_test((np.array(values),), np.mean, permutation_type="samples", n_resamples=10**6)
    assert ranks.sign_flips(values) == pytest.approx(theirs.pvalue)
    assert ranks.sign_flips([1.0] * 20) == pytest.approx(1 / 20_000)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_wilcoxon_with_ties_and_zeros_is_its_definition(values: list[int]) -> None:
    """Pratt: zeros are ranked, then left out; p counts the signs whose rank sum is as far from the middle."""
    order = ranks.midranks([abs(v) for v in values])
    kept = [(rank, v > 0) for rank, v in zip(order, values, strict=True) if v]
    half = sum(rank for rank, _ in kept) / 2
    seen = abs(sum(rank for rank, up in kept if up) - half)
    every = [
        abs(sum(rank for (rank, _), up in zip(kept, ups, strict=True) if up) - half) >= seen - 1e-9
        for ups in itertools.product((True, False), repeat=len(kept))
    ]
    assert ranks.wilcoxon([v / 7 for v in values]) == pytest.approx(sum(every) / len(every))


def test_wilcoxon_is_scipys() -> None:
    for n in (6, 12, 40):
        values = np.random.default_rng(n).normal(0.3, 1, n)
        assert ranks.wilcoxon(values.tolist()) == pytest.approx(sp.wilcoxon(values, method="exact").pvalue)


def test_midranks_are_scipys() -> None:
    values = [0.3, 0.1, 0.3, 0.7, 0.1, 0.3]
    assert ranks.midranks(values) == sp.rankdata(values).tolist()


def test_holm_by_hand() -> None:
    assert ranks.holm([0.01, 0.04, 0.03, None, 0.005]) == pytest.approx([0.03, 0.06, 0.06, None, 0.02])
    assert ranks.holm([0.6, 0.9]) == [1.0, 1.0]


def test_friedman_is_scipys_with_ties_too() -> None:
    table = np.random.default_rng(5).integers(0, 5, (9, 4)) / 5
    chi2, p, iman = ranks.friedman([ranks.midranks(row) for row in table.tolist()])
    theirs = sp.friedmanchisquare(*table.T)
    assert (chi2, p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    assert iman == pytest.approx(sp.f.sf(8 * chi2 / (9 * 3 - chi2), 3, 24))
    assert ranks.friedman([[1.5, 1.5]] * 4) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("arms", "q05", "q10"),
    [(2, 1.960, 1.645), (3, 2.343, 2.052), (4, 2.569, 2.291), (6, 2.850, 2.589), (10, 3.164, 2.920)],
)
def test_critical_differences_are_demsars(arms: int, q05: float, q10: float) -> None:
    """Critical values of Demsar 2006, table 5 (a)."""
    for level, q in ((0.95, q05), (0.90, q10)):
        assert ranks.nemenyi(arms, 14, level) == pytest.approx(q * math.sqrt(arms * (arms + 1) / 84), abs=6e-4)


def test_cliques_are_the_largest_groups() -> None:
    assert ranks.cliques([1.0, 1.5, 2.4, 3.9, 4.0], 1.0) == ((0, 1), (1, 2), (3, 4))
    assert ranks.cliques([1.0, 1.2, 1.4], 1.0) == ((0, 2),)
    assert ranks.cliques([1.0, 3.0], 1.0) == ()


def test_ranks_over_tasks() -> None:
    scores = {"a": [[0.9]] * 6, "b": [[0.8]] * 5 + [[0.95]], "c": [[0.7]] * 5 + [[0.9]]}
    found = paired.ranks(grid_of(scores))
    assert isinstance(found, paired.Ranks)
    assert found.arms == (A, B, C)
    assert found.average == pytest.approx([(5 + 2.5) / 6, (10 + 1) / 6, (15 + 2.5) / 6])
    assert found.tasks == 6


@pytest.mark.parametrize(("tasks", "arms"), [(4, 3), (5, 2)])
def test_too_little_for_ranks_is_said(tasks: int, arms: int) -> None:
    found = paired.ranks(grid_of({name: [[0.5]] * tasks for name in "abc"[:arms]}))
    assert isinstance(found, str)
    assert "at least 5 tasks and 3" in found


# Pooled


def with_outcome(result: Result, **changes: object) -> Result:
    assert result.outcome is not None
    return replace(result, outcome=replace(result.outcome, **changes))  # type: ignore[arg-type]


def costing(scores: dict[str, float], flops: dict[str, float]) -> list[Result]:
    bare = results({(name, "one", 4, 0): score for name, score in scores.items()})
    return [with_outcome(r, cost={"training_flops": flops[r.cell.recipe], "query_flops": 0.0}) for r in bare]


def test_what_nothing_beats_in_both_is_on_the_front() -> None:
    scores = {"a": 0.9, "b": 0.8, "c": 0.85, "d": 0.9, "e": 0.5}
    found = pooled.front(costing(scores, {"a": 10, "b": 1, "c": 12, "d": 20, "e": 1}), "FLOPs", 4)
    assert {p.arm.recipe: p.on_front for p in found} == {"a": True, "b": True, "c": False, "d": False, "e": False}
    assert [p.cost for p in found] == sorted(p.cost for p in found)


def test_costs_count_training_and_a_thousand_answers() -> None:
    (bare,) = results({("a", "one", 4, 0): 0.5}, rows=200)
    cost = {"training_flops": 1e9, "query_flops": 1e6, "bytes": 2500, "fit_seconds": 3.0, "query_seconds": 0.4}
    result = with_outcome(bare, cost=cost)
    assert pooled.cost_of(result, "FLOPs") == 2e9
    assert pooled.cost_of(result, "seconds") == pytest.approx(3 + 0.4 / 200 * 1000)
    assert pooled.cost_of(result, "kilobytes") == 2.5
    assert pooled.cost_of(bare, "FLOPs") is None
    assert pooled.front([bare], "FLOPs", 4) == ()


def test_bins_are_pooled() -> None:
    bare = results({("a", "one", 4, s): 0.5 for s in (0, 1)})
    empty = [[0, 0.0, 0]] * 8
    bins = ([*empty, [2, 1.7, 1], [0, 0.0, 0]], [*empty, [2, 1.7, 2], [4, 3.8, 3]])
    cells = [with_outcome(r, measures={"n": 9, "reliability": b, "ece": 0.2}) for r, b in zip(bare, bins, strict=True)]
    (found,) = pooled.reliability(cells)
    assert [(b.count, b.confidence, b.accuracy) for b in found.bins] == [(4, 0.85, 0.75), (4, 0.95, 0.75)]
    assert found.ece == pytest.approx((0.4 + 0.8) / 8)
    assert (found.cell_ece, found.answers, found.cells) == (pytest.approx(0.2), 8, 2)


def test_promises_are_held_against_what_was_measured() -> None:
    bare = results({("a", "one", 4, s): score for s, score in enumerate((0.5, 0.7, 0.9))})
    said = {"value": 0.6, "low": 0.5, "high": 0.8, "level": 0.9}
    (found,) = pooled.claims([with_outcome(r, estimate=said) for r in bare])
    assert (found.cells, found.kept, found.level) == (3, 2, 0.9)
    assert (found.width, found.bias) == (pytest.approx(0.3), pytest.approx(0.6 - 0.7))
    theirs = sp.binomtest(2, 3).proportion_ci(0.9, method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert pooled.claims(bare) == ()


def test_confusions_are_summed_by_name_and_cut_to_the_worst() -> None:
    bare = results({("a", "one", 4, s): 0.5 for s in (0, 1)})
    first = {"labels": ["x", "y", "z"], "counts": [[0, 0, 5], [0, 1, 2], [2, 2, 9]]}
    second = {"labels": ["z", "y"], "counts": [[0, 0, 1], [1, 0, 1]]}
    cells = [with_outcome(r, measures={"confusion": c}) for r, c in zip(bare, (first, second), strict=True)]
    (found,) = pooled.confusions(cells, A)
    assert found.labels == ("x", "y", "z")
    assert found.counts == ((5, 2, 0), (0, 0, 1), (0, 0, 10))
    (found,) = pooled.confusions(cells, A, most=2)
    assert (found.labels, found.counts, found.hidden) == (("x", "y"), ((5, 2), (0, 0)), 1)
