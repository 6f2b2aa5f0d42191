"""Frozen weights in fewer bits: the linear layers of a backbone's blocks, replaced while it is loaded.

int8       8-bit weights, one scale a row, times inputs rounded to 8 bits, one scale a token. In plain torch.
nf4, bnb8  4-bit normal floats and 8-bit integers of bitsandbytes, which is made for GPUs.

Inputs are scaled token by token, never batch by batch: what a row gives does not depend on the rows beside it. The
backward pass goes through the dequantised weights, which `weight` shows as `[d_out, d_in]`, Conv1D's too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from handful.errors import BackboneError
from handful.families import Family, locate
from handful.types import QUANTIZED

_INT_PRODUCT: Callable[[Tensor, Tensor], Tensor] | None = getattr(torch, "_int_mm", None)
_TOP = 127


class Quantized(nn.Module):
    """A frozen linear layer whose weight is held in fewer bits.

    weight  `[d_out, d_in]`, dequantised anew each time it is asked for
    bias    `[d_out]` or None, as it was
    """

    in_features: int
    out_features: int

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


class Int8(Quantized):
    """`y = W x + b` with `W = step_W codes`, on `x` rounded to the middle of a token's range plus 8-bit steps of it.

    `step_W = max|W| / 127` of each row, `step_x = (max x - min x) / 254` of each token. `W` differs from the weight as
    it was by at most `step_W / 2`, and `y` from a layer with that `W` by at most `step_x / 2` times the sum of `|W|`
    over its inputs. Derivatives are those of the layer with that `W`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        top = weight.abs().amax(1)
        self.steps = nn.Buffer(torch.where(top > 0, top / _TOP, 1))
        codes = (weight.float() / self.steps.float()[:, None]).round_().clamp_(-_TOP, _TOP)
        self.codes = nn.Parameter(codes.to(torch.int8), requires_grad=False)
        self.sums = nn.Buffer(codes.sum(1).int())
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        return self.codes * self.steps[:, None]

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self)  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    """`int8_product`, differentiated any number of times as the layer with the dequantised weight is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Int8) -> Tensor:  # type: ignore[override]
        ctx.layer = layer
        return int8_product(x, layer)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad @ ctx.layer.weight.to(grad), None


def int8_product(x: Tensor, layer: Int8) -> Tensor:
    """What `layer` gives for `x [..., d_in]`."""
    rows = x.reshape(-1, x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)  # together in one call is 15 times slower
    middle = (low + high) / 2
    step = ((high - low) / (2 * _TOP)).clamp_min_(torch.finfo(rows.dtype).tiny)
    rounded = rows.sub(middle).div_(step).round_().clamp_(-_TOP, _TOP)
    if _INT_PRODUCT is not None and x.is_cpu and _integers_are_exact():
        y = _INT_PRODUCT(rounded.to(torch.int8), layer.codes.t()).to(rows.dtype)
    else:
        y = rounded @ layer.codes.t().to(rows.dtype)
    y.mul_(step).addcmul_(middle, layer.sums).mul_(layer.steps)
    return (y if layer.bias is None else y.add_(layer.bias)).to(x.dtype).reshape(*x.shape[:-1], layer.out_features)


@cache
def _integers_are_exact() -> bool:
    """Whether 8-bit products are summed without overflow here: x86 processors without VNNI may sum pairs in 16 bits."""
    assert _INT_PRODUCT is not None
    drawn = torch.randint(-_TOP, _TOP + 1, (8, 256), generator=torch.Generator().manual_seed(0))
    ends = torch.cat([drawn, torch.full((1, 256), _TOP), torch.full((1, 256), -_TOP)])
    codes = ends.to(torch.int8)
    return torch.equal(_INT_PRODUCT(codes, codes.t()).long(), ends @ ends.t())


class Bits(Quantized):
    """A linear layer of bitsandbytes: "nf4" or "bnb8". Inputs of bnb8 are scaled token by token; no outliers apart."""

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: str) -> None:
        import bitsandbytes as bnb  # type: ignore[import-not-found]

        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._dtype = weight.dtype
        self.packed = weight.numel() // 2 if kind == "nf4" else 0  # parameters beside those that are counted
        shape, biased = (self.in_features, self.out_features), bias is not None
        if kind == "nf4":
            self.inner = bnb.nn.Linear4bit(*shape, biased, compute_dtype=weight.dtype, quant_type="nf4")
            self.inner.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=self.inner)
        else:  # a threshold would set apart columns in which any row of the batch is large
            self.inner = bnb.nn.Linear8bitLt(*shape, biased, has_fp16_weights=False, threshold=0.0)
            self.inner.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        self.inner.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        from bitsandbytes import functional  # type: ignore[import-not-found]

        held = self.inner.weight
        if hasattr(held, "quant_state"):
            found = functional.dequantize_4bit(held.data, held.quant_state)
        else:
            scale = self.inner.state.SCB if held.SCB is None else held.SCB
            found = functional.int8_vectorwise_dequant(held.data, scale)
        return found.to(self._dtype)

    @property
    def bias(self) -> Tensor | None:
        return self.inner.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def quantize(model: nn.Module, family: Family, kind: str, device: torch.device | str = "cpu") -> None:
    """Replaces every linear layer of the model's blocks, one after the other, in place; then all is on `device`.

    Embeddings, norms, poolers and projections stay what they are. BackboneError where `check` says so.
    """
    check(kind)
    made: dict[int, nn.Module] = {}
    for owner, name, linear in list(_linears(model, family)):
        if id(linear) not in made:
            bias: Tensor | None = None if linear.bias is None else linear.bias.detach()
            weight: Tensor = linear.weight.detach()
            weight = weight.t().contiguous() if type(linear) is _conv1d() else weight
            layer = Int8(weight, bias) if kind == "int8" else Bits(weight, bias, kind)
            made[id(linear)] = layer.to(device)
        setattr(owner, name, made[id(linear)])
    model.to(device)


def check(kind: str, *, shard: bool = False) -> None:
    """BackboneError unless weights can be held as `kind` here."""
    asked = f"A backbone's weights were asked for as {kind!r}."
    if kind not in QUANTIZED:
        raise BackboneError(asked, f"Known are {', '.join(QUANTIZED)}.", "Use one of them, or leave --quantize out.")
    if shard:
        raise BackboneError(asked, "They were to be sharded too, which needs whole ones.", "Leave one of them out.")
    if kind != "int8" and find_spec("bitsandbytes") is None:
        found = "The package bitsandbytes, which does that, is not installed."
        raise BackboneError(asked, found, "Run: pip install bitsandbytes. Or use int8, which needs nothing.")


def held_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers."""
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def _linears(model: nn.Module, family: Family) -> Iterator[tuple[nn.Module, str, Any]]:
    """Each linear layer of the blocks, with the module that holds it and its name there."""
    kinds = (nn.Linear, _conv1d())
    for stack in family.stacks:
        blocks = model.get_submodule(str(locate(model, stack.blocks)))
        for owner in blocks.modules():
            yield from ((owner, name, child) for name, child in owner.named_children() if type(child) in kinds)


@cache
def _conv1d() -> type[nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return Conv1D
