"""PEFT's form of LayerNorm tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from handful.peft_format.base import Layer, LayerForm


class LayerNormForm(LayerForm):
    """PEFT keeps the new scale and shift, handful their differences from the frozen ones."""

    method, peft_type, needs_weights = "layernorm", "LN_TUNING", True
    suffixes: ClassVar[Mapping[str, str]] = {"dw": "ln_tuning_layers.weight", "db": "ln_tuning_layers.bias"}

    def stored(self, name: str, p: Tensor, layer: Layer) -> Tensor:
        return _frozen(name, layer).to(p) + p

    def shown(self, name: str, tensor: Tensor, layer: Layer) -> Tensor:
        return tensor.float() - _frozen(name, layer).float().to(tensor.device)


def _frozen(name: str, layer: Layer) -> Tensor:
    frozen = layer.weight if name == "dw" else layer.bias
    assert frozen is not None
    return frozen
