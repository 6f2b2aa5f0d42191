"""The parameters of a method as PEFT's files, both ways, for the methods that PEFT has.

An artifact holds PEFT's form where it can be written without the backbone's weights (`to_peft`, `from_peft`).
`save_peft` writes a folder for `peft` beside the backbone, and `load_peft` reads one that `peft` or handful wrote. What
the other side cannot hold is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from handful.peft_format.base import Config, Layer, Tensors
from handful.peft_format.folder import base_name, load_peft, save_peft
from handful.peft_format.kinds import by_name, innermost, kind_of, own_form
from handful.types import Params

__all__ = ["base_name", "from_peft", "load_peft", "save_peft", "to_peft"]


def to_peft(spec: Config, params: Params, sites: Sequence[Config], backbone: str) -> tuple[Config, dict[str, Tensor]]:
    """`(adapter_config, tensors)` of a method's spec and parameters at `sites` (name, role, layer of each).

    By site and name where PEFT has no form of the method, or one that holds whole frozen weights.
    """
    layers = _layers(sites)
    kind = kind_of(spec, layers)
    if isinstance(kind, str) or kind.needs_weights:
        return own_form(spec, params, backbone)
    return kind.write(innermost(spec)["options"], params, layers, backbone)


def from_peft(spec: Config, tensors: Tensors, sites: Sequence[Config]) -> Params:
    """The parameters that `to_peft` wrote."""
    layers = _layers(sites)
    kind = kind_of(spec, layers)
    if isinstance(kind, str) or kind.needs_weights:
        return by_name(tensors, (layer.name for layer in layers))
    return kind.read(tensors, layers)


def _layers(sites: Sequence[Config]) -> list[Layer]:
    return [Layer(site["name"], site["role"]) for site in sites]
