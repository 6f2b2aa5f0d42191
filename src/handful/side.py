"""What side networks share: their attention, the blocks beside which they stand, and those blocks' weights, pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from handful.types import Site

Layers = int | tuple[int, ...] | None

_PARTS = {
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "attention.out": "out",
    "ffn.in": "ffn_in",
    "ffn.gate": "ffn_gate",
    "ffn.out": "ffn_out",
}


def attention(qkv: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Scaled dot-product self-attention of `qkv [..., B, S, 3 a]`, `[..., B, S, a]`; `mask` is of `attention_mask`.

    It keeps no scores: the backward pass runs it again, fused unless second derivatives are asked for.
    """
    parts = (part.flatten(0, -3).unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
    read: Tensor = _Attention.apply(*parts, mask)  # type: ignore[assignment, no-untyped-call]
    return read.transpose(1, 2).flatten(2).unflatten(0, qkv.shape[:-2])


def attention_mask(mask: Tensor, like: Tensor, *, causal: bool) -> Tensor:
    """What is added to scores `[R, 1, S or 1, S]` for `mask [..., B, S]`, True at real tokens."""
    seen = mask.flatten(0, -2)[:, None, None]
    if causal:
        seen = seen & torch.ones(mask.shape[-1], mask.shape[-1], dtype=torch.bool, device=mask.device).tril()
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(~seen, torch.finfo(like.dtype).min)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(query, key, value, mask)
        return F.scaled_dot_product_attention(query, key, value, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, mask = ctx.saved_tensors
        twice = torch.is_grad_enabled()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if twice else nullcontext():
            inputs = inputs if twice else [x.detach().requires_grad_() for x in inputs]
            again = F.scaled_dot_product_attention(*inputs, mask)
            return (*torch.autograd.grad(again, inputs, grad, create_graph=twice), None)


def chosen(layers: Layers, site: Site) -> tuple[int, ...]:
    """The blocks that have a block of the side network beside them: all (None), `n` evenly spread up to the last, or
    the ones listed. ValueError where the backbone has no such blocks.
    """
    depth = site.num_layers
    if layers is None:
        return tuple(range(depth))
    if isinstance(layers, int) and 1 <= layers <= depth:
        return tuple((i + 1) * depth // layers - 1 for i in range(layers))
    if isinstance(layers, tuple) and layers and set(layers) <= set(range(depth)) and [*layers] == sorted({*layers}):
        return layers
    raise ValueError(f"layers={layers}, where a number from 1 to {depth} or ascending blocks of 0 to {depth - 1} fit")


def heads_of(site: Site) -> int:
    """Attention heads of the backbone."""
    query = site.extra["blocks"][0].get("attention.query")
    return (site.d_in if query is None else query.site.d_out) // site.extra["head_size"]


def pruned(site: Site, layers: Sequence[int], channels: int, head: int, ffn: int) -> dict[str, Tensor]:
    """Weights of the blocks `layers`, of which the units with the largest sums of absolute values are kept.

    One set of `channels` for all blocks, since they share a residual stream; in each block `head` dimensions of each
    head, the same in query and key and the same in value and output, and `ffn` inner units. Grouped keys and values
    are given to each of their queries. Returns `qkv`, `out`, `ffn_in`, `ffn_gate`, `ffn_out` as `[n, d_out, d_in]` and
    `_bias`es `[n, d_out]`, where the backbone has them. ValueError where its weights cannot be read.
    """
    blocks = [_read(site.extra["blocks"][i], site.extra["head_size"]) for i in layers]
    every = [p.abs().flatten(0, -2).sum(0) for block in blocks for name, p in block.items() if not _is_bias(name)]
    stream = _largest(torch.stack(every).sum(0), channels)
    each = [_cut(block, stream, head, ffn) for block in blocks]
    return {name: torch.stack([block[name] for block in each]) for name in each[0]}


def _read(block: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    """Weights with the residual channel last: of attention `[H, size, D]`, of the feed-forward network `[F, D]`."""
    found: dict[str, Tensor] = {}
    for role, name in _PARTS.items():
        if role not in block:
            if role == "ffn.gate":
                continue
            raise ValueError(
                f"start='magnitude' reads {role}, which this backbone does not show; start='random' does not"
            )
        weight, bias = block[role].weight.detach(), block[role].bias
        if hasattr(weight, "full_tensor"):
            raise ValueError("start='magnitude' reads weights that are sharded here; start='random' does not")
        found[name] = weight.T if name in ("out", "ffn_out") else weight
        if bias is not None:
            found[f"{name}_bias"] = bias.detach()
    for name in ("query", "key", "value", "out", "query_bias", "key_bias", "value_bias"):
        if name in found:
            found[name] = found[name].unflatten(0, (-1, size))
    heads = found["query"].shape[0]
    for name in {"key", "value", "key_bias", "value_bias"} & set(found):
        found[name] = found[name].repeat_interleave(heads // found[name].shape[0], 0)
    return found


def _cut(block: Mapping[str, Tensor], stream: Tensor, head: int, ffn: int) -> dict[str, Tensor]:
    narrow = {name: p if _is_bias(name) else p[..., stream] for name, p in block.items()}

    def units(names: Sequence[str], keep: int) -> Tensor:
        return _largest(torch.stack([narrow[name].abs().sum(-1) for name in names if name in narrow]).sum(0), keep)

    scored, read = units(("query", "key"), head), units(("value", "out"), head)
    inner = units(("ffn_in", "ffn_gate", "ffn_out"), ffn)
    kept = {"query": scored, "key": scored, "value": read, "out": read}
    cut: dict[str, Tensor] = {}
    for name, p in narrow.items():
        part = name.removesuffix("_bias")
        if name in ("out_bias", "ffn_out_bias"):
            cut[name] = p[stream]
        elif part in kept:
            index = kept[part] if _is_bias(name) else kept[part][..., None]
            cut[name] = p.take_along_dim(index, 1).flatten(0, 1)
        else:
            cut[name] = p[inner]
    turned = {name: p.T if name in ("out", "ffn_out") else p for name, p in cut.items()}
    for name in ("qkv", "qkv_bias"):
        parts = [turned.pop(name.replace("qkv", part), None) for part in ("query", "key", "value")]
        if parts[0] is not None:
            turned[name] = torch.cat([torch.zeros_like(parts[0]) if part is None else part for part in parts])
    return turned


def _largest(importance: Tensor, keep: int) -> Tensor:
    """Where the `keep` largest numbers of the last dimension are, in their order of position."""
    return importance.topk(keep, -1).indices.sort(-1).values


def _is_bias(name: str) -> bool:
    return name.endswith("_bias")
