"""Putting a method on a frozen backbone: the only file that touches the backbone's modules.

The modules are changed for the length of one call and put back, so one backbone serves any number of methods. The
task dimension is added here: states of `R = T * B` rows are shown to a method as `[T, B * S, D]` beside its
`[T, ...]` parameters, so that one batched product serves all tasks while the frozen layers run once on all rows
(`docs/task-dimension.md` has the measurement against `torch.func.vmap`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from handful import kernels
from handful.backbone import Backbone
from handful.errors import MethodError
from handful.forward import run_backbone, token_mask
from handful.insertions import (
    LAYER_WRAPS,
    Base,
    Call,
    Forward,
    Unit,
    Wrap,
    extend_keys_values,
    first_input,
    first_output,
    pass_through,
    record_input,
)
from handful.methods.base import Method
from handful.sites import Place, find_places, lowest_block, resolve
from handful.types import Batch, Params, Site

if TYPE_CHECKING:
    from handful.noise import Noise


@dataclass(frozen=True)
class States:
    """Final hidden states `[T?, B, S, D]` and `mask [T?, B, S]`, True at real tokens."""

    hidden: Tensor
    mask: Tensor


class Adapted:
    """A backbone with a method on it: `adapted(params, batch)` runs it, `adapted.init(...)` makes params.

    sites        where the method acts, in order
    beside       True for a method that only reads the backbone's states
    first_block  the lowest block whose input a tuned parameter can change
    """

    def __init__(self, backbone: Backbone, method: Method, *, checkpoint: bool = False) -> None:
        self.backbone, self.method, self.checkpoint = backbone, method, checkpoint
        self.places = find_places(backbone, method)
        self.sites: tuple[Site, ...] = tuple(place.site for place in self.places)
        self.beside = self.places[0].kind == "states"
        if self.beside and len(self.places) > 1:
            self.places = (self.places[-1],)  # the tower whose states are the output
            self.sites = (self.places[0].site,)
        stacks = backbone.family.stacks
        resumable = len(stacks) == 1 and stacks[0].resumable
        self.first_block = lowest_block(self.places) if resumable and not self.beside else 0
        stack = next(stack for stack in stacks if stack.name == self.sites[-1].stack)
        self._blocks: Sequence[nn.Module] = list(resolve(backbone.model, stack.blocks))  # type: ignore[arg-type]
        self.first_block = min(self.first_block, len(self._blocks) - 1)
        self._units = {p.site.name: Unit(p.module) for p in self.places if p.kind == "layer" and _is_norm(p.module)}
        self._tuple_blocks = False

    def init(self, seed: int, tasks: int | None = None) -> Params:
        """Fresh parameters, `[...]` or `[tasks, ...]`. Task t of a stack starts as it would alone with `seed + t`."""
        if tasks is not None:
            return stack_params([self.init(seed + t) for t in range(tasks)])
        generator = torch.Generator().manual_seed(seed)
        params: Params = {}
        for site in self.sites:
            try:
                params[site.name] = self.method.init(site, generator)
            except (ValueError, RuntimeError) as error:
                raise MethodError(
                    f"{self.method} was asked for at {site.name} ({site.d_in} -> {site.d_out}).", f"It says: {error}.",
                    "Change the method's options to fit.",
                ) from error  # fmt: skip
        if shared := self.method.shared(self.sites, generator):
            params["shared"] = shared
        dtype = torch.promote_types(self.backbone.dtype, torch.float32)
        return map_params(lambda p: p.to(device=self.backbone.device, dtype=dtype), params)

    def num_parameters(self) -> int:
        """Trained parameters of one task, without a head."""
        return sum(p.numel() for site in self.init(0).values() for p in site.values())

    def __call__(
        self, params: Params, batch: Batch, *, noise: Noise | None = None, second_order: bool = False
    ) -> States:
        """Hidden states `[T?, B, S, D]`; `params` and `batch` both have the task dimension or neither has."""
        call = Call(self.method, self._in_backbone_dtype(params), batch, noise)
        with kernels.differentiable_twice(second_order), self.backbone.lock:
            if self.beside:
                hidden, mask = self._run_beside(call)
            else:
                with self._patched(call):
                    hidden, mask = self._run(call)
        return States(call.unflatten(hidden), call.unflatten(mask))

    def mixed(self, params: Params, batch: Batch, tasks: Tensor) -> States:
        """Rows `[B, ...]` of mixed tasks in one forward: row b is answered with the parameters of task `tasks[b]`."""
        gathered = map_params(lambda p: p[tasks], params)
        lifted = Batch({name: value[:, None] for name, value in batch.inputs.items()}, batch.row_mask[:, None])
        states = self(gathered, lifted)
        return States(states.hidden[:, 0], states.mask[:, 0])

    @property
    def cacheable(self) -> bool:
        """Whether something can be computed once with `freeze`."""
        return self.beside or self.first_block > 0

    @torch.no_grad()
    def freeze(self, batch: Batch) -> Tensor:
        """What no tuned parameter can change, for `batch.inputs["states"]`.

        The input of `first_block`, `[T?, B, S, D]`; for a method beside the backbone all states and the final ones,
        `[T?, B, S, L + 2, D]`.
        """
        call = Call(self.method, {}, batch, None)
        with self.backbone.lock:
            if self.beside:
                states, final, _ = self._all_states(call)
                return call.unflatten(torch.stack([*states, final], dim=-2))
            seen: list[Tensor] = []

            def stop(forward: Forward) -> Forward:
                def reached(*args: Any, **kwargs: Any) -> Any:
                    seen.append(first_input(args, kwargs))
                    raise _Reached

                return reached

            def look(forward: Forward) -> Forward:
                def looked(*args: Any, **kwargs: Any) -> Any:
                    out = forward(*args, **kwargs)
                    self._tuple_blocks = isinstance(out, tuple)
                    return out

                return looked

            patches = [(self._blocks[self.first_block], stop), (self._blocks[0], look)]
            with patched(patches), contextlib.suppress(_Reached):
                run_backbone(self.backbone, call.inputs)
            return call.unflatten(seen[0])

    def _run(self, call: Call) -> tuple[Tensor, Tensor]:
        inputs, virtual = dict(call.inputs), 0
        for place in self.places:
            if place.kind == "tokens":
                inputs, virtual = _with_virtual_tokens(call, place, inputs)
        hidden, mask = run_backbone(self.backbone, inputs)
        if virtual and hidden.shape[1] == mask.shape[1]:  # a decoder's output has no virtual positions
            hidden, mask = hidden[:, virtual:], mask[:, virtual:]
        return hidden, mask

    def _run_beside(self, call: Call) -> tuple[Tensor, Tensor]:
        states, final, mask = self._all_states(call)
        base = Base(self.places[0], lambda _: call.unflatten(final), call)
        base.mask = call.unflatten(mask)
        hidden = call.apply(self.places[0], tuple(call.unflatten(state) for state in states), base)
        return hidden.reshape(final.shape), mask

    @torch.no_grad()
    def _all_states(self, call: Call) -> tuple[list[Tensor], Tensor, Tensor]:
        """The stack's input and each block's output `[R, S, D]`, the final states, and the mask."""
        if call.states is not None:
            *states, final = call.states.unbind(-2)
            return states, final, token_mask(self.backbone, call.inputs, final)
        states = []

        def record(forward: Forward) -> Forward:
            def recorded(*args: Any, **kwargs: Any) -> Any:
                if not states:
                    states.append(first_input(args, kwargs))
                out = forward(*args, **kwargs)
                states.append(first_output(out))
                return out

            return recorded

        with patched([(block, record) for block in self._blocks]):
            final, mask = run_backbone(self.backbone, call.inputs)
        return states, final, mask

    @contextlib.contextmanager
    def _patched(self, call: Call) -> Iterator[None]:
        patches: list[tuple[nn.Module, Wrap]] = []
        extensions: dict[nn.Module, kernels.Extend] = {}
        for place in self.places:
            if place.kind == "span":
                assert place.entry is not None
                patches.append((place.entry, record_input(place, call)))
            if place.kind in LAYER_WRAPS:
                wrap = LAYER_WRAPS[place.kind](place, call, self._units.get(place.site.name))
                patches.append((place.module, wrap))
            elif place.kind == "keys_values":
                extensions[place.module] = extend_keys_values(place, call)
        if call.states is not None:
            skipped = self._blocks[: self.first_block]
            patches += [(block, pass_through(None, self._tuple_blocks)) for block in skipped[:-1]]
            patches.append((skipped[-1], pass_through(call.states, self._tuple_blocks)))
        with contextlib.ExitStack() as stack:
            if extensions:
                stack.enter_context(_extended_attention(self.backbone.model, extensions))
            if self.checkpoint and torch.is_grad_enabled():
                inner = list(patches)
                live = _Live()
                patches = patches + [(block, _recomputed(inner, live)) for block in self._blocks[self.first_block :]]
                stack.callback(live.end)
            stack.enter_context(patched(patches))
            yield

    def _in_backbone_dtype(self, params: Params) -> Params:
        return map_params(lambda p: p.to(self.backbone.dtype), params)


def attach(backbone: Backbone, method: Method, *, checkpoint: bool = False) -> Adapted:
    """`method` on `backbone`. `checkpoint` recomputes blocks in the backward pass to save memory.

    Raises MethodError where the backbone has no place for the method.
    """
    return Adapted(backbone, method, checkpoint=checkpoint)


@contextlib.contextmanager
def patched(patches: Sequence[tuple[nn.Module, Wrap]]) -> Iterator[None]:
    """Wraps the forward of modules, the later ones around the earlier, and puts all back."""
    before = {module: module.__dict__.get("forward") for module, _ in patches}
    try:
        for module, wrap in patches:
            module.forward = wrap(module.forward)
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


@contextlib.contextmanager
def _extended_attention(model: nn.Module, extensions: dict[nn.Module, kernels.Extend]) -> Iterator[None]:
    """Runs the attention of a model through `kernels`, by its configurations' `_attn_implementation`."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    before = [(config, config._attn_implementation) for config in configs]
    with kernels.extended(extensions, model.config._attn_implementation):  # type: ignore[union-attr, arg-type]
        try:
            for config, _ in before:
                config._attn_implementation_internal = kernels.NAME
            yield
        finally:
            for config, implementation in before:
                config._attn_implementation_internal = implementation


def _with_virtual_tokens(call: Call, place: Place, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The inputs with embeddings in the place of ids, and how many positions a method has put in front."""
    ids = inputs.pop("input_ids")
    embedded = call.apply(place, call.unflatten(ids), Base(place, place.module.forward, call))
    embedded = embedded if call.num_tasks is None else embedded.flatten(0, 1)
    virtual = embedded.shape[1] - ids.shape[1]
    for name, fill in (("attention_mask", 1), ("token_type_ids", 0)):
        if name in inputs:
            inputs[name] = F.pad(inputs[name], (virtual, 0), value=fill)
    return inputs | {"inputs_embeds": embedded}, virtual


class _Live:
    """Whether the call whose blocks may be recomputed is still running."""

    def __init__(self) -> None:
        self.running = True

    def end(self) -> None:
        self.running = False


def _recomputed(patches: list[tuple[nn.Module, Wrap]], live: _Live) -> Wrap:
    """A block that stores its input only and runs again in the backward pass, under the same patches."""

    def wrap(forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            if live.running:
                return forward(*args, **kwargs)
            with patched(patches):
                return forward(*args, **kwargs)

        def checkpointed(*args: Any, **kwargs: Any) -> Any:
            return recompute(run, *args, use_reentrant=False, **kwargs)

        return checkpointed

    return wrap


def map_params(function: Callable[[Tensor], Tensor], params: Params) -> Params:
    """The same tree with `function` applied to each tensor."""
    return {site: {name: function(p) for name, p in own.items()} for site, own in params.items()}


def stack_params(each: Sequence[Params]) -> Params:
    """Params of T tasks `[...]` -> `[T, ...]`."""
    first = each[0]
    return {
        site: {name: torch.stack([params[site][name] for params in each]) for name in own} for site, own in first.items()
    }


def task_params(params: Params, task: int) -> Params:
    """The parameters of one task of a stack."""
    return map_params(lambda p: p[task], params)


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.ndim == 1


class _Reached(Exception):  # noqa: N818
    """Everything that was asked for has been computed."""
