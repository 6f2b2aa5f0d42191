"""Putting a method on a frozen backbone: the only file that touches the backbone's modules.

The modules are changed for the length of one call and put back, so one backbone serves any number of methods. The
task dimension is added here: states of `R = T * B` rows are shown to a method as `[T, B * S, D]` beside its
`[T, ...]` parameters, so that one batched product serves all tasks while the frozen layers run once on all rows
(`docs/task-dimension.md` has the measurement against `torch.func.vmap`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from handful import kernels
from handful.backbone import Backbone
from handful.errors import MethodError
from handful.forward import called, run_backbone, token_mask
from handful.insertions import (
    LAYER_WRAPS,
    Base,
    Call,
    Forward,
    Skip,
    Unit,
    Wrap,
    extend_keys_values,
    first_input,
    first_output,
    record_input,
    with_virtual_tokens,
)
from handful.methods.base import Method
from handful.sites import find_places, lowest_block, resolve, towers
from handful.types import Batch, Params, Site, cast_params, map_params, stack_params

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
        self.beside = self.places[0].kind == "states"
        self._towers = towers(backbone, self.places) if self.beside else {}
        if self.beside:
            self.places = tuple(self._towers.values())
        self.sites: tuple[Site, ...] = tuple(place.site for place in self.places)
        stacks = backbone.family.stacks
        self._blocks = [b for stack in stacks for b in resolve(backbone.model, stack.blocks)]  # type: ignore[union-attr]
        resumable = len(stacks) == 1 and stacks[0].resumable and not self.beside
        self.first_block = min(lowest_block(self.places), len(self._blocks) - 1) if resumable else 0
        norms = [place for place in self.places if place.kind == "layer" and _is_norm(place.module)]
        self._units = {place.site.name: Unit(place.module, backbone.family.norm_offset) for place in norms}
        self._skip = Skip()

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
        return cast_params(params, device=self.backbone.device, dtype=dtype)

    def site_table(self) -> list[dict[str, Any]]:
        """The sites as artifacts and priors note them."""
        return [{"name": s.name, "role": s.role, "layer": s.layer} for s in self.sites]

    def num_parameters(self) -> int:
        """Trained parameters of one task, without a head."""
        own = ((name, p) for site in self.init(0).values() for name, p in site.items())
        return sum(p.numel() for name, p in own if p.is_floating_point() and self.method.rate(name) > 0)

    def __call__(
        self, params: Params, batch: Batch, *, noise: Noise | None = None, second_order: bool = False
    ) -> States:
        """Hidden states `[T?, B, S, D]`; `params` and `batch` both have the task dimension or neither has."""
        call = Call(self.method, cast_params(params, dtype=self.backbone.dtype), batch, noise)
        with self.backbone.lock:
            if self.beside:
                hidden, mask = self._run_beside(call)
            else:
                with self._patched(call, second_order):
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

        What the block below `first_block` answers, `[T?, B, S, D]`; for a method beside the backbone all states and the
        final ones, `[T?, B, S, L + 2, D]`. MethodError where nothing is `cacheable`.
        """
        if not self.cacheable:
            raise MethodError("States were to be cached.", "None can be resumed from.", "Ask `cacheable` before.")
        call = Call(self.method, {}, batch, None)
        with self.backbone.lock:
            if self.beside:
                states, final, _ = self._all_states(call)
                return call.unflatten(torch.stack([*states, final], dim=-2))
            seen: list[Tensor] = []

            def stop(forward: Forward) -> Forward:
                def reached(*args: Any, **kwargs: Any) -> Any:
                    seen.append(first_output(forward(*args, **kwargs)))
                    raise _Reached

                return reached

            with patched([(self._blocks[self.first_block - 1], stop)]), contextlib.suppress(_Reached):
                run_backbone(self.backbone, call.inputs)
            return call.unflatten(seen[0])

    def _run(self, call: Call) -> tuple[Tensor, Tensor]:
        inputs, virtual = dict(call.inputs), 0
        for place in self.places:
            if place.kind == "tokens":
                inputs, virtual = with_virtual_tokens(call, place, inputs)
        hidden, mask = run_backbone(self.backbone, inputs)
        if self.backbone.model.config.is_encoder_decoder:  # virtual positions are the encoder's, these states are not
            return hidden, mask
        return hidden[:, virtual:], mask[:, virtual:]

    def _run_beside(self, call: Call) -> tuple[Tensor, Tensor]:
        place = self._towers[called(self.backbone, call.inputs)]
        states, final, mask = self._all_states(call)
        base = Base(place, lambda _: call.unflatten(final), call)
        base.mask = call.unflatten(mask)
        hidden = call.apply(place, tuple(call.unflatten(state) for state in states), base)
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

        blocks: nn.ModuleList = self._towers[called(self.backbone, call.inputs)].module  # type: ignore[assignment]
        with patched([(block, record) for block in blocks]):
            final, mask = run_backbone(self.backbone, call.inputs)
        return states, final, mask

    @contextlib.contextmanager
    def _patched(self, call: Call, second_order: bool) -> Iterator[None]:
        patches: list[tuple[nn.Module, Wrap]] = []
        extensions: dict[nn.Module, kernels.Extend] = {}
        for place in self.places:
            if place.entry is not None:
                patches.append((place.entry, record_input(place, call)))
            if place.kind in LAYER_WRAPS:
                wrap = LAYER_WRAPS[place.kind](place, call, self._units.get(place.site.name))
                patches.append((place.module, wrap))
            elif place.kind == "keys_values":
                extensions[place.module] = extend_keys_values(place, call)
        if call.states is not None and self.first_block:
            patches += [(block, self._skip.wrap(None)) for block in self._blocks[: self.first_block - 1]]
            patches.append((self._blocks[self.first_block - 1], self._skip.wrap(call.states)))

        @contextlib.contextmanager
        def inside() -> Iterator[None]:
            with self.backbone.lock, contextlib.ExitStack() as stack:
                stack.enter_context(kernels.differentiable_twice(second_order, self.backbone))
                if self.backbone.shards and call.states is not None and not self._skip.reads_weights:
                    stack.enter_context(self.backbone.shards.asleep(self._blocks[: self.first_block]))
                if extensions:
                    stack.enter_context(_extended_attention(self.backbone.model, extensions))
                stack.enter_context(patched(patches))
                yield

        with inside(), contextlib.ExitStack() as stack:
            if self.checkpoint and torch.is_grad_enabled():
                stack.enter_context(_recomputed(self._blocks[self.first_block :], inside))
            yield


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
    """Within, the attention of a model runs in `kernels`, by its configurations' `_attn_implementation`."""
    configs: dict[int, Any] = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    with kernels.extended(extensions, model.config._attn_implementation):  # type: ignore[union-attr, arg-type]
        try:
            for config, _ in before:
                config._attn_implementation_internal = kernels.NAME
            yield
        finally:
            for config, implementation in before:
                config._attn_implementation_internal = implementation


@contextlib.contextmanager
def _recomputed(blocks: Sequence[nn.Module], inside: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Within, blocks store their inputs only; the backward pass runs them again `inside()` what this pass ran in."""
    running = True

    def wrap(forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            with contextlib.nullcontext() if running else inside():
                return forward(*args, **kwargs)

        def checkpointed(*args: Any, **kwargs: Any) -> Any:
            return recompute(run, *args, use_reentrant=False, **kwargs)

        return checkpointed

    try:
        with patched([(block, wrap) for block in blocks]):
            yield
    finally:
        running = False


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.ndim == 1


class _Reached(Exception):  # noqa: N818
    """Everything that was asked for has been computed."""
