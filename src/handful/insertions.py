"""The kinds of insertion: functions that turn a frozen layer's forward into a tuned one. They touch no module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.methods.base import Method
from handful.packing import ANSWER
from handful.sites import Place
from handful.types import Batch, Params

if TYPE_CHECKING:
    from handful.noise import Noise

Forward = Callable[..., Any]
Wrap = Callable[[Forward], Forward]


class Call:
    """One forward pass: parameters shown in broadcasting shape, flattened inputs, and what sites pass on."""

    def __init__(self, method: Method, params: Params, batch: Batch, noise: Noise | None) -> None:
        self.method, self.noise = method, noise
        self.num_tasks = batch.num_tasks
        shared = params.get("shared", {})
        self.params = {
            site: {name: self.broadcastable(p) for name, p in {**own, **shared}.items()}
            for site, own in params.items()
            if site not in ("shared", "head")
        }
        self.inputs = {name: self.flatten(value) for name, value in batch.inputs.items()}
        self.states: Tensor | None = self.inputs.pop("states", None)
        for name in ("row", "word"):  # not the backbone's
            self.inputs.pop(name, None)
        self.entered: dict[str, Tensor] = {}

    def flatten(self, x: Tensor) -> Tensor:
        """`[T?, B, ...]` -> `[R, ...]`."""
        return x if self.num_tasks is None else x.flatten(0, 1)

    def unflatten(self, x: Tensor) -> Tensor:
        """`[R, ...]` -> `[T?, B, ...]`."""
        return x if self.num_tasks is None else x.unflatten(0, (self.num_tasks, -1))

    def tokens(self, x: Tensor) -> Tensor:
        """`[R, ..., D]` -> `[T, N, D]`, unchanged for one task without a task dimension."""
        return x if self.num_tasks is None else x.reshape(self.num_tasks, -1, x.shape[-1])

    def apply(self, place: Place, x: Any, base: Base) -> Any:
        return self.method.apply(self.params[place.site.name], x, base, place.site)

    def broadcastable(self, p: Tensor) -> Tensor:
        """A stacked vector `[T, d]` becomes `[T, 1, d]`, which broadcasts over tokens; `[T]` becomes `[T, 1, 1]`."""
        if self.num_tasks is None or p.ndim > 2:
            return p
        return p.unsqueeze(-2) if p.ndim == 2 else p[:, None, None]


class Base:
    """The frozen layer as `Method.apply` sees it (`methods.base.Base` says what its members mean)."""

    mask: Tensor

    def __init__(self, place: Place, forward: Forward, call: Call, unit: Unit | None = None) -> None:
        self._place, self._forward, self._call, self._unit = place, forward, call, unit

    def __call__(self, x: Any) -> Any:
        return self._forward(x)

    @property
    def weight(self) -> Tensor:
        return self._place.weight

    @property
    def bias(self) -> Tensor | None:
        return self._place.bias

    def normalized(self, x: Tensor) -> Tensor:
        if self._unit is None:
            raise TypeError(f"{self._place.site.name} is not a norm")
        return self._unit(x)

    def dropout(self, x: Tensor, p: float) -> Tensor:
        if p == 0 or self._call.noise is None:
            return x
        return self._call.noise.dropout(x, p, self._place.site.index)

    def uniform(self, name: str, *shape: int) -> Tensor | None:
        if self._call.noise is None:
            return None
        drawn = self._call.noise.uniform(shape, self._place.site.index, name).to(self.weight)
        return self._call.broadcastable(drawn if self._call.num_tasks is not None else drawn[0])


class Unit:
    """A norm with scale one and no shift, `d norm(x) / d scale`, by the frozen module's own code.

    `offset` is what the norm adds to its weight (Gemma scales by 1 + weight).
    """

    def __init__(self, norm: nn.Module, offset: float) -> None:
        self._norm = _with_constant_weights(norm, 1.0 - offset)

    def __call__(self, x: Tensor) -> Tensor:
        return self._norm(x)


def _with_constant_weights(norm: nn.Module, value: float) -> nn.Module:
    twin = copy.copy(norm)
    twin.__dict__ = {name: item for name, item in norm.__dict__.items() if name != "forward"}
    filled = {"weight": value, "bias": 0.0}
    twin.__dict__["_parameters"] = norm.__dict__["_parameters"] | {
        name: nn.Parameter(torch.full(p.shape, filled[name], dtype=p.dtype, device=p.device), requires_grad=False)
        for name, p in norm.named_parameters(recurse=False)
    }
    return twin


def around_layer(place: Place, call: Call, unit: Unit | None) -> Wrap:
    def wrap(forward: Forward) -> Forward:
        base = Base(place, forward, call, unit)

        def tuned(x: Tensor) -> Tensor:
            if place.entry is not None and x is not call.entered[place.site.name]:
                return forward(x)
            y = call.apply(place, call.tokens(x), base)
            return y.reshape(*x.shape[:-1], y.shape[-1])

        return tuned

    return wrap


def around_slice(place: Place, call: Call, unit: Unit | None) -> Wrap:
    """Around one part of a fused projection, which itself runs once for all its parts."""
    part = place.part
    assert part is not None

    def wrap(forward: Forward) -> Forward:
        def tuned(x: Tensor) -> Tensor:
            parts = list(forward(x).chunk(part.parts, -1))
            shown = call.tokens(x)

            def frozen(z: Tensor) -> Tensor:
                return call.tokens(parts[part.index]) if z is shown else F.linear(z, base.weight, base.bias)

            base = Base(place, frozen, call, unit)
            y = call.apply(place, shown, base)
            parts[part.index] = y.reshape(*x.shape[:-1], y.shape[-1])
            return torch.cat(parts, -1)

        return tuned

    return wrap


def around_patches(place: Place, call: Call, unit: Unit | None) -> Wrap:
    """Around a convolution `[R, C, H, W]` -> `[R, D, h, w]` as a linear layer of what each of its windows sees."""
    module: Any = place.module

    def wrap(forward: Forward) -> Forward:
        def tuned(images: Tensor) -> Tensor:
            answer = forward(images)
            shown = call.tokens(F.unfold(images, module.kernel_size, stride=module.stride).mT)

            def frozen(z: Tensor) -> Tensor:
                return call.tokens(answer.flatten(2).mT) if z is shown else F.linear(z, base.weight, base.bias)

            base = Base(place, frozen, call, unit)
            y = call.apply(place, shown, base)
            return y.reshape(len(images), -1, y.shape[-1]).mT.reshape(answer.shape)

        return tuned

    return wrap


def record_input(place: Place, call: Call) -> Wrap:
    """Keeps what enters `place.entry`, for a place inside it or at its end."""

    def wrap(forward: Forward) -> Forward:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            call.entered[place.site.name] = first_input(args, kwargs)
            return forward(*args, **kwargs)

        return recorded

    return wrap


def around_span(place: Place, call: Call, unit: Unit | None) -> Wrap:
    def wrap(forward: Forward) -> Forward:
        def tuned(inner: Tensor) -> Tensor:
            x, y = call.entered[place.site.name], forward(inner)
            out = call.apply(place, call.tokens(x), Base(place, lambda _: call.tokens(y), call, unit))
            return out.reshape(y.shape)

        return tuned

    return wrap


def after_block(place: Place, call: Call, unit: Unit | None) -> Wrap:
    def wrap(forward: Forward) -> Forward:
        base = Base(place, lambda x: x, call, unit)

        def tuned(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            hidden = first_output(out)
            new = call.apply(place, call.tokens(hidden), base).reshape(hidden.shape)
            return (new, *out[1:]) if isinstance(out, tuple) else new

        return tuned

    return wrap


def extend_keys_values(place: Place, call: Call) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`(key, value)` `[R, H, S, d]` -> the same with more positions in front."""

    def extend(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        def states(x: Tensor) -> Tensor:
            return call.unflatten(x.transpose(1, 2).flatten(2))

        def heads(x: Tensor) -> Tensor:
            return call.flatten(x).unflatten(-1, (key.shape[1], -1)).transpose(1, 2)

        base = Base(place, lambda pair: pair, call)
        new_key, new_value = call.apply(place, (states(key), states(value)), base)
        return heads(new_key), heads(new_value)

    return extend


def with_virtual_tokens(call: Call, place: Place, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The inputs with embeddings in the place of ids, and how many positions a method has put in front."""
    ids = inputs.pop("input_ids")
    embedded = call.flatten(call.apply(place, call.unflatten(ids), Base(place, place.module, call)))
    virtual = embedded.shape[1] - ids.shape[1]
    for name, fill in (("attention_mask", 1), ("token_type_ids", 0), (ANSWER, 0)):
        if name in inputs:
            inputs[name] = F.pad(inputs[name], (virtual, 0), value=fill)
    return inputs | {"inputs_embeds": embedded}, virtual


class Skip:
    """Blocks that are not run: the last one answers with cached states, the others hand on what they get.

    What a block returns beside its states is None in their place; how much that is, the first block is run to see.
    """

    def __init__(self) -> None:
        self._beside: int | None = None

    @property
    def reads_weights(self) -> bool:
        return self._beside is None

    def wrap(self, states: Tensor | None) -> Wrap:
        def wrap(forward: Forward) -> Forward:
            def skipped(*args: Any, **kwargs: Any) -> Any:
                if self._beside is None:
                    out = forward(*args, **kwargs)
                    self._beside = len(out) - 1 if isinstance(out, tuple) else -1
                hidden = first_input(args, kwargs) if states is None else states
                return hidden if self._beside < 0 else (hidden, *[None] * self._beside)

            return skipped

        return wrap


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def first_output(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


LAYER_WRAPS = {
    "layer": around_layer,
    "slice": around_slice,
    "patches": around_patches,
    "span": around_span,
    "output": after_block,
}
