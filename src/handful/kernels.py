"""Attention kernels: extra keys and values, and second derivatives where fused kernels have none."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from handful.errors import MethodError
from handful.packing import bias

if TYPE_CHECKING:
    from handful.backbone import Backbone

log = logging.getLogger(__name__)

Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
NAME = "handful_extended"
_EXTENSIONS: ContextVar[tuple[dict[int, Extend], str]] = ContextVar("extensions")


@contextlib.contextmanager
def extended(extensions: dict[nn.Module, Extend], implementation: str) -> Iterator[None]:
    """Within, attention modules that run the implementation `NAME` get their keys and values extended."""
    _register()
    token = _EXTENSIONS.set(({id(module): extend for module, extend in extensions.items()}, implementation))
    try:
        yield
    finally:
        _EXTENSIONS.reset(token)


@contextlib.contextmanager
def differentiable_twice(asked: bool, backbone: Backbone) -> Iterator[None]:
    """Math attention for second derivatives; fused attention has none. Said once. MethodError where it is sharded."""
    if not asked:
        yield
        return
    if backbone.shards:
        raise MethodError(
            f"Second-order gradients were asked for through {backbone.id!r}.",
            "It is sharded: its weights are gone when the first backward pass has ended.",
            "Use first-order gradients, or a backbone that is not sharded.",
        )
    _say_once()
    with sdpa_kernel(SDPBackend.MATH):
        yield


@cache
def _say_once() -> None:
    log.warning("second-order gradients were asked for: attention runs unfused, since its fused kernels have none")


@cache
def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(NAME, _extended_attention)
    AttentionMaskInterface.register(NAME, eager_mask)


def _extended_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function over `[R, H, S, d]`, with positions put in front of keys and values."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    extensions, implementation = _EXTENSIONS.get()
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
    if id(module) in extensions:
        real = key.shape[2]
        key, value = extensions[id(module)](key, value)
        extra = key.shape[2] - real
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", False) if causal is None else causal
        if attention_mask is None and causal and query.shape[2] > 1:
            allowed = torch.ones(query.shape[2], real, dtype=torch.bool, device=key.device).tril(real - query.shape[2])
            attention_mask = bias(allowed, query.dtype)[None, None]
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (extra, 0), value=1 if attention_mask.dtype == torch.bool else 0)
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = F.pad(kwargs["position_bias"], (extra, 0))
    return attention(module, query, key, value, attention_mask, **kwargs)
