"""Linear heads on rotated features: the same optimum as scikit-learn's, whatever else is in the stack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from handful.crossval import FINAL, Plan
from handful.heads import Head, Rotated, Sets, choices, cross_validate, final_heads, fit_heads
from handful.prompts import targets
from handful.scoring import prototype_head
from handful.types import Task
from tinytext import rows_mask, tiny_multilabel, tiny_task


def features(rows: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    return (x - x.mean(0)) / x.square().sum(1).mean().sqrt()


def plan_of(tasks: list[Task], num_folds: int = 3) -> Plan:
    return Plan.of(tasks, [targets(task) for task in tasks], num_folds, seed=0)


@pytest.mark.parametrize(("rows", "width"), [(6, 40), (40, 6), (5, 5)])
def test_a_rotation_keeps_all_products(rows: int, width: int) -> None:
    x = features(rows, width)
    rotated = Rotated.of(x)
    assert rotated.z.shape[1] <= min(rows, width)
    torch.testing.assert_close(rotated.z @ rotated.z.mT, x @ x.mT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotated.z @ rotated.basis, x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotated.basis @ rotated.basis.mT, torch.eye(len(rotated.basis)), rtol=1e-4, atol=1e-5)
    weight = torch.randn(3, rotated.z.shape[1])
    torch.testing.assert_close(x @ rotated.back(weight).mT, rotated.z @ weight.mT, rtol=1e-4, atol=1e-5)
    padded = torch.cat([weight, torch.ones(3, 2)], 1)  # as in a stack with wider tasks
    torch.testing.assert_close(rotated.back(padded), rotated.back(weight))


def test_directions_without_weight_are_dropped() -> None:
    assert Rotated.of(features(4, 9).repeat(3, 1)).z.shape[1] == 3  # centred: one less than the distinct rows
    assert Rotated.of(torch.zeros(3, 5)).z.shape == (3, 0)


@pytest.mark.parametrize("c", [1.0, 100.0])
def test_the_optimum_is_scikit_learns(c: float) -> None:
    task, x = tiny_task(3, 5), features(15, 30)
    rotated = Rotated.of(x)
    sets, plan = Sets.of([[rotated]]), plan_of([task])
    head = fit_heads(plan, sets, [Head(0, FINAL, 0, c, 1500)])["head"]
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x.numpy(), targets(task).numpy())
    ours = (x @ rotated.back(head["weight"][0]).mT + head["bias"][0]).softmax(-1).numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(x.numpy()), atol=3e-3)


def test_no_steps_are_the_prototypes() -> None:
    task, x = tiny_task(3, 4), features(12, 7)
    rotated = Rotated.of(x)
    head = fit_heads(plan_of([task]), Sets.of([[rotated]]), [Head(0, FINAL, 0, 1.0, 0)])["head"]
    expected = prototype_head(x, targets(task), rows_mask(12), 3)
    torch.testing.assert_close(rotated.back(head["weight"][0]), expected["weight"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head["bias"][0], expected["bias"], rtol=1e-4, atol=1e-5)


def many() -> tuple[list[Task], list[list[Rotated]]]:
    tasks = [tiny_task(2, 4), tiny_task(4, 3, name="more"), tiny_task(2, 7, name="most")]
    sizes = [len(task.examples) for task in tasks]
    return tasks, [[Rotated.of(features(n, w, seed=n)) for n in sizes] for w in (5, 50)]


@pytest.mark.parametrize("stops", [(20, 5), (0,)])
def test_tasks_and_sets_in_one_stack_are_as_alone(stops: tuple[int, ...]) -> None:
    tasks, rotated = many()
    together = cross_validate(plan_of(tasks), Sets.of(rotated), (10.0, 1.0), stops)
    finals = final_heads(plan_of(tasks), Sets.of(rotated), [(10.0, 20)] * 3)["head"]
    for t, task in enumerate(tasks):
        alone = cross_validate(plan_of([task]), Sets.of([[own[t]] for own in rotated]), (10.0, 1.0), stops)
        n, classes = len(task.examples), len(task.labels)
        (scores, inner), (its_scores, its_inner) = together[t], alone[0]
        assert scores.shape == (2 * len(stops), 2, n, classes)
        np.testing.assert_allclose(scores, its_scores, rtol=1e-4, atol=2e-5)
        assert len(inner) == len(its_inner) == 3
        for own, its in zip(inner, its_inner, strict=True):
            np.testing.assert_allclose(own, its, rtol=1e-4, atol=2e-5)
        final = final_heads(plan_of([task]), Sets.of([[own[t]] for own in rotated]), [(10.0, 20)])["head"]
        for j, own in enumerate(rotated):
            width, member = own[t].z.shape[1], j * len(tasks) + t
            torch.testing.assert_close(
                finals["weight"][member, :classes, :width], final["weight"][j, :, :width], rtol=1e-4, atol=2e-5
            )
            assert (finals["weight"][member, :, width:] == 0).all()
            assert (finals["weight"][member, classes:] == 0).all()


def test_the_choices_are_in_the_order_of_the_scores() -> None:
    tasks, rotated = many()
    plan, cs, stops = plan_of(tasks[:1]), (10.0, 0.1), (30, 2)
    found = cross_validate(plan, Sets.of([rotated[0][:1]]), cs, stops)[0][0]
    assert choices(cs, stops) == [(10.0, 30), (10.0, 2), (0.1, 30), (0.1, 2)]
    norms = np.abs(found - found.mean(-1, keepdims=True)).mean(axis=(1, 2, 3))
    assert norms[0] > norms[2]  # weaker and stronger regularisation, both at 30 steps
    again = cross_validate(plan, Sets.of([rotated[0][:1]]), cs, (2, 30))[0][0]
    np.testing.assert_allclose(again[[1, 0, 3, 2]], found, atol=0.2)  # the schedule is of the longest


def test_scores_of_held_out_rows_are_of_heads_that_did_not_see_them() -> None:
    tasks, rotated = many()
    task, x = tasks[2], rotated[0][2].z
    plan = plan_of([task])
    ((found, _),) = cross_validate(plan, Sets.of([[rotated[0][2]]]), (10.0,), (30,))
    for fold in plan.folds[0]:
        kept = np.setdiff1d(np.arange(len(x)), fold)
        y = targets(task)
        assert set(y[kept].tolist()) == {0, 1}
        own = Plan.of([Task("kept", [task.examples[i] for i in kept], task.labels)], [y[kept]], 2, seed=0)
        part = Sets.of([[Rotated(x[kept], rotated[0][2].basis)]])
        head = fit_heads(own, part, [Head(0, FINAL, 0, 10.0, 30)])["head"]
        scores = x[fold] @ head["weight"][0].mT + head["bias"][0]
        np.testing.assert_allclose(found[0, 0, fold], scores.numpy(), rtol=1e-3, atol=1e-4)


def test_inner_scores_are_of_heads_that_saw_neither_fold() -> None:
    tasks, rotated = many()
    task, rotation = tasks[2], rotated[0][2]
    plan, y = plan_of([task]), targets(task)
    ((_, inner),) = cross_validate(plan, Sets.of([[rotation]]), (10.0,), (30,))
    fold = plan.fold_of_row(0)
    for f, own in enumerate(inner):
        assert np.isnan(own[0, 0, fold == f]).all()
        for g in {0, 1, 2} - {f}:
            kept = np.flatnonzero((fold != f) & (fold != g))
            few = Plan.of([Task("kept", [task.examples[i] for i in kept], task.labels)], [y[kept]], 2, seed=0)
            head = fit_heads(few, Sets.of([[Rotated(rotation.z[kept], rotation.basis)]]), [Head(0, FINAL, 0, 10.0, 30)])
            scores = rotation.z[fold == g] @ head["head"]["weight"][0].mT + head["head"]["bias"][0]
            np.testing.assert_allclose(own[0, 0, fold == g], scores.numpy(), rtol=1e-3, atol=1e-4)


def test_several_labels_at_once() -> None:
    task = tiny_multilabel(16)
    x = features(16, 20)
    ((found, _),) = cross_validate(plan_of([task]), Sets.of([[Rotated.of(x)]]), (10.0,), (30,))
    assert found.shape == (1, 1, 16, 2)
    head = fit_heads(plan_of([task]), Sets.of([[Rotated.of(x)]]), [Head(0, FINAL, 0, 1000.0, 600)])["head"]
    scores = x @ Rotated.of(x).back(head["weight"][0]).mT + head["bias"][0]
    assert torch.equal((scores > 0).float(), targets(task))
