"""Where methods can act: every site of a backbone, read from its family's role table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Literal

from handful.backbone import Backbone
from handful.errors import MethodError
from handful.families import Path, Slice, Stack, locate
from handful.types import Site

if TYPE_CHECKING:
    from torch import Tensor, nn

    from handful.methods.base import Method

Kind = Literal["layer", "slice", "patches", "span", "output", "tokens", "keys_values", "states"]


@dataclass(frozen=True)
class Place:
    """A site and how it is reached.

    kind   layer        around `module`; with `entry`, only when it is called with what entered `entry`
           slice        around one part of the fused projection `module`
           patches      around the convolution `module`, as a linear layer of the patches that it reads
           span         from the input of `entry` to the output of `module`
           output       after `module`, whose output is the residual sum of a pre-norm block
           tokens       the word look-up `module`: the sequence may get longer
           keys_values  between the projections and the attention function that `module` calls
           states       beside the backbone: all hidden states of a stack
    """

    site: Site
    kind: Kind
    module: nn.Module
    entry: nn.Module | None = None
    part: Slice | None = None

    @property
    def weight(self) -> Tensor:
        """`[d_out, d_in]` of a linear layer, of patches, or of one part of a fused one, however it is stored."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        weight = weight.flatten(1) if self.kind == "patches" else weight
        weight = weight.T if is_transposed(self.module) else weight
        return weight if self.part is None else weight.chunk(self.part.parts)[self.part.index]

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = getattr(self.module, "bias", None)
        return bias if self.part is None or bias is None else bias.chunk(self.part.parts)[self.part.index]


def find_places(backbone: Backbone, method: Method) -> tuple[Place, ...]:
    """The places that `method` covers, numbered. MethodError if there is none."""
    every = list(all_places(backbone))
    for part in getattr(method, "methods", (method,)):
        if not any(part.covers(place.site) for place in every):
            roles = sorted({place.site.role for place in every})
            raise MethodError(
                f"{type(part).__name__} was asked for on {backbone.id!r}, at roles {', '.join(sorted(part.roles))}.",
                f"Its family {backbone.family.name!r} has no such place; it has {', '.join(roles)}.",
                "Choose roles or layers that exist (for bias terms: add_missing=True), or another method.",
            )
    places = [place for place in every if method.covers(place.site)]
    if len({place.kind == "states" for place in places}) > 1:
        raise MethodError(
            f"{type(method).__name__} was asked for on {backbone.id!r}.",
            "It has a method inside the backbone and one beside it, which reads frozen states.",
            "Train them one after the other, or choose one.",
        )
    return tuple(replace(place, site=replace(place.site, index=i)) for i, place in enumerate(places))


def all_places(backbone: Backbone) -> Iterator[Place]:
    """Every place of a backbone, from the input to the output."""
    model = backbone.model
    first = backbone.family.stacks[0]
    embedding = resolve(model, first.outer.get("embeddings"))
    if embedding is not None and "inputs_embeds" in signature(model.forward).parameters:
        width = int(embedding.weight.shape[-1])  # type: ignore[index, union-attr, arg-type]
        extra = {"embedding": embedding}
        yield Place(Site("embeddings", "embeddings", first.name, -1, 0, width, width, extra=extra), "tokens", embedding)
    for stack in backbone.family.stacks:
        yield from _stack_places(model, stack)


def _stack_places(model: nn.Module, stack: Stack) -> Iterator[Place]:
    blocks: nn.ModuleList = resolve(model, stack.blocks)  # type: ignore[assignment]
    depth = len(blocks)
    names = {id(module): name for name, module in model.named_modules()}
    outer = {role: resolve(model, path) for role, path in stack.outer.items() if role != "embeddings"}
    outer = {role: module for role, module in outer.items() if module is not None}
    for role, module in outer.items():
        if role.startswith("embeddings"):
            kind: Kind = "patches" if type(module).__name__ == "Conv2d" else "layer"
            yield Place(_site(module, names[id(module)], role, stack, -1, depth), kind, module)
    within = [list(_block_places(block, stack, layer, depth, names)) for layer, block in enumerate(blocks)]
    for places in within:
        yield from places
    for role, module in outer.items():
        if not role.startswith("embeddings"):
            yield Place(_site(module, names[id(module)], role, stack, depth, depth), "layer", module)
    width = next(place.site.d_out for place in within[0] if place.site.role == "ffn.out")
    layers = tuple({p.site.role: p for p in places if p.kind in ("layer", "slice")} for places in within)
    extra = {"blocks": layers, "head_size": _head_size(blocks[0]) or width}
    site = Site(f"{stack.name}#hidden_states", "hidden_states", stack.name, depth, depth, width, width, extra=extra)
    yield Place(site, "states", blocks)


def _block_places(block: nn.Module, stack: Stack, layer: int, depth: int, names: dict[int, str]) -> Iterator[Place]:
    found: dict[str, Place] = {}
    for role, path in stack.roles.items():
        module, place = resolve(block, path), locate(block, path)
        if module is None or role.endswith(".core") or _widths(module) is None:
            continue
        name = names[id(module)]
        if isinstance(place, Slice):
            site = _site(module, f"{name}#{role}", role, stack, layer, depth)
            site = replace(site, d_out=site.d_out // place.parts)
            found[role] = Place(site, "slice", module, part=place)
        else:
            found[role] = Place(_site(module, name, role, stack, layer, depth), "layer", module)
            if _reads_positions(block, role):
                found[role] = replace(found[role], entry=block.get_submodule(str(place).rpartition(".")[0]))
    yield from found.values()
    prefix = names[id(block)]
    for part, first, last in (
        ("attention", "attention.query", "attention.out"),
        ("cross", "cross.query", "cross.out"),
        ("ffn", "ffn.in", "ffn.out"),
    ):
        if first in found and last in found:
            entry, leave = found[first], found[last]
            site = replace(leave.site, name=f"{prefix}#{part}", role=part, d_in=entry.site.d_in)
            yield Place(site, "span", leave.module, entry=entry.entry or entry.module)
        core = resolve(block, stack.roles.get(f"{part}.core"))
        if core is not None and f"{part}.key" in found:
            width = found[f"{part}.key"].site.d_out
            site = Site(f"{prefix}#{part}.kv", f"{part}.kv", stack.name, layer, depth, width, width)
            yield Place(site, "keys_values", core)
        norm = found.get(f"{part}.norm")
        if stack.post_norm and norm is not None:
            site = replace(norm.site, name=f"{norm.site.name}#add", role=f"{part}.add")
            yield Place(site, "layer", norm.module)
        elif not stack.post_norm and part == "ffn" and "ffn.out" in found:
            width = found["ffn.out"].site.d_out
            yield Place(Site(f"{prefix}#ffn.add", "ffn.add", stack.name, layer, depth, width, width), "output", block)


def resolve(module: nn.Module, path: Path | None) -> nn.Module | None:
    """The submodule at a role table's path; None where a path of candidates has none that exists."""
    place = None if path is None else locate(module, path)
    return None if place is None else module.get_submodule(place.path if isinstance(place, Slice) else place)


def _head_size(block: nn.Module) -> int:
    """Width of a head's queries, by the names that attention modules have for it; 0 where none is found."""
    names = ("head_dim", "attention_head_size", "key_value_proj_dim")
    sizes = [getattr(module, name, None) for module in block.modules() for name in names]
    return next((size for size in sizes if isinstance(size, int)), 0)


def _site(module: nn.Module, name: str, role: str, stack: Stack, layer: int, depth: int) -> Site:
    d_in, d_out = _widths(module) or (0, 0)
    has_bias = getattr(module, "bias", None) is not None
    return Site(name, role, stack.name, layer, depth, d_in, d_out, has_bias=has_bias)


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """`(d_in, d_out)` of a linear layer, a transposed one (GPT-2's Conv1D), a convolution of patches or a norm."""
    weight = getattr(module, "weight", None)
    if weight is None:
        return None
    if weight.ndim == 1:
        return int(weight.shape[0]), int(weight.shape[0])
    d_out, d_in = weight.flatten(1).shape
    return (int(d_out), int(d_in)) if is_transposed(module) else (int(d_in), int(d_out))


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight is stored `[d_in, d_out]`."""
    return type(module).__name__ == "Conv1D"


def _reads_positions(block: nn.Module, role: str) -> bool:
    """DeBERTa with `share_att_key` calls query and key projections again on the relative positions of all rows."""
    if role not in ("attention.query", "attention.key"):
        return False
    return any(getattr(module, "share_att_key", False) for module in block.modules())


def towers(backbone: Backbone, places: Sequence[Place]) -> dict[str, Place]:
    """Of places beside stacks, the one whose stack gives the output, by the path of the module that is called."""
    stacks = {stack.name: str(stack.blocks) for stack in backbone.family.stacks}
    whole = backbone.model.config.is_encoder_decoder or not backbone.family.entry
    entries = ("",) if whole else tuple(backbone.family.entry.values())
    return {entry: place for entry in entries for place in places if stacks[place.site.stack].startswith(entry)}


def lowest_block(places: Sequence[Place]) -> int:
    """Index of the first block whose input can depend on a method at these places; its input can be cached."""
    return max(0, min(place.site.layer for place in places))
