"""Where methods can act: every site of a backbone, read from its family's role table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from handful.backbone import Backbone
from handful.errors import MethodError
from handful.families import Slice, Stack
from handful.types import Site

if TYPE_CHECKING:
    from torch import nn

    from handful.methods.base import Method

Kind = Literal["layer", "slice", "span", "output", "tokens", "keys_values", "states"]


@dataclass(frozen=True)
class Place:
    """A site and how it is reached.

    kind   layer        around `module`
           slice        around one part of the fused projection `module`
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


def find_places(backbone: Backbone, method: Method) -> tuple[Place, ...]:
    """The places that `method` covers, numbered. MethodError if there is none."""
    places = [place for place in all_places(backbone) if method.covers(place.site)]
    if not places:
        roles = sorted({place.site.role for place in all_places(backbone)})
        raise MethodError(
            f"{type(method).__name__} was asked for on {backbone.id!r}, at roles {', '.join(sorted(method.roles))}.",
            f"Its family {backbone.family.name!r} has no such place; it has {', '.join(roles)}.",
            "Choose roles or layers that exist (for bias terms: add_missing=True), or another method.",
        )
    return tuple(replace(place, site=replace(place.site, index=i)) for i, place in enumerate(places))


def all_places(backbone: Backbone) -> Iterator[Place]:
    """Every place of a backbone, from the input to the output."""
    model = backbone.model
    embedding = model.get_input_embeddings() if backbone.tokenizer is not None or _has_words(model) else None
    first = backbone.family.stacks[0]
    if embedding is not None and hasattr(embedding, "embedding_dim"):
        width = int(embedding.weight.shape[-1])
        extra = {"weight": embedding.weight}
        yield Place(Site("embeddings", "embeddings", first.name, -1, 0, width, width, extra=extra), "tokens", embedding)
    for stack in backbone.family.stacks:
        yield from _stack_places(model, stack)


def _stack_places(model: nn.Module, stack: Stack) -> Iterator[Place]:
    blocks = resolve(model, stack.blocks)
    if blocks is None:
        return
    depth = len(blocks)  # type: ignore[arg-type]
    names = {id(module): name for name, module in model.named_modules()}
    outer = {role: resolve(model, path) for role, path in stack.outer.items()}
    for role, module in outer.items():
        if module is not None and role != "embeddings" and not _comes_last(role):
            yield Place(_site(module, names[id(module)], role, stack, -1, depth), "layer", module)
    for layer, block in enumerate(blocks):  # type: ignore[arg-type]
        yield from _block_places(block, stack, layer, depth, names)
    for role, module in outer.items():
        if module is not None and _comes_last(role):
            yield Place(_site(module, names[id(module)], role, stack, depth, depth), "layer", module)
    width = next(place.site.d_out for place in _block_places(blocks[0], stack, 0, depth, names) if place.site.role == "ffn.out")
    site = Site(f"{stack.name}#hidden_states", "hidden_states", stack.name, depth, depth, width, width)
    yield Place(site, "states", blocks)


def _block_places(block: nn.Module, stack: Stack, layer: int, depth: int, names: dict[int, str]) -> Iterator[Place]:
    found: dict[str, Place] = {}
    for role, path in stack.roles.items():
        module = resolve(block, path)
        if module is None or role.endswith(".core"):
            continue
        name = names[id(module)]
        if isinstance(path, Slice):
            site = _site(module, f"{name}#{role}", role, stack, layer, depth)
            site = replace(site, d_out=site.d_out // path.parts)
            found[role] = Place(site, "slice", module, part=path)
        else:
            found[role] = Place(_site(module, name, role, stack, layer, depth), "layer", module)
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
            yield Place(site, "span", leave.module, entry=entry.module)
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


def resolve(module: nn.Module, path: str | Slice | tuple[str, ...] | None) -> nn.Module | None:
    """The submodule at a role table's path; of several candidates the first that exists; None if there is none."""
    if path is None:
        return None
    candidates = (path.path,) if isinstance(path, Slice) else (path,) if isinstance(path, str) else path
    for candidate in candidates:
        try:
            return module.get_submodule(candidate)
        except AttributeError:
            continue
    return None


def _site(module: nn.Module, name: str, role: str, stack: Stack, layer: int, depth: int) -> Site:
    d_in, d_out = _widths(module) or (0, 0)
    has_bias = getattr(module, "bias", None) is not None
    return Site(name, role, stack.name, layer, depth, d_in, d_out, has_bias=has_bias)


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """`(d_in, d_out)` of a linear layer, a transposed one (GPT-2's Conv1D) or a norm."""
    weight = getattr(module, "weight", None)
    if weight is None:
        return None
    if weight.ndim == 1:
        return int(weight.shape[0]), int(weight.shape[0])
    d_out, d_in = weight.shape[0], weight.shape[1]
    return (int(d_out), int(d_in)) if is_transposed(module) else (int(d_in), int(d_out))


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight is stored `[d_in, d_out]`."""
    return type(module).__name__ == "Conv1D"


def _comes_last(role: str) -> bool:
    return role in ("final.norm", "pooler", "projection")


def _has_words(model: nn.Module) -> bool:
    return "vocab_size" in model.config.to_dict()  # type: ignore[union-attr, operator]


def lowest_block(places: Sequence[Place]) -> int:
    """Index of the first block whose input can depend on a method at these places; its input can be cached."""
    return max(0, min(place.site.layer for place in places))
