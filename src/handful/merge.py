"""Merging a fitted task into the backbone's weights: derived from `Method.apply`, not written per method.

Where `f(x) = apply(params, x, base, site)` is affine, the tuned layer is a plain layer with `b' = f(0)` and
`W' = f(I) - b'`; around a norm, `f` is a function of the normalised input, coordinate by coordinate, with
`w' = f(1) - f(0)`. Whether it is affine is measured on random inputs, in double precision.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor, nn

from handful.attach import Adapted
from handful.backbone import Backbone
from handful.errors import MethodError
from handful.fingerprints import weights_fingerprint
from handful.insertions import Base, Call
from handful.quantize import Quantized
from handful.sites import Place, is_transposed
from handful.types import Batch, Params, cast_params

_REASONS = {
    "tokens": "virtual tokens are no weights",
    "keys_values": "virtual keys and values are no weights",
    "states": "it stands beside the backbone",
    "span": "it reaches over several layers",
    "output": "no weight follows the residual sum",
}


def merge(adapted: Adapted, params: Params) -> dict[str, Tensor]:
    """New weights and biases by parameter name, from the params of one task, in the backbone's dtype.

    Names that the backbone does not have are biases of linear layers and convolutions without one. Raises MethodError,
    which names the site, where the tuned layer is not affine, stands in no weight, or needs a bias that it cannot hold.
    """
    if adapted.backbone.shards:
        raise MethodError(
            f"{type(adapted.method).__name__} was asked to be merged into {adapted.backbone.id!r}.",
            "It is sharded: no process holds whole weights.",
            "Load it without shard=True, in one process.",
        )
    names = {id(module): name for name, module in adapted.backbone.model.named_modules()}
    shares = Counter(id(place.module) for place in adapted.places if place.kind == "layer")
    call = Call(
        adapted.method, cast_params(params, dtype=torch.float64), Batch({}, torch.ones(1, dtype=torch.bool)), None
    )
    patch: dict[str, Tensor] = {}
    for place in adapted.places:
        reason = _REASONS.get(place.kind, "" if place.entry is None else "its weight serves other inputs too")
        if isinstance(place.module, Quantized):
            reason = "its weight is quantised, and would be rounded again"
        if reason or shares[id(place.module)] > 1:
            raise _refused(adapted, place, reason or "several methods share the module")
        name, module = names[id(place.module)], place.module
        weight, bias = _affine(adapted, place, call)
        if bias.abs().max() > 0 and not place.site.has_bias and not isinstance(module, nn.Linear | nn.Conv2d):
            raise _refused(adapted, place, f"{type(module).__name__} can hold no bias")
        if place.part is not None:
            weight, bias = _with_slice(place, patch.get(f"{name}.weight"), patch.get(f"{name}.bias"), weight, bias)
        elif is_transposed(module):
            weight = weight.T
        elif place.kind == "patches":
            weight = weight.view_as(module.weight)  # type: ignore[arg-type]
        patch[f"{name}.weight"] = weight
        if place.site.has_bias or bias.abs().max() > 0:
            patch[f"{name}.bias"] = bias
    return {name: value.to(adapted.backbone.dtype).contiguous() for name, value in patch.items()}


def merged(adapted: Adapted, params: Params) -> Backbone:
    """A copy of the backbone that holds a task of its own: it answers as `adapted` does, at the frozen cost."""
    patch = merge(adapted, params)
    model = copy.deepcopy(adapted.backbone.model)
    for name, value in patch.items():
        owner, _, kind = name.rpartition(".")
        setattr(model.get_submodule(owner), kind, nn.Parameter(value, requires_grad=False))
    fingerprint = weights_fingerprint(model.state_dict().items())
    return replace(adapted.backbone, model=model, fingerprint=fingerprint, lock=threading.RLock())


def _affine(adapted: Adapted, place: Place, call: Call) -> tuple[Tensor, Tensor]:
    """`(W', b')` of the tuned layer in double precision; of a fused layer the rows of the part."""
    place = replace(place, module=copy.deepcopy(place.module).double())
    offset = adapted.backbone.family.norm_offset
    base = _Double(place, call, offset)

    def f(x: Tensor) -> Tensor:
        base.given = x
        return call.apply(place, x, base)

    eye = torch.eye(place.site.d_in, dtype=torch.float64, device=base.weight.device)
    probe = torch.randn(8, len(eye), generator=torch.Generator().manual_seed(0), dtype=eye.dtype).to(eye.device)
    try:
        bias = f(eye[:1] * 0)[0]
        full = f(torch.ones_like(eye[:1]) if base.norm else eye) - bias
        found, expected = f(probe), (probe * full if base.norm else probe @ full) + bias
    except _NotAffine as error:
        raise _refused(adapted, place, "it changes what a norm reads") from error
    if not torch.allclose(found, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max())):
        raise _refused(adapted, place, "it is not affine there")
    weight = full[0] - offset if base.norm else full.T
    same = (weight - base.weight).abs() <= 1e-12 * base.weight.abs().max()
    return torch.where(same, base.weight, weight), bias  # what does not move stays to the bit


class _Double(Base):
    """The frozen layer in double precision; a norm is shown as a function of its normalised input."""

    given: Tensor

    def __init__(self, place: Place, call: Call, offset: float) -> None:
        super().__init__(place, self._frozen, call)
        self.norm, self._offset = self.weight.ndim == 1, offset

    def _frozen(self, x: Tensor) -> Tensor:
        if not self.norm:
            return nn.functional.linear(x, self.weight, self.bias)
        y = self.normalized(x) * (self.weight + self._offset)
        return y if self.bias is None else y + self.bias

    def normalized(self, x: Tensor) -> Tensor:
        if x is not self.given:
            raise _NotAffine
        return x


def _with_slice(
    place: Place, weight: Tensor | None, bias: Tensor | None, new_weight: Tensor, new_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """The whole fused projection as it is stored, with the rows of one part replaced."""
    module, part = place.module, place.part
    assert part is not None
    stored: Tensor = module.weight.double() if weight is None else weight  # type: ignore[operator, union-attr, assignment]
    rows = (stored.T if is_transposed(module) else stored).clone()
    shift = getattr(module, "bias", None)
    shift = bias if bias is not None else rows.new_zeros(len(rows)) if shift is None else shift.double().clone()
    size = len(rows) // part.parts
    where = slice(part.index * size, (part.index + 1) * size)
    rows[where], shift[where] = new_weight, new_bias
    return rows.T if is_transposed(module) else rows, shift


def _refused(adapted: Adapted, place: Place, reason: str) -> MethodError:
    return MethodError(
        f"{type(adapted.method).__name__} was asked to be merged into {adapted.backbone.id!r}.",
        f"It is not mergeable at {place.site.name} ({place.site.role}): {reason}.",
        "Keep it attached, or use a method that only moves weights and biases there.",
    )


class _NotAffine(Exception):  # noqa: N818
    """A norm's input is changed before it is normalised."""
