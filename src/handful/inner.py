"""The inner loop of meta-learning: a few gradient steps on each of T tasks at once, differentiable if need be.

Which parameters it adapts is said by name: `site/parameter` against patterns, of which the last that fits decides and
`!` takes out. All others are held. Nothing is said by `requires_grad`, so what the inner loop holds can still be what
the outer loop learns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Protocol

import torch
from torch import Tensor

from handful.losses import Loss, weights
from handful.noise import Noise
from handful.types import Batch, Params, Site

Name = tuple[str, str]
"""Site and parameter."""
Rates = Mapping[str, Tensor]
"""Learned rates by the key that `Inner.key` gives a parameter: a number, one for each step `[K]`, or of its shape."""


class Model(Protocol):
    """A scorer in two halves, so that heads can be made from what it sees (`scoring.Classifier`)."""

    def features(
        self, params: Params, batch: Batch, noise: Noise | None = None, second_order: bool = False
    ) -> Tensor: ...
    def read(self, head: Mapping[str, Tensor], x: Tensor, batch: Batch) -> Tensor: ...
    def prototypes(self, x: Tensor, batch: Batch, num_classes: int) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Inner:
    """How a task is adapted to.

    steps  gradient steps K on all support rows
    lr     SGD's rate; where rates are learned, their first value
    names  patterns of what is adapted
    rates  "given" is `lr` for all; learned are one for each block and step ("layer", Meta-Adapters), each tensor and
           step ("tensor", MAML++'s LSLR), or each element ("element", Meta-SGD)
    clip   largest norm of a task's gradient over all that is adapted; None for no limit
    """

    steps: int = 5
    lr: float = 0.1
    names: tuple[str, ...] = ("*",)
    rates: Literal["given", "layer", "tensor", "element"] = "given"
    clip: float | None = None

    def adapts(self, params: Params) -> list[Name]:
        """What of params the inner loop changes, in their order; nothing without steps."""
        if not self.steps:
            return []
        return [
            (site, name)
            for site, own in params.items()
            for name, p in own.items()
            if p.is_floating_point() and chosen(self.names, site, name)
        ]

    def key(self, name: Name, sites: Mapping[str, Site]) -> str:
        """Under which a parameter's learned rate is kept."""
        site, own = name
        if self.rates == "layer" and site in sites:
            return f"{sites[site].stack}.{sites[site].layer}"
        return site if self.rates == "layer" else f"{site}/{own}"

    def init_rates(self, params: Params, sites: Mapping[str, Site]) -> dict[str, Tensor]:
        """The first rates of all that is adapted in `params` of one task, and of heads; none where they are given.

        Heads that are made for each task have no fixed shape, so theirs is one rate for a tensor in any case.
        """
        if self.rates == "given":
            return {}
        like = next(p for own in params.values() for p in own.values())
        numbers = like.new_full((max(1, self.steps),), self.lr)
        made = {"head": {"weight": numbers, "bias": numbers}} if "head" not in params else {}
        rates = {}
        for site, name in self.adapts({**params, **made}):
            p = {**params, **made}[site][name]
            alone = self.rates == "element" and site not in made
            rates[self.key((site, name), sites)] = torch.full_like(p, self.lr) if alone else numbers.clone()
        return rates


def chosen(patterns: Sequence[str], site: str, name: str) -> bool:
    """Whether the last of `patterns` that fits `site/name` takes it in: `["*", "!*/bias"]` is all but the biases."""
    found = False
    for pattern in patterns:
        if fnmatchcase(f"{site}/{name}", pattern.removeprefix("!")):
            found = not pattern.startswith("!")
    return found


def task_losses(loss: Loss, scores: Tensor, batch: Batch) -> Tensor:
    """Mean loss of each task `[T]` over its own rows, of tagging tasks over its own tags, from scores `[T, B, ...]`."""
    assert batch.labels is not None
    mask = batch.row_mask
    scores = torch.where(mask.reshape(*mask.shape, *(1,) * (scores.ndim - mask.ndim)), scores, 0.0)
    weight = weights(batch.labels, mask)
    return torch.where(mask, loss(scores, batch.labels) * weight, 0.0).sum(-1) / weight.sum(-1).clamp(min=1)


def trajectory(
    model: Model,
    params: Params,
    support: Batch,
    loss: Loss,
    inner: Inner,
    *,
    rates: Rates | None = None,
    sites: Mapping[str, Site] | None = None,
    second_order: bool = False,
    seen: Tensor | None = None,
    factors: Sequence[float] | None = None,
) -> Iterator[Params]:
    """The stacked params `[T, ...]` before the first step and after each one.

    phi_{j+1} = phi_j - rate_j * grad L_support(phi_j) for what `inner` adapts (Finn et al. 2017, equation 1), each task
    by the gradient of its own mean loss. With `second_order` the steps are part of the graph; without, gradients count
    as constants, each step's graph is freed before the next, and memory does not grow with the steps, but what the
    steps added up still leads back to the first params, the head's start and the rates. `seen` are the support's
    features at `params`, where they are known: then the first step needs no forward pass, and none does if the head
    alone is adapted. `factors` multiply the rates of each step.
    """
    names = inner.adapts(params)
    if second_order:
        params = tracked(params, names)
    yield params
    head_only = all(site == "head" for site, _ in names)
    for step in range(inner.steps):
        if not names:
            yield params
            continue
        with torch.enable_grad():
            known = seen if step == 0 or head_only else None
            at = params if second_order else _leaves(params, names, keep=known is not None and not head_only)
            if known is not None and head_only and not second_order:
                known = known.detach()
            x = model.features(at, support, second_order=second_order) if known is None else known
            losses = task_losses(loss, model.read(at["head"], x, support), support)
            grads = torch.autograd.grad(
                losses.sum(), [at[site][name] for site, name in names],
                create_graph=second_order, retain_graph=second_order or known is seen, materialize_grads=True,
                allow_unused=True,
            )  # fmt: skip
        grads = _clipped(grads, inner.clip)
        if factors is not None:
            grads = [factors[step] * grad for grad in grads]
        params = _stepped(params, names, grads, inner, rates or {}, sites or {}, step)
        yield params


def adapt(
    model: Model,
    params: Params,
    support: Batch,
    loss: Loss,
    inner: Inner,
    *,
    rates: Rates | None = None,
    sites: Mapping[str, Site] | None = None,
    second_order: bool = False,
    seen: Tensor | None = None,
    factors: Sequence[float] | None = None,
) -> Params:
    """The params after the last step of `trajectory`."""
    steps = trajectory(
        model, params, support, loss, inner, rates=rates, sites=sites, second_order=second_order, seen=seen,
        factors=factors,
    )  # fmt: skip
    return deque(steps, maxlen=1).pop()


def tracked(params: Params, names: Sequence[Name]) -> Params:
    """Params in which what starts as a constant can be differentiated too."""
    return {
        site: {
            n: p if p.requires_grad or (site, n) not in names else p.detach().requires_grad_() for n, p in own.items()
        }
        for site, own in params.items()
    }


def _leaves(params: Params, names: Sequence[Name], keep: bool) -> Params:
    """Copies to take a first-order gradient at; with `keep` of the head alone, as the rest is in a graph already."""
    chosen = set(names)
    return {
        site: {
            name: p if keep and site != "head" else p.detach().requires_grad_((site, name) in chosen)
            for name, p in own.items()
        }
        for site, own in params.items()
    }


def _clipped(grads: Sequence[Tensor], clip: float | None) -> Sequence[Tensor]:
    """Gradients `[T, ...]`, each task's shortened to at most `clip` over all of them together."""
    if clip is None or not grads:
        return grads
    norm = torch.stack([grad.reshape(len(grad), -1).square().sum(1) for grad in grads]).sum(0).clamp(min=1e-24).sqrt()
    factor = (clip / (norm + 1e-6)).clamp(max=1)
    return [grad * factor.reshape(-1, *(1,) * (grad.ndim - 1)) for grad in grads]


def _stepped(
    params: Params,
    names: Sequence[Name],
    grads: Sequence[Tensor],
    inner: Inner,
    rates: Rates,
    sites: Mapping[str, Site],
    step: int,
) -> Params:
    after = {site: dict(own) for site, own in params.items()}
    for (site, name), grad in zip(names, grads, strict=True):
        rate: Tensor | float = inner.lr
        if inner.rates != "given" and (learned := rates.get(inner.key((site, name), sites))) is not None:
            whole = inner.rates == "element" and learned.shape == grad.shape[1:]
            rate = learned if whole else learned[min(step, len(learned) - 1)]
        after[site][name] = params[site][name] - rate * grad
    return after
