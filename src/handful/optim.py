"""Optimisers over `[T, P]`: the flattened parameters of T tasks, each with its own rate and state.

torch's optimisers mix nothing over tasks either, but know one learning rate a tensor; here it is `[T, 1]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from handful.types import Params

BLOCK = 1 << 20
"""Numbers that AdamW works on at a time: what fits into a CPU's cache, and into memory that is used again."""
OptimizerName = Literal["sgd", "adamw", "adafactor", "adafactor-scaled"]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in a task's flat vector: `(site, name, shape, start)`."""

    entries: tuple[tuple[str, str, tuple[int, ...], int], ...]
    size: int

    @staticmethod
    def of(params: Params) -> Layout:
        """The layout of stacked params `[T, ...]`; integers are not trained and lie nowhere."""
        entries, start = [], 0
        for site, own in params.items():
            for name, p in own.items():
                if not p.is_floating_point():
                    continue
                entries.append((site, name, tuple(p.shape[1:]), start))
                start += p[0].numel()
        return Layout(tuple(entries), start)

    def pack(self, params: Params) -> Tensor:
        """Stacked params -> `[T, P]`, a copy."""
        parts = (params[site][name] for site, name, _, _ in self.entries)
        return torch.cat([p.reshape(p.shape[0], p[0].numel()) for p in parts], dim=1)

    def unpack(self, flat: Tensor) -> Params:
        """`[T, P]` -> stacked params, views."""
        params: Params = {}
        for site, name, shape, start in self.entries:
            size = torch.Size(shape).numel()
            params.setdefault(site, {})[name] = (
                flat[:, start : start + size].unflatten(1, shape or (1,)).reshape(flat.shape[0], *shape)
            )
        return params

    def values(self, of: Callable[[str, str], float]) -> Tensor:
        """`[P]`, at each parameter what its site and name are worth."""
        return torch.cat([torch.full((torch.Size(s).numel(),), of(site, name)) for site, name, s, _ in self.entries])

    def mask(self, chosen: Callable[[str, str], bool]) -> Tensor:
        """`[P]`, True where the parameters lie whose site and name are `chosen`."""
        found = torch.zeros(self.size, dtype=torch.bool)
        for site, name, shape, start in self.entries:
            found[start : start + torch.Size(shape).numel()] = chosen(site, name)
        return found


class Optimizer(Protocol):
    """`step` returns what is added to `flat [T, P]`, for `lr` broadcastable to it.

    It changes `state` in place, and may write its answer into `grad`: for all of a backbone's weights, memory that is
    asked of the system anew at every step takes longer than the arithmetic.
    """

    def init(self, flat: Tensor, layout: Layout) -> State: ...
    def step(self, flat: Tensor, grad: Tensor, state: State, lr: Tensor, layout: Layout) -> Tensor: ...


@dataclass(frozen=True)
class SGD:
    """`p -= lr (momentum_buffer + weight_decay p)`, as torch.optim.SGD."""

    momentum: float = 0.0
    weight_decay: float | Tensor = 0.0

    def init(self, flat: Tensor, layout: Layout) -> State:
        return {"momentum": torch.zeros_like(flat)} if self.momentum else {}

    def step(self, flat: Tensor, grad: Tensor, state: State, lr: Tensor, layout: Layout) -> Tensor:
        grad = grad + self.weight_decay * flat
        if self.momentum:
            grad = state["momentum"].mul_(self.momentum).add_(grad)
        return -lr * grad


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as torch.optim.AdamW."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float | Tensor = 0.0

    def init(self, flat: Tensor, layout: Layout) -> State:
        return {
            "mean": torch.zeros_like(flat),
            "square": torch.zeros_like(flat),
            "count": torch.zeros(flat.shape[0], 1, dtype=flat.dtype, device=flat.device),
        }

    def step(self, flat: Tensor, grad: Tensor, state: State, lr: Tensor, layout: Layout) -> Tensor:
        count, decay = state["count"].add_(1), torch.as_tensor(self.weight_decay, dtype=flat.dtype, device=flat.device)
        decays = bool(decay.any())
        width = max(1, BLOCK // flat.shape[0])
        for start in range(0, flat.shape[1], width):
            part = slice(start, start + width)
            own = grad[:, part]
            mean = state["mean"][:, part].lerp_(own, 1 - self.beta1)
            square = state["square"][:, part].mul_(self.beta2).addcmul_(own, own, value=1 - self.beta2)
            root = (square / (1 - self.beta2**count)).sqrt_().add_(self.eps)
            taken = (mean / (1 - self.beta1**count)).div_(root)
            if decays:
                taken += (decay[:, part] if decay.ndim > 1 and decay.shape[1] > 1 else decay) * flat[:, part]
            torch.mul(taken, -(lr[:, part] if lr.shape[1] > 1 else lr), out=own)
        return grad


@dataclass(frozen=True)
class Adafactor:
    """Adafactor with a given rate (Shazeer & Stern 2018, algorithms 4 to 6), without momentum.

    Second moments of matrices are kept as row and column means; updates are clipped to root mean square 1 for each
    task and tensor. Where it is `scaled`, as in T-Few, the rate of a tensor is multiplied by its root mean square, and
    by at least `least`: so 3e-3 is 3e-3 for (IA)^3, which starts at ones, and 3e-6 for the zeros of LoRA.
    """

    eps: float = 1e-30
    clip: float = 1.0
    decay: float = 0.8
    weight_decay: float | Tensor = 0.0
    scaled: bool = False
    least: float = 1e-3

    def init(self, flat: Tensor, layout: Layout) -> State:
        state = {"count": torch.zeros(flat.shape[0], 1, dtype=flat.dtype, device=flat.device)}
        for i, (_, _, shape, _) in enumerate(layout.entries):
            sizes = (shape[:-1], (*shape[:-2], shape[-1])) if len(shape) >= 2 else (shape,)
            for kind, size in zip(("row", "column"), sizes, strict=False):
                state[f"{kind}.{i}"] = flat.new_zeros(flat.shape[0], *size)
        return state

    def step(self, flat: Tensor, grad: Tensor, state: State, lr: Tensor, layout: Layout) -> Tensor:
        count, decay = state["count"].add_(1), torch.as_tensor(self.weight_decay, dtype=flat.dtype, device=flat.device)
        beta = 1 - count**-self.decay  # [T, 1]
        decayed = decay * flat if decay.any() else None
        for i, (_, _, shape, start) in enumerate(layout.entries):
            update = grad[:, start : start + torch.Size(shape).numel()]
            g = update.view(-1, *shape)
            square = g.square().add_(self.eps)
            row = state[f"row.{i}"]
            b = beta.reshape(-1, *(1,) * (row.ndim - 1))
            if len(shape) >= 2:
                column = state[f"column.{i}"]
                row.mul_(b).add_((1 - b) * square.mean(-1))
                column.mul_(b).add_((1 - b) * square.mean(-2))
                g.mul_((row / row.mean(-1, keepdim=True)).rsqrt()[..., None]).mul_(column.rsqrt()[..., None, :])
            else:
                g.mul_(row.mul_(b).add_((1 - b) * square).rsqrt())
            entries = update.count_nonzero(1)[:, None].clamp(min=1).to(flat)  # classes that only pad have no gradient
            rms = update.norm(dim=1, keepdim=True) / entries.sqrt()
            taken = (rms / self.clip).clamp(min=1).reciprocal()
            if self.scaled:
                own = flat[:, start : start + update.shape[1]]
                taken = taken * (own.norm(dim=1, keepdim=True) / own.shape[1] ** 0.5).clamp(min=self.least)
            update.mul_(taken)
        return grad.add_(decayed).mul_(-lr) if decayed is not None else grad.mul_(-lr)


def optimizer(name: OptimizerName, weight_decay: float | Tensor = 0.0) -> Optimizer:
    """An optimiser by its name."""
    kinds: dict[str, Callable[..., Optimizer]] = {
        "sgd": SGD, "adamw": AdamW, "adafactor": Adafactor, "adafactor-scaled": partial(Adafactor, scaled=True)
    }  # fmt: skip
    return kinds[name](weight_decay=weight_decay)


def select(state: State, tasks: Tensor | Sequence[int]) -> State:
    """The state of some tasks, copied."""
    return {name: value[tasks] for name, value in state.items()}
