"""Meta-learning algorithms: what a batch of episodes says about the parameters that all tasks start from.

`learned` is a tree of params without a task dimension: the method's sites (where tasks start, and what the inner loop
holds), and where an algorithm has them "head", "rates" and "generator". An algorithm turns T episodes into T scalars
whose mean gradient is its outer gradient; `outer.outer_gradient` takes it, a few tasks at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from handful import generator
from handful.batches import gather, lengths, plan
from handful.errors import MethodError
from handful.inner import Inner, Model, adapt, task_losses, tracked, trajectory
from handful.losses import Loss
from handful.types import Batch, Params, Site

APART = ("head", "rates", "generator")
"""What `learned` may hold beside a method's sites."""
Start = Literal["learned", "zeros", "prototype", "generated"]


@dataclass(frozen=True)
class Question:
    """What is learned from and what is asked, of T tasks: `support` and `query` `[T, B, ...]`."""

    support: Batch
    query: Batch


@dataclass(frozen=True)
class Outcome:
    """For each task, `[T]`: the scalar whose gradient is the outer gradient, and the query loss after adaptation."""

    objective: Tensor
    losses: Tensor


class Algorithm(Protocol):
    """A meta-learning algorithm.

    inner  the inner loop
    head   where a task's head starts: learned like the rest (then all tasks have as many classes), at zero, at its
           class means, or generated (`generator.py`)
    outer  patterns of what is learned over tasks; what neither loop names is frozen
    """

    @property
    def inner(self) -> Inner: ...
    @property
    def head(self) -> Start: ...
    @property
    def outer(self) -> tuple[str, ...]: ...
    def __call__(
        self, model: Model, learned: Params, asked: Question, loss: Loss, sites: Mapping[str, Site], progress: float
    ) -> Outcome: ...


@dataclass(frozen=True)
class Maml:
    """Adapt on the support, ask the query, and follow the query's gradient (Finn et al. 2017, equation 1).

    By its options also: first-order MAML; ANIL (`inner.names=("head/*",)`); ProtoNet (`inner.steps=0` with prototypes);
    ProtoMAML (prototypes and steps); Meta-SGD and MAML++ (learned `inner.rates`); CAVIA (`inner` adapts contexts that
    the outer loop leaves at their start); LEOPARD and Meta-Adapters (generated heads, `inner` adapts only a part).

    second_order       whether the outer gradient goes through the inner ones
    second_order_from  from which share of the training on it does (MAML++'s derivative-order annealing)
    multi_step         MAML++'s loss of every step's query, whose weights go over to the last step in the first third of
                       the training (Antoniou et al. 2019, section 4); memory then grows with the steps
    """

    inner: Inner = field(default_factory=Inner)
    head: Start = "prototype"
    outer: tuple[str, ...] = ("*",)
    second_order: bool = False
    second_order_from: float = 0.0
    multi_step: bool = False

    def __call__(
        self, model: Model, learned: Params, asked: Question, loss: Loss, sites: Mapping[str, Site], progress: float
    ) -> Outcome:
        twice = self.second_order and progress >= self.second_order_from
        model, rates = generator.applied(model, learned), learned.get("rates")
        params, seen = started(model, learned, asked.support, self.head, self.inner, second_order=twice)
        held = all(site == "head" for site, _ in self.inner.adapts(params))
        x = features_of_all(model, learned, asked.query, second_order=twice) if held else None
        total, last = torch.zeros(()), torch.zeros(())
        weights = _weights(self.inner.steps, progress) if self.multi_step else [0.0] * self.inner.steps + [1.0]
        steps = trajectory(
            model, params, asked.support, loss, self.inner, rates=rates, sites=sites, second_order=twice, seen=seen
        )
        for weight, after in zip(weights, steps, strict=True):
            if weight:
                own = model.features(after, asked.query, second_order=twice) if x is None else x
                last = task_losses(loss, model.read(after["head"], own, asked.query), asked.query)
                total = total + weight * last
        return Outcome(total, last.detach())


@dataclass(frozen=True)
class Reptile:
    """Move the start towards where adaptation leads (Nichol et al. 2018, equation 2); the query is only reported.

    Its outer gradient is (phi - phi_K) / lr, so that with one SGD step it is that of multi-task training.
    """

    inner: Inner = field(default_factory=Inner)
    head: Start = "prototype"
    outer: tuple[str, ...] = ("*",)

    def __call__(
        self, model: Model, learned: Params, asked: Question, loss: Loss, sites: Mapping[str, Site], progress: float
    ) -> Outcome:
        refuse_learned_rates("Reptile", self.inner)
        fixed = {site: {name: p.detach() for name, p in own.items()} for site, own in learned.items()}
        with torch.no_grad():
            params, _ = started(model, fixed, asked.support, self.head, self.inner, second_order=False)
            after = adapt(model, params, asked.support, loss, self.inner)
        objective = torch.zeros(len(asked.query.row_mask), device=asked.query.row_mask.device)
        for site, name in self.inner.adapts(params):
            if (start := learned.get(site, {}).get(name)) is not None:
                moved = (params[site][name] - after[site][name]) / self.inner.lr
                objective = objective + (start * moved).reshape(len(moved), -1).sum(1)
        with torch.no_grad():
            x = model.features(after, asked.query)
            return Outcome(objective, task_losses(loss, model.read(after["head"], x, asked.query), asked.query))


@torch.no_grad()
def answers(
    algorithm: Algorithm, model: Model, learned: Params, asked: Question, loss: Loss, sites: Mapping[str, Site]
) -> Tensor:
    """Scores `[T, B, C]` of the queries after adapting to the supports."""
    model, inner = generator.applied(model, learned), algorithm.inner
    params, seen = started(model, learned, asked.support, algorithm.head, inner, second_order=False)
    held = all(site == "head" for site, _ in inner.adapts(params))
    params = adapt(
        model, params, asked.support, loss, inner, rates=learned.get("rates"), sites=sites, seen=seen if held else None
    )
    return model.read(params["head"], model.features(params, asked.query), asked.query)


def started(
    model: Model, learned: Params, support: Batch, head: Start, inner: Inner, *, second_order: bool
) -> tuple[Params, Tensor | None]:
    """The stacked params `[T, ...]` that T tasks start from, and the support's features at them where they were needed.

    Where nothing but the head is adapted, the rows of all tasks run as those of one: no parameter differs among them.
    """
    num_tasks = support.row_mask.shape[0]
    params = of_method(learned)
    if head == "learned":
        params["head"] = learned["head"]
    params = {site: {name: p.expand(num_tasks, *p.shape) for name, p in own.items()} for site, own in params.items()}
    seen, names = None, inner.adapts(params)
    params = tracked(params, names)
    if all(site == "head" for site, _ in names) and (names or head != "learned"):
        seen = features_of_all(model, learned, support, second_order=second_order)
    elif head != "learned":
        seen = model.features(params, support, second_order=second_order)
    if head != "learned":
        assert seen is not None
        assert support.class_mask is not None
        params["head"] = _STARTS[head](model, seen, support, support.class_mask.shape[1])
    return params, seen


def features_of_all(model: Model, learned: Params, batch: Batch, *, second_order: bool) -> Tensor:
    """Features `[T, B, ...]` of the rows of all tasks at the same params, zero where there is no row.

    They run as the rows of one task, those of like length together, so that little is padded.
    """
    flat = Batch({name: value.flatten(0, 1) for name, value in batch.inputs.items()}, batch.row_mask.flatten())
    length = torch.where(flat.row_mask.cpu(), lengths(flat), 0)
    order = [columns[0] for _, columns in plan(length[None])]
    parts = [model.features(of_method(learned), gather(flat, own), second_order=second_order) for own in order]
    if parts[0].ndim == 3:  # of tokens
        longest = max(part.shape[1] for part in parts)
        parts = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    place = torch.cat(order).to(flat.row_mask.device)
    x = parts[0].new_zeros(len(length), *parts[0].shape[1:]).index_copy(0, place, torch.cat(parts))
    return x.unflatten(0, batch.row_mask.shape)


def of_method(learned: Params) -> Params:
    """The method's own sites of `learned`, or of params with a head."""
    return {site: own for site, own in learned.items() if site not in APART}


def _zeros(model: Model, seen: Tensor, support: Batch, num_classes: int) -> dict[str, Tensor]:
    weight = seen.new_zeros(seen.shape[0], num_classes, seen.shape[-1])
    return {"weight": weight, "bias": weight[..., 0]}


def _means(model: Model, seen: Tensor, support: Batch, num_classes: int) -> dict[str, Tensor]:
    """Class means; a model with a generator takes those of what it makes."""
    return model.prototypes(seen, support, num_classes)


_STARTS = {"zeros": _zeros, "prototype": _means, "generated": _means}


def refuse_learned_rates(name: str, inner: Inner) -> None:
    """MethodError for an algorithm whose outer gradient says nothing about rates."""
    if inner.rates != "given":
        raise MethodError(
            f"{name} was asked for with learned inner rates ({inner.rates}).", "It has no gradient for them.",
            "Leave rates as given, or use maml, fomaml, meta-sgd or maml++.",
        )  # fmt: skip


def _weights(steps: int, progress: float) -> list[float]:
    """MAML++'s weights of the query losses before the first step and after each: even at first, then all at the end."""
    share = min(1.0, 3 * progress) if steps else 1.0
    return [0.0] * bool(steps) + [(1 - share) / steps] * (steps - 1) + [share + (1 - share) / max(1, steps)]
