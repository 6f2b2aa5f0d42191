"""Meta-gradients against closed forms, finite differences and each other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from handful import generator
from handful.errors import MethodError
from handful.implicit import IMaml
from handful.inner import Inner, adapt, chosen, task_losses, trajectory
from handful.losses import cross_entropy
from handful.meta import Algorithm, Maml, Question, Reptile
from handful.noise import Noise
from handful.scoring import Classifier
from handful.types import Batch, Params

T, P, ALPHA = 3, 4, 0.1


# -- quadratic tasks, for which everything is known -------------------------------------------------------------------
class Identity:
    """Features are the parameters themselves, `[T, 1, P]`, and so are the scores."""

    def features(self, params: Params, batch: Batch, noise: Noise | None = None, second_order: bool = False) -> Tensor:
        return params["site"]["u"][..., None, :] + 0 * batch.inputs["x"]

    def read(self, head: Mapping[str, Tensor], x: Tensor, batch: Batch) -> Tensor:
        return x

    def prototypes(self, x: Tensor, batch: Batch, num_classes: int) -> dict[str, Tensor]:
        return {}


def quadratic(scores: Tensor, labels: Tensor) -> Tensor:
    """`(u - a)' A (u - a) / 2` of `labels [..., P + P * P]`, which hold a and A."""
    a, A = labels[..., :P], labels[..., P:].unflatten(-1, (P, P))
    return 0.5 * torch.einsum("...i,...ij,...j->...", scores - a, A, scores - a)


@dataclass(frozen=True)
class Quadratics:
    """T tasks whose support and query losses are quadratic; `A [T, P, P]` and `a [T, P]`, C and c for the query."""

    A: Tensor
    a: Tensor
    C: Tensor
    c: Tensor
    phi: Tensor

    @staticmethod
    def drawn() -> Quadratics:
        random = torch.Generator().manual_seed(0)

        def positive() -> Tensor:
            m = torch.randn(T, P, P, generator=random, dtype=torch.float64)
            return m @ m.mT / P + torch.eye(P, dtype=torch.float64)

        a, c = torch.randn(2, T, P, generator=random, dtype=torch.float64)
        return Quadratics(positive(), a, positive(), c, torch.randn(P, generator=random, dtype=torch.float64))

    def question(self) -> Question:
        def batch(center: Tensor, curve: Tensor) -> Batch:
            labels = torch.cat([center, curve.flatten(1)], 1)[:, None]
            mask = torch.ones(T, 1, dtype=torch.bool)
            return Batch({"x": torch.zeros(T, 1, P, dtype=torch.float64)}, mask, labels, torch.ones(T, 1) > 0)

        return Question(batch(self.a, self.A), batch(self.c, self.C))

    def learned(self) -> Params:
        return {"site": {"u": self.phi.clone().requires_grad_()}, "head": {}}

    def path(self, steps: int, rate: float = ALPHA) -> list[Tensor]:
        """phi_0 to phi_K, `[T, P]` each."""
        phi = [self.phi.expand(T, P)]
        for _ in range(steps):
            phi.append(phi[-1] - rate * torch.einsum("tij,tj->ti", self.A, phi[-1] - self.a))
        return phi

    def query_gradient(self, phi: Tensor) -> Tensor:
        return torch.einsum("tij,tj->ti", self.C, phi - self.c)


def gradient(algorithm: Algorithm, learned: Params, question: Question, site: str = "site", name: str = "u") -> Tensor:
    outcome = algorithm(Identity(), learned, question, quadratic, {}, 1.0)
    assert outcome.losses.shape == (T,)
    return torch.autograd.grad(outcome.objective.sum(), learned[site][name])[0]


TASKS = Quadratics.drawn()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_maml_is_the_product_of_the_step_matrices(steps: int) -> None:
    inner = Inner(steps=steps, lr=ALPHA)
    found = gradient(Maml(inner, "learned", second_order=True), TASKS.learned(), TASKS.question())
    step = torch.eye(P, dtype=torch.float64) - ALPHA * TASKS.A
    g = TASKS.query_gradient(TASKS.path(steps)[-1])
    for _ in range(steps):
        g = torch.einsum("tij,tj->ti", step, g)
    torch.testing.assert_close(found, g.sum(0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_maml_is_the_query_gradient_at_the_end(steps: int) -> None:
    found = gradient(Maml(Inner(steps=steps, lr=ALPHA), "learned"), TASKS.learned(), TASKS.question())
    expected = TASKS.query_gradient(TASKS.path(steps)[-1]).sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_reptile_sums_the_inner_gradients() -> None:
    found = gradient(Reptile(Inner(steps=3, lr=ALPHA), "learned"), TASKS.learned(), TASKS.question())
    each = [torch.einsum("tij,tj->ti", TASKS.A, phi - TASKS.a) for phi in TASKS.path(3)[:-1]]
    torch.testing.assert_close(found, torch.stack(each).sum((0, 1)), rtol=1e-12, atol=1e-12)


def test_imaml_is_the_implicit_gradient() -> None:
    strength = 2.0
    algorithm = IMaml(Inner(steps=400, lr=ALPHA), "learned", strength=strength, solver_steps=P)
    found = gradient(algorithm, TASKS.learned(), TASKS.question())
    eye = torch.eye(P, dtype=torch.float64)
    right = torch.einsum("tij,tj->ti", TASKS.A, TASKS.a) + strength * TASKS.phi
    best = torch.linalg.solve(TASKS.A + strength * eye, right)
    expected = torch.linalg.solve(eye + TASKS.A / strength, TASKS.query_gradient(best)).sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_rates_learn_by_the_inner_product_of_gradients() -> None:
    """For one step: of Meta-SGD -g * g_query, of one rate a tensor their sum (sheet, 1.4 and LSLR)."""
    g = torch.einsum("tij,tj->ti", TASKS.A, TASKS.phi - TASKS.a)
    expected = -g * TASKS.query_gradient(TASKS.path(1)[-1])
    for kind, wanted in (("element", expected.sum(0)), ("tensor", expected.sum()[None])):
        inner = Inner(steps=1, lr=ALPHA, rates=kind)  # type: ignore[arg-type]
        learned = TASKS.learned()
        learned["rates"] = inner.init_rates({"site": learned["site"]}, {})
        learned["rates"] = {name: p.requires_grad_() for name, p in learned["rates"].items()}
        for second_order in (False, True):
            algorithm = Maml(inner, "learned", second_order=second_order)
            found = gradient(algorithm, learned, TASKS.question(), "rates", "site/u")
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_multi_step_losses_weigh_every_step_at_first_and_the_last_one_later() -> None:
    algorithm = Maml(Inner(steps=3, lr=ALPHA), "learned", multi_step=True)
    path = TASKS.path(3)
    for progress, weights in ((0.0, (1 / 3, 1 / 3, 1 / 3)), (1 / 6, (1 / 6, 1 / 6, 2 / 3)), (1.0, (0, 0, 1))):
        learned = TASKS.learned()
        outcome = algorithm(Identity(), learned, TASKS.question(), quadratic, {}, progress)
        found = torch.autograd.grad(outcome.objective.sum(), learned["site"]["u"])[0]
        each = [w * TASKS.query_gradient(phi) for w, phi in zip(weights, path[1:], strict=True)]
        torch.testing.assert_close(found, torch.stack(each).sum((0, 1)), rtol=1e-12, atol=1e-12)


def test_what_neither_loop_names_gets_no_gradient_and_what_one_holds_is_held() -> None:
    assert chosen(["*", "!*/bias"], "a.b", "weight")
    assert not chosen(["*", "!*/bias"], "a.b", "bias")
    held = Maml(Inner(steps=3, lr=ALPHA, names=("other/*",)), "learned")
    found = gradient(held, TASKS.learned(), TASKS.question())
    torch.testing.assert_close(found, TASKS.query_gradient(TASKS.phi.expand(T, P)).sum(0))


def test_learned_rates_are_refused_where_there_is_no_gradient_for_them() -> None:
    for algorithm in (Reptile(Inner(rates="tensor")), IMaml(Inner(rates="tensor"))):
        with pytest.raises(MethodError, match="no gradient for them"):
            algorithm(Identity(), TASKS.learned(), TASKS.question(), quadratic, {}, 1.0)


def test_imaml_refuses_what_the_inner_loop_holds() -> None:
    with pytest.raises(MethodError, match="holds site/u"):
        gradient(IMaml(Inner(names=("other/*",)), "learned"), TASKS.learned(), TASKS.question())


def test_a_clipped_step_is_shortened_for_each_task_alone() -> None:
    params = {"site": {"u": TASKS.phi.expand(T, P)}, "head": {}}
    inner = Inner(steps=1, lr=1.0, clip=0.5)
    after = adapt(Identity(), params, TASKS.question().support, quadratic, inner)
    moved = (after["site"]["u"] - TASKS.phi).norm(dim=1)
    torch.testing.assert_close(moved, torch.full((T,), 0.5, dtype=torch.float64), rtol=1e-5, atol=1e-5)


# -- a small classifier ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Mlp:
    """tanh of a linear map, as features for `Classifier`'s heads."""

    def features(self, params: Params, batch: Batch, noise: Noise | None = None, second_order: bool = False) -> Tensor:
        w = params["body"]["w"]
        context = params["context"]["c"]
        if batch.num_tasks is not None:
            context = context[:, None]
        return torch.tanh(batch.inputs["features"] @ w.mT + context)

    read = Classifier(None).read
    prototypes = Classifier(None).prototypes


def episodes(counts: tuple[int, ...] = (2, 3, 2), classes: tuple[int, ...] = (2, 3, 2), seed: int = 0) -> Question:
    random = torch.Generator().manual_seed(seed)

    def batch(rows: int) -> Batch:
        B, C = rows * max(classes), max(classes)
        x = torch.randn(len(classes), B, 5, generator=random, dtype=torch.float64)
        labels = torch.stack([torch.arange(B) % c for c in classes])
        mask = torch.stack([torch.arange(B) < n * c for n, c in zip(counts, classes, strict=True)])
        present = torch.stack([torch.arange(C) < c for c in classes])
        return Batch({"features": torch.where(mask[..., None], x, 0.0)}, mask, labels, present)

    return Question(batch(3), batch(2))


def body(seed: int = 0) -> Params:
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(4, 5, generator=random, dtype=torch.float64)
    return {"body": {"w": w}, "context": {"c": torch.zeros(4, dtype=torch.float64)}}


def with_extras(algorithm: Algorithm, learned: Params, made: str) -> Params:
    learned = {site: dict(own) for site, own in learned.items()}
    if algorithm.head == "learned":
        learned["head"] = {"weight": torch.randn(3, 4).double(), "bias": torch.zeros(3).double()}
    if made == "generated":
        learned["generator"] = generator.init(4, 3, seed=1, dtype=torch.float64)
    if algorithm.inner.rates != "given":
        learned["rates"] = algorithm.inner.init_rates({s: p for s, p in learned.items() if s != "generator"}, {})
    return learned


SECOND: dict[str, tuple[Algorithm, str]] = {
    "maml": (Maml(Inner(steps=1), "zeros", second_order=True), ""),
    "maml-3": (Maml(Inner(steps=3), "zeros", second_order=True), ""),
    "maml-learned-head": (Maml(Inner(steps=2), "learned", second_order=True), ""),
    "meta-sgd": (Maml(Inner(steps=1, rates="element"), "zeros", second_order=True), ""),
    "lslr": (Maml(Inner(steps=3, rates="tensor"), "zeros", second_order=True, multi_step=True), ""),
    "anil": (Maml(Inner(steps=3, names=("head/*",)), "zeros", second_order=True), ""),
    "anil-learned-head": (Maml(Inner(steps=3, names=("head/*",)), "learned", second_order=True), ""),
    "cavia": (Maml(Inner(steps=2, names=("context/*", "head/*")), "zeros", ("*", "!context/*"), second_order=True), ""),
    "protonet": (Maml(Inner(steps=0)), ""),
    "protomaml": (Maml(Inner(steps=2), second_order=True), ""),
    "leopard": (Maml(Inner(steps=2, clip=0.7, names=("context/*", "head/*")), second_order=True), "generated"),
}


@pytest.mark.parametrize("name", SECOND)
def test_exact_gradients_equal_finite_differences(name: str) -> None:
    algorithm, made = SECOND[name]
    learned = with_extras(algorithm, body(), made)
    names = [(s, n) for s, own in learned.items() for n in own if chosen(algorithm.outer, s, n)]
    random = torch.Generator().manual_seed(3)
    direction = {key: torch.randn(learned[key[0]][key[1]].shape, generator=random).double() for key in names}

    def value(by: float, grad: bool = False) -> tuple[Tensor, list[Tensor]]:
        tree = {
            s: {n: p + by * direction[s, n] if (s, n) in direction else p for n, p in own.items()}
            for s, own in learned.items()
        }
        tree = {s: {n: p.detach().requires_grad_() for n, p in own.items()} for s, own in tree.items()}
        # at the end of the training, and where the losses of all steps count
        outcome = algorithm(Mlp(), tree, episodes(), cross_entropy, {}, 0.1)
        leaves = [tree[s][n] for s, n in names]
        found = torch.autograd.grad(outcome.objective.mean(), leaves, allow_unused=True, materialize_grads=True)
        return outcome.objective.mean().detach(), list(found)

    eps = 1e-5
    slope = (value(eps)[0] - value(-eps)[0]) / (2 * eps)
    found = sum((g * direction[key]).sum() for g, key in zip(value(0)[1], names, strict=True))
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-9)


FIRST: dict[str, tuple[Algorithm, str]] = {
    "fomaml": (Maml(Inner(steps=3), "zeros"), ""),
    "fomaml-prototypes": (Maml(Inner(steps=3)), ""),
    "meta-adapters": (Maml(Inner(steps=3, rates="layer", clip=1.0, names=("context/*", "head/*"))), "generated"),
    "first-order-anil": (Maml(Inner(steps=3, names=("head/*",)), "zeros"), ""),
    "reptile": (Reptile(Inner(steps=3)), ""),
    "imaml": (IMaml(Inner(steps=5)), ""),
}


def outer(algorithm: Algorithm, learned: Params, question: Question) -> tuple[list[Tensor], Tensor]:
    tree = {s: {n: p.detach().requires_grad_() for n, p in own.items()} for s, own in learned.items()}
    outcome = algorithm(Mlp(), tree, question, cross_entropy, {}, 1.0)
    leaves = [p for own in tree.values() for p in own.values()]
    return list(
        torch.autograd.grad(outcome.objective.sum(), leaves, allow_unused=True, materialize_grads=True)
    ), outcome.losses


def one(question: Question, t: int) -> Question:
    """Task t alone, without the rows and classes that only pad it."""

    def cut(batch: Batch) -> Batch:
        rows, classes = batch.row_mask[t], batch.class_mask
        assert batch.labels is not None
        assert classes is not None
        inputs = {name: value[t : t + 1, rows] for name, value in batch.inputs.items()}
        return Batch(
            inputs, batch.row_mask[t : t + 1, rows], batch.labels[t : t + 1, rows], classes[t : t + 1, classes[t]]
        )

    return Question(cut(question.support), cut(question.query))


@pytest.mark.parametrize("name", [*SECOND, *FIRST])
def test_tasks_together_equal_tasks_one_by_one(name: str) -> None:
    algorithm, made = {**SECOND, **FIRST}[name]
    if algorithm.head == "learned":
        pytest.skip("a learned head has one number of classes")
    learned = with_extras(algorithm, body(), made)
    question = episodes()
    together, losses = outer(algorithm, learned, question)
    alone = [outer(algorithm, learned, one(question, t)) for t in range(3)]
    for i, found in enumerate(together):
        torch.testing.assert_close(found, sum(grads[i] for grads, _ in alone), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses, torch.cat([own for _, own in alone]), rtol=1e-12, atol=1e-12)


def test_a_tasks_inner_steps_do_not_depend_on_the_data_of_others() -> None:
    question, inner = episodes(), Inner(steps=3)
    params = {s: {n: p.expand(3, *p.shape) for n, p in own.items()} for s, own in body().items()}
    params["head"] = {"weight": torch.zeros(3, 3, 4).double(), "bias": torch.zeros(3, 3).double()}
    before = adapt(Mlp(), params, question.support, cross_entropy, inner)
    x = question.support.inputs["features"].clone()
    x[1] = x[1].flip(0) * 3
    after = adapt(Mlp(), params, question.support.with_inputs(features=x), cross_entropy, inner)
    for site, own in before.items():
        for name, p in own.items():
            assert torch.equal(p[[0, 2]], after[site][name][[0, 2]])
    assert not torch.equal(before["body"]["w"][1], after["body"]["w"][1])


def test_first_order_comes_to_second_order_as_the_rate_goes_to_zero() -> None:
    def difference(rate: float) -> float:
        both = [outer(Maml(Inner(steps=2, lr=rate), second_order=o), body(), episodes())[0][0] for o in (False, True)]
        return float((both[0] - both[1]).abs().max())

    assert difference(1e-2) > 0
    assert difference(1e-4) / difference(1e-2) == pytest.approx(1e-2, rel=0.05)


def test_prototypes_before_any_step_are_protonet() -> None:
    question = episodes()
    learned, model = body(), Mlp()
    outcome = Maml(Inner(steps=0))(model, learned, question, cross_entropy, {}, 1.0)
    w = learned["body"]["w"]
    for t, classes in enumerate((2, 3, 2)):
        alone = one(question, t)
        support, query = (torch.tanh(half.inputs["features"][0] @ w.mT) for half in (alone.support, alone.query))
        assert alone.support.labels is not None
        assert alone.query.labels is not None
        centers = torch.stack([support[alone.support.labels[0] == c].mean(0) for c in range(classes)])
        log = (-torch.cdist(query, centers).square()).log_softmax(-1)
        expected = -log.gather(1, alone.query.labels[0][:, None]).mean()
        torch.testing.assert_close(outcome.losses[t], expected, rtol=1e-12, atol=1e-12)


def test_no_steps_are_multi_task_training() -> None:
    learned = with_extras(Maml(Inner(steps=0), "learned"), body(), "")
    found, _ = outer(Maml(Inner(steps=0), "learned"), learned, question := episodes(classes=(3, 3, 3)))
    tree = {s: {n: p.detach().requires_grad_() for n, p in own.items()} for s, own in learned.items()}
    total = torch.zeros(()).double()
    for t in range(3):
        query = one(question, t).query
        alone = Batch(
            {n: x[0] for n, x in query.inputs.items()}, query.row_mask[0], query.labels[0], query.class_mask[0]
        )  # type: ignore[index]
        scores = Mlp().read(tree["head"], Mlp().features(tree, alone), alone)
        total = total + task_losses(cross_entropy, scores, alone)
    expected = torch.autograd.grad(total, [p for own in tree.values() for p in own.values()])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_steps_beyond_the_learned_rates_use_the_last_one() -> None:
    params = {"site": {"u": TASKS.phi.expand(T, P)}, "head": {}}
    rates = {"site/u": torch.tensor([0.3, 0.1], dtype=torch.float64)}
    inner = Inner(steps=4, rates="tensor")
    path = list(trajectory(Identity(), params, TASKS.question().support, quadratic, inner, rates=rates))
    phi = TASKS.phi.expand(T, P)
    for rate, found in zip((0.3, 0.1, 0.1, 0.1), path[1:], strict=True):
        phi = phi - rate * torch.einsum("tij,tj->ti", TASKS.A, phi - TASKS.a)
        torch.testing.assert_close(found["site"]["u"], phi, rtol=1e-12, atol=1e-12)


def test_generated_heads_read_tokens_as_they_read_rows() -> None:
    random = torch.Generator().manual_seed(0)
    model = generator.Generated(Mlp(), generator.init(4, 3, seed=1, dtype=torch.float64))
    head = {
        "weight": torch.randn(2, 5, 3, generator=random).double(),
        "bias": torch.randn(2, 5, generator=random).double(),
    }
    x = torch.randn(2, 6, 7, 7, generator=random).double()
    batch = Batch({}, torch.ones(2, 6, dtype=torch.bool), None, torch.ones(2, 5, dtype=torch.bool))
    found = model.read(head, x, batch)
    assert found.shape == (2, 6, 7, 5)
    for s in range(7):
        torch.testing.assert_close(found[:, :, s], model.read(head, x[:, :, s], batch))


# -- memory -----------------------------------------------------------------------------------------------------------
class Kept:
    """A tensor that a graph keeps, counted for as long as it does."""

    live = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # an output with its graph would keep that graph alive
        Kept.live += tensor.nbytes
        Kept.peak = max(Kept.peak, Kept.live)

    def __del__(self) -> None:
        Kept.live -= self.tensor.nbytes


def peak_bytes(algorithm: Algorithm, run: Callable[..., Any] = outer) -> int:
    Kept.live = Kept.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run(algorithm, body(), episodes())
    gc.collect()
    assert Kept.live == 0
    return Kept.peak


def test_memory_is_flat_in_the_steps_in_first_order_and_linear_in_second() -> None:
    first = [peak_bytes(Maml(Inner(steps=k))) for k in (2, 4, 8)]
    assert first[0] == first[1] == first[2]
    second = [peak_bytes(Maml(Inner(steps=k), second_order=True)) for k in (2, 4, 6)]
    assert second[2] - second[1] == pytest.approx(second[1] - second[0], rel=0.2)
    assert second[1] > 1.5 * second[0] > first[0]
    implicit = [peak_bytes(IMaml(Inner(steps=k))) for k in (2, 8)]
    assert implicit[0] == implicit[1]


def test_no_tensor_is_left_over_after_500_outer_steps() -> None:
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(x), Tensor) for x in gc.get_objects())

    learned, question = body(), episodes()
    algorithms = (Maml(Inner(steps=2)), Maml(Inner(steps=1), second_order=True), Reptile(Inner(steps=2)))
    for algorithm in algorithms:
        outer(algorithm, learned, question)
    before = tensors()
    for step in range(500):
        outer(algorithms[step % 3], learned, question)
    assert tensors() <= before
