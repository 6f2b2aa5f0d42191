"""Meta-learning by the implicit gradient of an inner problem that is solved, not unrolled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from handful.errors import MethodError
from handful.inner import Inner, Model, Name, task_losses
from handful.losses import Loss
from handful.meta import Outcome, Question, Start, refuse_learned_rates, started
from handful.types import Batch, Params, Site


@dataclass(frozen=True)
class IMaml:
    """Adapt to near the minimum of L + lambda/2 |u - phi|^2, and solve for the implicit gradient.

    The outer gradient is (I + H / lambda)^-1 grad L_query(u), by `solver_steps` conjugate-gradient steps, each with one
    Hessian-vector product; memory does not grow with the inner steps. Where a head starts counts as a constant.
    Source: Rajeswaran et al. 2019 (arXiv 1909.04630), algorithms 1 and 2.

    strength      lambda, which must outweigh the most negative curvature of the support loss
    """

    inner: Inner = field(default_factory=lambda: Inner(steps=16))
    head: Start = "zeros"
    outer: tuple[str, ...] = ("*",)
    strength: float = 2.0
    solver_steps: int = 5

    def __call__(
        self, model: Model, learned: Params, asked: Question, loss: Loss, sites: Mapping[str, Site], progress: float
    ) -> Outcome:
        refuse_learned_rates("iMAML", self.inner)
        fixed = {site: {name: p.detach() for name, p in own.items()} for site, own in learned.items()}
        with torch.no_grad():
            params, _ = started(model, fixed, asked.support, self.head, self.inner, second_order=False)
        names = self.inner.adapts(params)
        if missing := [f"{s}/{n}" for s, own in params.items() for n in own if (s, n) not in names]:
            raise MethodError(
                "iMAML was asked for.", f"The inner loop holds {missing[0]}, for which it has no gradient.",
                "Let the inner loop adapt everything, or use maml.",
            )  # fmt: skip
        after = params
        for _ in range(self.inner.steps):
            grads = self._gradient(model, after, asked.support, loss, names, create_graph=False)[1]
            pulled = {
                (s, n): g + self.strength * (after[s][n] - params[s][n]) for (s, n), g in zip(names, grads, strict=True)
            }
            after = {s: {n: p - self.inner.lr * pulled[s, n] for n, p in own.items()} for s, own in after.items()}
        leaves, grads = self._gradient(model, after, asked.support, loss, names, create_graph=True)
        at = [leaves[site][name] for site, name in names]

        def product(vector: list[Tensor]) -> list[Tensor]:
            dot = sum(((g * v).sum() for g, v in zip(grads, vector, strict=True)), torch.zeros(()))
            found = torch.autograd.grad(dot, at, retain_graph=True, materialize_grads=True, allow_unused=True)
            return [v + h / self.strength for v, h in zip(vector, found, strict=True)]

        with torch.enable_grad():
            x = model.features(leaves, asked.query)
            losses = task_losses(loss, model.read(leaves["head"], x, asked.query), asked.query)
            right = torch.autograd.grad(losses.sum(), at, materialize_grads=True, allow_unused=True)
        solved = _conjugate_gradients(product, list(right), self.solver_steps)
        objective = torch.zeros_like(losses).detach()
        for (site, name), found in zip(names, solved, strict=True):
            if (start := learned.get(site, {}).get(name)) is not None:
                objective = objective + (start * found.detach()).reshape(len(objective), -1).sum(1)
        return Outcome(objective, losses.detach())

    def _gradient(
        self, model: Model, params: Params, support: Batch, loss: Loss, names: Sequence[Name], create_graph: bool
    ) -> tuple[Params, tuple[Tensor, ...]]:
        """Copies of params, and the gradient of the support losses at them."""
        with torch.enable_grad():
            at = {s: {n: p.detach().requires_grad_() for n, p in own.items()} for s, own in params.items()}
            x = model.features(at, support, second_order=create_graph)
            losses = task_losses(loss, model.read(at["head"], x, support), support)
            leaves = [at[site][name] for site, name in names]
            return at, torch.autograd.grad(
                losses.sum(), leaves, create_graph=create_graph, materialize_grads=True, allow_unused=True
            )


def _conjugate_gradients(
    product: Callable[[list[Tensor]], list[Tensor]], right: list[Tensor], steps: int
) -> list[Tensor]:
    """Solves `A x = right` for T symmetric positive systems at once; tensors are `[T, ...]`."""

    def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        return torch.stack([(x * y).reshape(len(x), -1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)

    def moved(a: Sequence[Tensor], by: Tensor, b: Sequence[Tensor]) -> list[Tensor]:
        return [x + by.reshape(-1, *(1,) * (x.ndim - 1)) * y for x, y in zip(a, b, strict=True)]

    x = [torch.zeros_like(r) for r in right]
    residual = direction = right
    size = dot(residual, residual)
    for _ in range(steps):
        applied = product(direction)
        length = size / dot(direction, applied).clamp(min=1e-30)
        x, residual = moved(x, length, direction), moved(residual, -length, applied)
        before, size = size, dot(residual, residual)
        direction = moved(residual, size / before.clamp(min=1e-30), direction)
    return x
