"""Folds as members of one stack, and what their scores decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from handful.crossval import FINAL, Plan, Verdict, judge
from handful.prompts import targets
from handful.types import Batch, Example, Task
from tinytext import rows_mask, tiny_multilabel, tiny_task


def plan_of(tasks: list[Task], num_folds: int = 4) -> Plan:
    return Plan.of(tasks, [targets(task) for task in tasks], num_folds, seed=0)


def alone() -> Task:
    return Task("alone", [Example("a", None, "x"), Example("b", None, "y")], ("x", "y"))


TASKS = [tiny_task(2, 5), alone(), tiny_task(3, 2, name="few")]


def test_members_and_their_rows() -> None:
    plan = plan_of(TASKS)
    sizes = [len(task.examples) for task in TASKS]
    assert list(plan.offsets) == [0, 10, 12]
    assert [len(folds) for folds in plan.folds] == [4, 0, 2]
    members = plan.members()
    folds = [(0, (0,)), (0, (1,)), (0, (2,)), (0, (3,)), (2, (0,)), (2, (1,))]
    assert sorted(members) == sorted([*folds, (0, FINAL), (1, FINAL), (2, FINAL)])
    pairs = [(0, (f, g)) for f in range(4) for g in range(f + 1, 4)]
    assert sorted(plan.nested()) == sorted([*folds, *pairs])  # of two folds no pair can be left out
    pool = Batch({"features": torch.arange(float(sum(sizes)))[:, None]}, rows_mask(sum(sizes)))
    members = [*members, *pairs]
    training, asked = plan.training(pool, members), [*folds, *pairs]
    held = plan.held_out(pool, asked)
    for m, (t, f) in enumerate(members):
        own = set(training.index[m][training.index[m] >= 0].tolist())
        everything = set(range(plan.offsets[t], plan.offsets[t] + sizes[t]))
        if f == FINAL:
            assert own == everything
        else:
            out = held.index[asked.index((t, f))]
            assert own == everything - set(out[out >= 0].tolist())
        assert set(training.labels[m][training.index[m] >= 0].tolist()) == set(range(len(TASKS[t].labels)))
    for t, task in enumerate(TASKS):
        fold = plan.fold_of_row(t)
        assert fold.shape == (sizes[t],)
        assert {i for own in plan.folds[t] for i in own} == set(np.flatnonzero(fold >= 0))
        assert len(task.examples) == sizes[t]


def test_scores_find_their_rows_again() -> None:
    plan = plan_of(TASKS)
    folds = plan.nested()
    lists = [np.concatenate([plan.folds[t][f] for f in held]) for t, held in folds]
    scores = torch.zeros(len(folds), max(map(len, lists)), 3)
    for m, (t, own) in enumerate(folds):
        for column, row in enumerate(lists[m]):
            scores[m, column] = 1000 * len(own) + 100 * t + float(row)
    for t in (0, 2):
        out = plan.gather(folds, scores, t)
        held = plan.fold_of_row(t) >= 0
        assert out.shape == (len(TASKS[t].examples), len(TASKS[t].labels))
        assert (out[held] == 1000 + 100 * t + np.flatnonzero(held)[:, None]).all()
        assert np.isnan(out[~held]).all()
    fold = plan.fold_of_row(0)
    for without in range(4):
        out = plan.gather(folds, scores, 0, without)
        others = (fold >= 0) & (fold != without)
        assert (out[others] == 2000 + np.flatnonzero(others)[:, None]).all()
        assert np.isnan(out[~others]).all()


def judged(plan: Plan, scores: np.ndarray) -> Verdict:
    """With the same scores inside: as if leaving out a second fold changed nothing."""
    return judge(plan, 0, scores, [scores] * len(plan.folds[0]), seed=0)


def scores_of(task: Task, quality: float, seed: int = 0) -> np.ndarray:
    rng, y = np.random.default_rng(seed), targets(task).numpy()
    truth = y * 2 - 1 if y.ndim == 2 else np.eye(len(task.labels))[y]
    return quality * truth + rng.normal(size=(len(y), len(task.labels)))


@pytest.mark.parametrize("task", [tiny_task(3, 10), tiny_multilabel(30)], ids=["one label", "several"])
def test_the_better_choice_and_the_better_part_win(task: Task) -> None:
    plan = plan_of([task])
    bad, good = scores_of(task, 0.0), scores_of(task, 4.0, 1)
    verdict = judged(plan, np.stack([[bad, bad], [bad, good]]))
    assert verdict.mixture.choice == 1
    assert verdict.mixture.weights[1] > 5 * verdict.mixture.weights[0]
    assert verdict.estimate.accuracy.value is not None
    assert verdict.estimate.accuracy.value > 0.8
    assert verdict.temperature > 0


def test_without_inner_scores_nothing_is_chosen() -> None:
    task = tiny_task(2, 8)
    bad, good = scores_of(task, 0.0), scores_of(task, 4.0, 1)
    verdict = judge(plan_of([task], 2), 0, np.stack([[bad, good], [good, good]]), [], seed=0)
    assert (verdict.mixture.choice, verdict.mixture.weights.tolist()) == (0, [1, 0])


def test_ties_go_to_the_best_liked() -> None:
    task = tiny_task(2, 8)
    scores = scores_of(task, 1.0)
    verdict = judged(plan_of([task]), np.stack([[scores], [scores], [scores]]))
    assert verdict.mixture.choice == 0


def test_choosing_among_noise_does_not_flatter() -> None:
    """The best of 20 guesses looks far better than chance; what is reported does not."""
    task = tiny_task(2, 10)
    plan, reported, best = plan_of([task]), [], []
    for seed in range(12):
        noise = np.stack([[scores_of(task, 0.0, 100 * seed + i)] for i in range(20)])
        verdict = judged(plan, noise)
        reported.append(verdict.estimate.accuracy.value)
        best.append((noise[verdict.mixture.choice, 0].argmax(-1) == targets(task).numpy()).mean())
    assert np.mean(best) > 0.6
    assert np.mean(reported) < 0.56


def test_a_part_is_calibrated_before_it_is_weighed() -> None:
    """A part that is only too loud counts as much as its quiet twin."""
    task = tiny_task(2, 20)
    good = scores_of(task, 2.0)
    verdict = judged(plan_of([task]), np.stack([[good, 5 * good]]))
    quiet, loud = verdict.mixture.weights * [1, 5]
    assert 0.8 < quiet / loud < 1.25


def test_nothing_held_out_decides_nothing() -> None:
    plan = plan_of([alone()])
    verdict = judge(plan, 0, np.full((3, 2, 2, 2), np.nan), [], seed=0)
    assert verdict.mixture.choice == 0
    assert verdict.mixture.weights.tolist() == [1, 0]
    assert verdict.temperature == 1.0
    assert verdict.estimate.accuracy.value is None
    assert verdict.estimate.n == 0
    assert verdict.estimate.warnings
