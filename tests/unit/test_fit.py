"""The training loop: a task's result is its own, whatever shares its batch, its passes or its process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handful.attach import attach, map_params, stack_params
from handful.batches import Rows, stack
from handful.errors import HandfulWarning
from handful.fit import DIVERGED, History, Schedule, evaluate, fit, predict
from handful.losses import binary_cross_entropy, cross_entropy
from handful.methods.lora import LoRA
from handful.optim import OptimizerName
from handful.scoring import Classifier
from handful.types import Batch, Params
from tinytext import random_params, rows_mask, tiny_text, token_pool

POOL = token_pool([5, 9, 3, 7, 4, 12, 6, 8, 2, 10, 5, 3])
INDEX = [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 0, 2, 4]]
CLASSES = [2, 3, 4]
SEEDS = [11, 12, 13]
WIDTH = 32


def labels_of(task: int, multi: bool = False) -> Tensor:
    rows, classes = len(INDEX[task]), CLASSES[task]
    if multi:
        return (torch.arange(rows)[:, None] % torch.arange(2, 2 + classes) == 0).float()
    return (torch.arange(rows) * 5 + task) % classes


def rows_of(tasks: Sequence[int], multi: bool = False) -> Rows:
    labels = [labels_of(t, multi) for t in tasks]
    return stack(POOL, [INDEX[t] for t in tasks], labels, [CLASSES[t] for t in tasks])


def params_of(model: Classifier, tasks: Sequence[int]) -> Params:
    assert model.adapted is not None
    own = []
    for t in tasks:
        params = model.adapted.init(t)
        head = {"weight": torch.zeros(CLASSES[t], WIDTH), "bias": torch.zeros(CLASSES[t])}
        params = random_params(params | {"head": head}, seed=t)
        params["head"] = {n: pad(p, max(CLASSES[i] for i in tasks)) for n, p in params["head"].items()}
        own.append(params)
    return stack_params(own)


def pad(p: Tensor, classes: int) -> Tensor:
    return torch.cat([p, p.new_zeros(classes - p.shape[0], *p.shape[1:])])


def lora(dropout: float = 0.0) -> Classifier:
    return Classifier(attach(tiny_text(), LoRA(rank=2, dropout=dropout)), "mean", 4.0)


def trained(
    tasks: Sequence[int], schedule: Schedule, *, dropout: float = 0.0, multi: bool = False, **options: Any
) -> Any:
    """Params and history of tasks trained together; per-task settings are picked from the schedule's tuples."""
    model = lora(dropout)
    own = {
        name: tuple(value[t] for t in tasks)
        for name in ("steps", "lr", "weight_decay", "l2")
        if isinstance(value := getattr(schedule, name), tuple)
    }
    loss = binary_cross_entropy if multi else cross_entropy
    return fit(
        model, params_of(model, tasks), rows_of(tasks, multi), loss, replace(schedule, **own),
        seed=[SEEDS[t] for t in tasks], **options,
    )  # fmt: skip


def task_params(params: Params, task: int) -> Params:
    return map_params(lambda p: p[task], params)


def own_part(params: Params, place: int, task: int) -> dict[str, Tensor]:
    one = task_params(params, place)
    one["head"] = {name: p[: CLASSES[task]] for name, p in one["head"].items()}
    return {f"{site} {name}": p for site, own in one.items() for name, p in own.items()}


def same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    for name, p in expected.items():
        torch.testing.assert_close(
            got[name], p, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


VARIED = Schedule(
    steps=(4, 7, 5), lr=(2e-2, 5e-3, 1e-2), weight_decay=(0.0, 0.1, 0.01), l2=(0.1, 0.0, 0.2), warmup=0.3, batch_size=3
)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adafactor"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0), (1, 2, 0)])
def test_a_task_alone_and_beside_others(optimizer: OptimizerName, order: tuple[int, ...]) -> None:
    schedule = replace(VARIED, optimizer=optimizer, clip=0.5)
    together, history = trained(order, schedule)
    for place, task in enumerate(order):
        alone, its_history = trained([task], schedule)
        tolerance = 1e-4 if optimizer == "adafactor" else 1e-5  # it divides by the size of the smallest gradients
        same(own_part(together, place, task), own_part(alone, 0, task), tolerance)
        steps = schedule.steps[task]  # type: ignore[index]
        torch.testing.assert_close(history.losses[:steps, place], its_history.losses[:, 0], rtol=1e-4, atol=1e-5)
        assert history.losses[steps:, place].isnan().all()
    untouched = own_part(params_of(lora(), order), 0, order[0])
    assert any(not torch.equal(own_part(together, 0, order[0])[name], p) for name, p in untouched.items())


def test_dropout_is_the_tasks_own() -> None:
    schedule = Schedule(steps=4, lr=1e-2, batch_size=3)
    together, _ = trained([2, 0, 1], schedule, dropout=0.3)
    for place, task in enumerate((2, 0, 1)):
        alone, _ = trained([task], schedule, dropout=0.3, budget=16)
        same(own_part(together, place, task), own_part(alone, 0, task))
    without, _ = trained([2], schedule)
    kept, dropped = own_part(without, 0, 2), own_part(together, 0, 2)
    assert max(float((kept[name] - dropped[name]).abs().max()) for name in kept) > 1e-3


def test_dropout_does_not_see_where_rows_lie_in_the_pool() -> None:
    model, schedule = lora(0.3), Schedule(steps=3, lr=1e-2, batch_size=2)
    found = []
    for order in (list(range(5)), [4, 0, 3, 1, 2]):
        pool = Batch({name: value[order] for name, value in token_pool([5, 9, 3, 7, 4]).inputs.items()}, rows_mask(5))
        rows = stack(pool, [[order.index(i) for i in range(5)]], [labels_of(0)], [2])
        found.append(own_part(fit(model, params_of(model, [0]), rows, cross_entropy, schedule, seed=3)[0], 0, 0))
    same(found[1], found[0])


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_the_plan_does_not_show(multi: bool, batch_size: int | None) -> None:
    schedule = Schedule(steps=4, lr=1e-2, batch_size=batch_size)
    wide, _ = trained([0, 1, 2], schedule, multi=multi, budget=4096)
    for budget in (64, 12, 1):
        narrow, _ = trained([0, 1, 2], schedule, multi=multi, budget=budget)
        for place in range(3):
            same(own_part(narrow, place, place), own_part(wide, place, place))


def test_gradients_of_many_passes_add_up_to_those_of_one() -> None:
    schedule = Schedule(steps=1, lr=1.0, optimizer="sgd", clip=None)
    one, history = trained([2], schedule, budget=10_000)
    many, its_history = trained([2], schedule, budget=1)
    before = own_part(params_of(lora(), [2]), 0, 2)
    step = {name: p - before[name] for name, p in own_part(one, 0, 2).items()}
    same({name: p - before[name] for name, p in own_part(many, 0, 2).items()}, step)
    model = lora()
    leaf = {s: {n: p.clone().requires_grad_() for n, p in own.items()} for s, own in params_of(model, [2]).items()}
    batch = rows_of([2]).take(torch.tensor([0]), torch.arange(7)[None])
    assert batch.labels is not None
    loss = cross_entropy(model(leaf, batch), batch.labels).mean()
    loss.backward()
    torch.testing.assert_close(history.losses[0, 0], loss.detach())
    torch.testing.assert_close(its_history.losses[0, 0], loss.detach())
    for site, own in leaf.items():
        for name, p in own.items():
            assert p.grad is not None
            torch.testing.assert_close(-p.grad[0], step[f"{site} {name}"], rtol=1e-4, atol=1e-6)


def test_classes_that_only_pad_get_no_gradient() -> None:
    for multi in (False, True):
        params, _ = trained([0, 2], Schedule(steps=3, lr=0.1), multi=multi)
        assert (params["head"]["weight"][0, 2:] == 0).all()
        assert (params["head"]["bias"][0, 2:] == 0).all()


# -- heads on plain features, where everything can be written down -----------------------------------------------------


def plain(tasks: int = 2, rows: int = 4, classes: int = 2, width: int = 3) -> tuple[Rows, Params]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tasks * rows, width, generator=generator)
    index = [list(range(t * rows, (t + 1) * rows)) for t in range(tasks)]
    labels = [(torch.arange(rows) + t) % classes for t in range(tasks)]
    pool = Batch({"features": x}, rows_mask(len(x)))
    head = {"weight": torch.randn(tasks, classes, width, generator=generator), "bias": torch.zeros(tasks, classes)}
    return stack(pool, index, labels, [classes] * tasks), {"head": head}


HEAD = Classifier(None)


def test_training_is_plain_gradient_descent() -> None:
    rows, params = plain(1)
    got, history = fit(
        HEAD,
        params,
        rows,
        cross_entropy,
        Schedule(steps=3, lr=0.5, optimizer="sgd", decay="constant", clip=None),
        seed=0,
    )
    w, b = params["head"]["weight"][0].clone(), params["head"]["bias"][0].clone()
    for step in range(3):
        w.requires_grad_(), b.requires_grad_()
        loss = torch.nn.functional.cross_entropy(rows.pool.inputs["features"] @ w.T + b, rows.labels[0])
        torch.testing.assert_close(history.losses[step, 0], loss.detach())
        dw, db = torch.autograd.grad(loss, (w, b))
        w, b = (w - 0.5 * dw).detach(), (b - 0.5 * db).detach()
    torch.testing.assert_close(got["head"]["weight"][0], w)
    torch.testing.assert_close(got["head"]["bias"][0], b)
    assert not got["head"]["weight"].requires_grad


def linear_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Its gradient does not change from step to step."""
    return logits.sum(-1)


def moves(schedule: Schedule, tasks: int = 1, steps: int = 10, scale: Sequence[float] = (1.0,)) -> list[Tensor]:
    """How far each step moves the params `[T, P]` of plain SGD on a constant gradient."""
    rows, params = plain(tasks)
    rows.pool.inputs["features"][:] = 1.0
    factor = torch.tensor(scale)[:, None]
    seen = [params["head"]["weight"].clone()]

    def watch(step: int, now: Params, _: Sequence[int]) -> None:
        seen.append(now["head"]["weight"].clone())

    fit(HEAD, params, rows, lambda x, y: factor * linear_loss(x, y), schedule, seed=0, watch=watch)
    return [(after - before).flatten(1) for before, after in itertools.pairwise(seen)]


@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.3, 1.0])
@pytest.mark.parametrize("decay", ["linear", "constant"])
def test_the_schedule_in_closed_form(warmup: float, decay: str) -> None:
    steps, rising = 10, warmup * 10
    found = moves(Schedule(steps=steps, lr=0.1, optimizer="sgd", warmup=warmup, decay=decay, clip=None))
    for step, move in enumerate(found):
        rate = (step + 1) / (rising + 1) if step < rising else 1.0
        if step >= rising and decay == "linear":
            rate = (steps - step) / (steps - rising)
        torch.testing.assert_close(move, torch.full_like(move, -0.1 * rate))
    assert len(found) == steps


def test_each_task_has_its_own_schedule() -> None:
    found = moves(Schedule(steps=(2, 4), lr=(0.1, 1.0), optimizer="sgd", clip=None), tasks=2)
    rates = [(0.1, 1.0), (0.05, 0.75), (0.0, 0.5), (0.0, 0.25)]
    for move, expected in zip(found, rates, strict=True):
        torch.testing.assert_close(-move[:, 0], torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_clipping_is_each_tasks_own() -> None:
    width = math.sqrt(2 * 3 + 2)  # the constant gradient is one for each of 2 x 3 weights and 2 biases
    found = moves(Schedule(steps=1, lr=1.0, optimizer="sgd", clip=2.0), tasks=3, scale=(100.0, 1.0, 0.1))
    expected = torch.tensor([2 / width, 2 / width, 0.1])
    torch.testing.assert_close(-found[0][:, 0], expected, rtol=1e-4, atol=1e-6)


def test_what_is_clipped_is_the_whole_gradient() -> None:
    rows, params = plain(2)
    big = {"head": {name: 1000 * p for name, p in params["head"].items()}}
    schedule = Schedule(steps=1, lr=1.0, optimizer="sgd", clip=1.0, l2=(0.0, 10.0))
    after, _ = fit(HEAD, big, rows, cross_entropy, schedule, seed=0)
    moved = torch.stack([(after["head"][n] - big["head"][n]).flatten(1).norm(dim=1) for n in big["head"]]).norm(dim=0)
    assert (moved <= 1.001).all()


def test_the_head_may_have_its_own_rate() -> None:
    model, schedule = lora(), Schedule(steps=1, lr=0.0, head_lr=0.1, optimizer="sgd")
    before = params_of(model, [0])
    after, _ = fit(model, before, rows_of([0]), cross_entropy, schedule, seed=0)
    moved = {site: any(not torch.equal(before[site][n], after[site][n]) for n in own) for site, own in before.items()}
    assert [site for site, changed in moved.items() if changed] == ["head"]


def test_l2_is_a_part_of_the_loss_but_not_for_biases() -> None:
    rows, params = plain(1)
    params["head"]["bias"] += 1
    nothing = Schedule(steps=1, lr=0.1, optimizer="sgd", clip=None, l2=2.0)
    after, _ = fit(HEAD, params, rows, lambda x, y: 0 * x.sum(-1), nothing, seed=0)
    torch.testing.assert_close(after["head"]["weight"], params["head"]["weight"] * (1 - 0.1 * 2.0))
    assert torch.equal(after["head"]["bias"], params["head"]["bias"])


def test_an_epoch_sees_every_row_equally_often() -> None:
    for batch_size in (1, 2, 3, 5, 7, 9):
        rows = stack(
            Batch({"features": torch.arange(12.0)[:, None]}, rows_mask(12)), [list(range(7)), [9, 10, 11]],
            [torch.zeros(7, dtype=torch.long), torch.zeros(3, dtype=torch.long)], [1, 1],
        )  # fmt: skip
        seen: list[list[list[float]]] = []

        def model(params: Params, batch: Batch, noise: Any = None, into: list[list[list[float]]] = seen) -> Tensor:
            own = batch.inputs["features"][..., 0]
            into.append([sorted(x[m].tolist()) for x, m in zip(own, batch.row_mask, strict=True)])
            return HEAD(params, batch)

        head = {"weight": torch.zeros(2, 1, 1), "bias": torch.zeros(2, 1)}
        fit(model, {"head": head}, rows, cross_entropy, Schedule(steps=21, batch_size=batch_size), seed=5)
        for task, own in enumerate((range(7), range(9, 12))):
            steps, size = [each[task] for each in seen], min(batch_size, len(own))
            assert all(len(step) == size for step in steps)
            for epoch in range(1, 4):
                if len(own) * epoch % size == 0:
                    upto = [row for step in steps[: len(own) * epoch // size] for row in step]
                    assert sorted(upto) == sorted([*own] * epoch)
        orders = {tuple(each[0]) for each in seen[:7]}
        assert batch_size >= 7 or len(orders) > 1


# -- what goes wrong ---------------------------------------------------------------------------------------------------


class Poisoned:
    """A model whose scores of one task are NaN after some steps; `params["task"]["number"]` is its number."""

    def __init__(self, model: Classifier, after: int, task: int) -> None:
        self.model, self.after, self.task, self.step = model, after, task, 0

    def watch(self, step: int, params: Params, active: Sequence[int]) -> None:
        self.step = step

    def __call__(self, params: Params, batch: Batch, noise: Any = None) -> Tensor:
        hit = (params["task"]["number"] == self.task) & (self.step >= self.after)
        return torch.where(hit[:, None, None], math.nan, self.model(params, batch, noise))


def numbered(params: Params) -> Params:
    return params | {"task": {"number": torch.arange(3.0)}}


@pytest.mark.parametrize("when", [0, 2])
def test_nan_in_one_task_stops_that_task_only(when: int) -> None:
    schedule = Schedule(steps=5, lr=1e-2)
    model, tasks = lora(), [0, 1, 2]
    ill, good = Poisoned(model, when, 1), dict[int, Params]()

    def watch(step: int, params: Params, active: Sequence[int]) -> None:
        ill.watch(step, params, active)
        good[step] = {s: {n: p.clone() for n, p in own.items()} for s, own in params.items()}

    rows, start = rows_of(tasks), numbered(params_of(model, tasks))
    got, history = fit(ill, start, rows, cross_entropy, schedule, seed=SEEDS, watch=watch)
    clean, _ = fit(model, start, rows, cross_entropy, schedule, seed=SEEDS)
    for task in (0, 2):
        same(own_part(got, task, task), own_part(clean, task, task))
    assert list(history.stopped) == [1]
    assert f"nan at step {when + 1}" in history.stopped[1]
    last_good = start if when == 0 else good[when - 1]
    same(own_part(got, 1, 1), own_part(last_good, 1, 1), 0)
    assert history.losses[when, 1].isnan()
    assert history.losses[when + 1 :, 1].isnan().all()
    assert history.losses[:, [0, 2]].isfinite().all()


def test_nan_labels_stop_their_task_only() -> None:
    rows, model = rows_of([0, 1, 2], multi=True), lora()
    clean, _ = trained([0, 1, 2], Schedule(steps=3, lr=1e-2), multi=True)
    labels = rows.labels.clone()
    labels[1, 2, 0] = math.nan
    start = params_of(model, [0, 1, 2])
    got, history = fit(
        model, start, replace(rows, labels=labels), binary_cross_entropy, Schedule(steps=3, lr=1e-2), seed=SEEDS
    )
    assert history.stopped == {1: "the loss was nan at step 1; kept the step before"}
    same(own_part(got, 1, 1), own_part(start, 1, 1), 0)
    for task in (0, 2):
        same(own_part(got, task, task), own_part(clean, task, task))


def test_nan_weights_do_not_reach_other_tasks() -> None:
    schedule, model = Schedule(steps=3, lr=1e-2), lora()
    start = params_of(model, [0, 1, 2])
    ruined = {site: {name: p.clone() for name, p in own.items()} for site, own in start.items()}
    next(iter(ruined.values()))["A"][1, 0, 0] = math.nan
    for budget in (4096, 16):
        got, history = fit(model, ruined, rows_of([0, 1, 2]), cross_entropy, schedule, seed=SEEDS, budget=budget)
        clean, _ = fit(model, start, rows_of([0, 1, 2]), cross_entropy, schedule, seed=SEEDS)
        for task in (0, 2):
            same(own_part(got, task, task), own_part(clean, task, task))
        assert list(history.stopped) == [1]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_into_infinity_is_taken_back(steps: int) -> None:
    rows, params = plain(2)
    schedule = Schedule(steps=steps, lr=(0.1, 3e38), optimizer="sgd", clip=None, weight_decay=10.0)
    got, history = fit(HEAD, params, rows, cross_entropy, schedule, seed=0)
    assert history.stopped == {1: "step 1 led out of the finite numbers and was not taken"}
    assert all(p.isfinite().all() for p in got["head"].values())
    assert torch.equal(got["head"]["weight"][1], params["head"]["weight"][1])
    assert history.losses[:steps, 0].isfinite().all()


def test_divergence_is_noticed_before_infinity() -> None:
    rows, params = plain(1)
    calls = iter([1.0, 1.0, 1e3 * DIVERGED, 1.0, 1.0])
    got, history = fit(HEAD, params, rows, lambda x, y: cross_entropy(x, y) * next(calls), Schedule(steps=5), seed=0)
    assert "at step 3" in history.stopped[0]
    assert len(history.losses) == 3
    assert got["head"]["weight"].isfinite().all()


def test_the_input_is_not_changed() -> None:
    rows, params = plain()
    before = {name: p.clone() for name, p in params["head"].items()}
    fit(HEAD, params, rows, cross_entropy, Schedule(steps=2), seed=0)
    assert all(torch.equal(params["head"][name], p) for name, p in before.items())


def test_no_steps_change_nothing() -> None:
    rows, params = plain()
    got, history = fit(HEAD, params, rows, cross_entropy, Schedule(steps=0), seed=0)
    assert all(torch.equal(got["head"][name], p) for name, p in params["head"].items())
    assert history == History(history.losses, {})
    assert history.losses.shape == (0, 2)


# -- being interrupted -------------------------------------------------------------------------------------------------


class _Stop(Exception):  # noqa: N818
    pass


def interrupted(tmp_path: Path, stop_at: int, **changes: Any) -> tuple[Params, History, dict[str, Tensor]]:
    """A run that is stopped after some steps, then continued in the same folder with `changes`."""
    schedule = replace(VARIED, optimizer=changes.pop("optimizer", "adamw"))
    options = {"checkpoint": tmp_path / "tune.safetensors", "dropout": 0.2}

    def stop(step: int, _: Params, __: Sequence[int]) -> None:
        if step == stop_at:
            raise _Stop

    memory: dict[str, Tensor] = {}

    def look(step: int, params: Params, active: Sequence[int]) -> None:
        memory[f"seen {step}"] = params["head"]["bias"].clone()

    def both(step: int, params: Params, active: Sequence[int]) -> None:
        look(step, params, active)
        stop(step, params, active)

    with pytest.raises(_Stop):
        trained([0, 1, 2], schedule, watch=both, memory=memory, **options)
    memory.clear()
    return *trained([0, 1, 2], replace(schedule, **changes), watch=look, memory=memory, **options), memory


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from handful.checkpoint import Checkpoint

    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_stopped_run_continues_to_the_same_bits(tmp_path: Path, optimizer: OptimizerName) -> None:
    schedule = replace(VARIED, optimizer=optimizer)
    steps: list[int] = []
    whole, history = trained([0, 1, 2], schedule, dropout=0.2, watch=lambda step, _, __: steps.append(step))
    got, continued, memory = interrupted(tmp_path, 5, optimizer=optimizer)
    for site, own in whole.items():
        for name, p in own.items():
            assert torch.equal(got[site][name], p)
    assert torch.equal(continued.losses.nan_to_num(), history.losses.nan_to_num())
    assert sorted(memory) == [f"seen {step}" for step in steps]  # what was seen before the stop is remembered
    again, _ = trained([0, 1, 2], schedule, dropout=0.2, checkpoint=tmp_path / "tune.safetensors")
    assert torch.equal(again["head"]["weight"], whole["head"]["weight"])  # finished already: nothing is left to do


@pytest.mark.usefixtures("every_step")
def test_a_stopped_task_stays_stopped(tmp_path: Path) -> None:
    model, schedule, file = lora(), Schedule(steps=6, lr=1e-2), tmp_path / "x.safetensors"
    start, rows = numbered(params_of(model, [0, 1, 2])), rows_of([0, 1, 2])
    ill = Poisoned(model, 1, 1)
    whole, history = fit(ill, start, rows, cross_entropy, schedule, seed=SEEDS, watch=ill.watch)
    ill.step = 0

    def stop(step: int, params: Params, active: Sequence[int]) -> None:
        ill.watch(step, params, active)
        if step == 4:
            raise _Stop

    with pytest.raises(_Stop):
        fit(ill, start, rows, cross_entropy, schedule, seed=SEEDS, watch=stop, checkpoint=file)
    got, continued = fit(model, start, rows, cross_entropy, schedule, seed=SEEDS, checkpoint=file)
    assert torch.equal(got["head"]["weight"], whole["head"]["weight"])
    assert list(continued.stopped) == list(history.stopped) == [1]


@pytest.mark.usefixtures("every_step")
def test_other_settings_start_anew(tmp_path: Path) -> None:
    expected, _ = trained([0, 1, 2], replace(VARIED, lr=1e-3), dropout=0.2)
    got, history, _ = interrupted(tmp_path, 5, lr=1e-3)
    assert torch.equal(got["head"]["weight"], expected["head"]["weight"])
    assert history.losses[:4].isfinite().all()


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("change", ["texts", "labels", "rows", "seed", "params"])
def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, change: str) -> None:
    model, file, schedule = lora(), tmp_path / "x.safetensors", Schedule(steps=2, lr=1e-2)
    start, rows, seed = params_of(model, [0]), rows_of([0]), 0
    fit(model, start, rows, cross_entropy, schedule, seed=seed, checkpoint=file)
    if change == "texts":
        ids = rows.pool.inputs["input_ids"].clone()
        ids[0, 1] += 1
        rows = replace(rows, pool=rows.pool.with_inputs(input_ids=ids))
    elif change == "labels":
        rows = replace(rows, labels=1 - rows.labels)
    elif change == "rows":
        rows = replace(rows, index=rows.index.flip(1))
    elif change == "seed":
        seed = 1
    else:
        start = random_params(start)
    got, _ = fit(model, start, rows, cross_entropy, schedule, seed=seed, checkpoint=file)
    expected, _ = fit(model, start, rows, cross_entropy, schedule, seed=seed)
    assert torch.equal(got["head"]["weight"], expected["head"]["weight"])


def test_progress_that_cannot_be_kept_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rows, params = plain()
    with pytest.warns(HandfulWarning, match="could not be resumed"):
        got, _ = fit(
            HEAD, params, rows, cross_entropy, Schedule(steps=2), seed=0, checkpoint=tmp_path / "file" / "x.safetensors"
        )
    expected, _ = fit(HEAD, params, rows, cross_entropy, Schedule(steps=2), seed=0)
    assert torch.equal(got["head"]["weight"], expected["head"]["weight"])


# -- scoring -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 30, 4096])
def test_scores_of_many_tasks_are_those_of_each(budget: int) -> None:
    model, tasks = lora(), [2, 0, 1]
    params, rows = params_of(model, tasks), rows_of(tasks)
    scores = evaluate(model, params, rows, budget=budget)
    assert scores.shape == (3, 7, 4)
    for place, task in enumerate(tasks):
        n, classes = len(INDEX[task]), CLASSES[task]
        one = task_params(params, place)
        one["head"] = {name: p[:classes] for name, p in one["head"].items()}
        own = Batch({name: value[INDEX[task]] for name, value in POOL.inputs.items()}, rows_mask(n))
        torch.testing.assert_close(scores[place, :n, :classes], predict(model, one, own, classes), rtol=1e-4, atol=1e-5)
        assert (scores[place, :n, classes:] == float("-inf")).all()
        assert (scores[place, n:] == 0).all()
