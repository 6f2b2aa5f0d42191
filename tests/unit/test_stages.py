"""What methods ask of training: rates, decay, a penalty, and stages from one method to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handful.attach import attach
from handful.batches import Rows, stack
from handful.errors import RequestError
from handful.fisher import fisher
from handful.fit import Schedule, evaluate, fit
from handful.losses import cross_entropy
from handful.methods import Method
from handful.methods.combine import union
from handful.methods.fish import FishMask
from handful.methods.lora import LoRA
from handful.methods.prefix import PrefixMLP, PrefixTuning
from handful.methods.sparse import SparseDelta
from handful.methods.variants import OnLayers, OverTasks
from handful.scoring import Classifier
from handful.stages import Trained, train
from handful.types import Params, Site, stack_params, task_params
from tiny import HIDDEN
from tinytext import tiny_text, token_pool

POOL = token_pool([5, 9, 3, 7, 4, 6, 8, 2])
INDEX = [[0, 1, 2, 3, 4], [5, 6, 7]]
SGD = Schedule(steps=1, lr=0.1, clip=None, optimizer="sgd", decay="constant")


@dataclass(frozen=True, kw_only=True)
class Asking(LoRA):
    """A LoRA with hooks."""

    slow: float = 1.0
    pull: float = 0.0
    bare: bool = False

    def rate(self, name: str) -> float:
        return self.slow if name == "A" else 1.0

    def decays(self, name: str) -> bool:
        return not (self.bare and name == "A")

    def penalty(self, params: Params) -> Tensor | float:
        squares = [p.square().flatten(1).sum(1) for own in params.values() for p in own.values()]
        return self.pull * torch.stack(squares).sum(0) if self.pull else 0.0


def model_of(method: Method) -> Classifier:
    return Classifier(attach(tiny_text(), method), "mean", 4.0)


def start(model: Classifier) -> Params:
    assert model.adapted is not None
    params = stack_params([model.adapted.init(t) for t in range(2)])
    noise = torch.randn(2, 2, HIDDEN, generator=torch.Generator().manual_seed(2))
    return params | {"head": {"weight": noise, "bias": torch.zeros(2, 2)}}


def rows() -> Rows:
    return stack(POOL, INDEX, [torch.arange(len(own)) % 2 for own in INDEX], [2, 2])


def moved(method: Method, schedule: Schedule = SGD, **options: Any) -> dict[str, Tensor]:
    """By how much each parameter of the method moves, by its name at the first site."""
    model = model_of(method)
    before = start(model)
    after, _ = fit(model, before, rows(), cross_entropy, schedule, seed=0, method=method, **options)
    site = next(iter(before))
    return {name: after[site][name] - p for name, p in before[site].items()}


# -- rates, decay, penalty ---------------------------------------------------------------------------------------------


def test_a_rate_multiplies_and_zero_holds() -> None:
    start_b = Schedule(steps=2, lr=0.1, clip=None, optimizer="sgd", decay="constant")  # B moves first, then A
    plain, half, held = (moved(Asking(rank=2, slow=slow), start_b) for slow in (1.0, 0.5, 0.0))
    assert plain["A"].abs().max() > 0
    torch.testing.assert_close(half["A"], 0.5 * plain["A"])
    assert not held["A"].any()
    torch.testing.assert_close(held["B"], plain["B"])


def test_decay_spares_what_asks_for_it() -> None:
    decayed = Schedule(steps=1, lr=0.1, clip=None, optimizer="sgd", decay="constant", weight_decay=0.5)
    bare, worn = moved(Asking(rank=2, bare=True), decayed), moved(Asking(rank=2), decayed)
    before = next(iter(start(model_of(Asking(rank=2))).values()))
    assert not bare["A"].any()  # at the first step only B has a gradient
    torch.testing.assert_close(worn["A"], -0.1 * 0.5 * before["A"])


@pytest.mark.parametrize("budget", [8, 10_000])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: OnLayers(method=m), lambda m: union(m, PrefixTuning())])
def test_a_penalty_counts_once_a_step_whatever_the_passes(budget: int, wrap: Any) -> None:
    pulled, plain = (moved(wrap(Asking(rank=2, pull=pull)), budget=budget) for pull in (0.3, 0.0))
    (name,) = (name for name in plain if name.endswith("A"))
    before = next(own for site, own in start(model_of(wrap(Asking(rank=2)))).items() if name in own)
    torch.testing.assert_close(pulled[name], -0.1 * 0.3 * 2 * before[name])
    assert not plain[name].any()


def test_tasks_in_common_take_the_same_steps() -> None:
    with pytest.raises(RequestError, match="different steps or learning rates"):
        moved(OverTasks(method=LoRA(rank=2)), Schedule(steps=[1, 2], lr=0.1))


# -- stages ------------------------------------------------------------------------------------------------------------


def test_fisher_is_the_mean_of_squared_gradients_row_by_row() -> None:
    model = model_of(FishMask(fraction=0.01))
    params, each = start(model), rows()
    found = fisher(model, params, each, cross_entropy, budget=20)
    for task, own in enumerate(INDEX):
        expected: dict[tuple[str, str], Tensor] = {}
        for place in range(len(own)):
            one = task_params(params, task)
            leaves = {(s, n): p.clone().requires_grad_() for s, parts in one.items() for n, p in parts.items()}
            tree: Params = {}
            for (site, name), p in leaves.items():
                tree.setdefault(site, {})[name] = p
            batch = each.take(torch.tensor([task]), torch.tensor([[place]]))
            assert batch.labels is not None
            logits = model({s: {n: p[None] for n, p in parts.items()} for s, parts in tree.items()}, batch)
            loss = cross_entropy(logits, batch.labels).sum()
            named = [key for key in leaves if key[0] != "head"]
            grads = torch.autograd.grad(loss, [leaves[key] for key in named], allow_unused=True, materialize_grads=True)
            for key, grad in zip(named, grads, strict=True):
                expected[key] = expected.get(key, torch.zeros_like(grad)) + grad.square() / len(own)
        for (site, name), value in expected.items():
            torch.testing.assert_close(found[site][name][task], value, rtol=1e-4, atol=1e-8)
    assert "head" not in found


def through(method: Method, steps: int = 6, checkpoint: Path | None = None, said: list[str] | None = None) -> Trained:
    model = model_of(method)

    def progress(stage: str, share: float) -> None:
        if said is not None and stage not in said:
            said.append(stage)

    return train(
        model, start(model), lambda _: rows(), cross_entropy, Schedule(steps=steps, lr=1e-2), seed=[0, 1],
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip


def kept(trained: Trained) -> Sequence[Tensor]:
    return [p for own in trained.params.values() for p in own.values()]


def test_a_mask_is_chosen_by_fisher_information_and_tuned() -> None:
    said = list[str]()
    trained = through(FishMask(fraction=0.01), said=said)
    assert isinstance(trained.adapted.method, SparseDelta)
    shared = trained.params["shared"]
    assert (shared["value"] != 0).float().mean() > 0.9
    assert not torch.equal(shared["index"][0], shared["index"][1])  # each task its own
    assert said == ["tuning again"]


def test_a_reparametrised_prefix_ends_as_a_prefix_that_answers_the_same() -> None:
    trained = through(PrefixMLP(num_tokens=3, width=8))
    assert isinstance(trained.adapted.method, PrefixTuning)
    model = model_of(PrefixMLP(num_tokens=3, width=8))
    own, _ = fit(model, start(model), rows(), cross_entropy, Schedule(steps=6, lr=1e-2), seed=[0, 1])
    torch.testing.assert_close(
        evaluate(trained.model, trained.params, rows()), evaluate(model, own, rows()), rtol=1e-4, atol=1e-5
    )


def test_what_turns_into_nothing_else_is_trained_once() -> None:
    trained, model = through(LoRA(rank=2)), model_of(LoRA(rank=2))
    own, _ = fit(model, start(model), rows(), cross_entropy, Schedule(steps=6, lr=1e-2), seed=[0, 1])
    assert trained.adapted.method == LoRA(rank=2)
    for site, parts in own.items():
        for name, p in parts.items():
            assert torch.equal(trained.params[site][name], p)


def test_stages_continue_where_they_were(tmp_path: Path) -> None:
    first = through(FishMask(fraction=0.01), checkpoint=tmp_path / "progress.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["progress-1.safetensors"]
    again = through(FishMask(fraction=0.01), checkpoint=tmp_path / "progress.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(kept(first), kept(again), strict=True))


def test_a_method_says_what_it_is_not_by_default() -> None:
    assert str(LoRA(rank=4)) == "LoRA(rank=4)"
    assert LoRA().finished({}, list[Site]()) == (LoRA(), {})
