"""PEFT's form of (IA)^3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from handful.peft_format.base import Config, Layer, LayerForm, Own, refused

_INNER = "ffn.out"  # here the input is rescaled


class IA3Form(LayerForm):
    method, peft_type = "ia3", "IA3"
    suffixes: ClassVar[Mapping[str, str]] = {"l": "ia3_l"}
    known = LayerForm.known | {"feedforward_modules", "init_ia3_weights"}

    def config(self, options: Config, layers: Sequence[Layer]) -> Config:
        return {"feedforward_modules": [layer.name for layer in layers if layer.role == _INNER]}

    def stored(self, name: str, p: Tensor, layer: Layer) -> Tensor:
        return p[None, :] if layer.role == _INNER else p[:, None]

    def shown(self, name: str, tensor: Tensor, layer: Layer) -> Tensor:
        return tensor.flatten()

    def options(self, config: Config, module: str, own: Own, layer: Layer) -> Config:
        before = own["l"].shape[0] == 1 < own["l"].shape[-1]
        if before != (layer.role == _INNER):
            where, ours = ("input", "output") if before else ("output", "input")
            raise refused(
                f"It rescales the {where} of {module} ({layer.role}), where handful's ia3 rescales the {ours}.",
                f"Train it with feedforward_modules that are the {_INNER} layers and no others.",
            )
        return {}

    def split(self, own: Own, parts: int) -> list[Own] | None:
        return [{"l": part} for part in own["l"].chunk(parts)] if own["l"].shape[0] > 1 else None
