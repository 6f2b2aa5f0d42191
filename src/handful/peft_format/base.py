"""What a form of PEFT's is: the names and the layout of a method's tensors, and what of its configuration is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from handful.errors import ArtifactError, MethodError
from handful.types import Params

Config = dict[str, Any]
Tensors = Mapping[str, Tensor]
Own = dict[str, Tensor]
PREFIX = "base_model.model."

_COMMON = frozenset(
    {
        "peft_type", "task_type", "inference_mode", "auto_mapping", "peft_version", "base_model_name_or_path",
        "revision", "modules_to_save", "runtime_config",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A site: its name, its role, and where the backbone is at hand its frozen weight `[d_out, d_in]` and bias."""

    name: str
    role: str
    weight: Tensor | None = None
    bias: Tensor | None = None
    transposed: bool = False


class Form:
    """How PEFT keeps one method.

    method         handful's name of it
    peft_type      PEFT's
    needs_weights  PEFT keeps what the layer becomes, handful the difference from what it was
    known          keys of PEFT's configuration that are read here, or that say nothing about the answers
    """

    method: ClassVar[str]
    peft_type: ClassVar[str]
    needs_weights: ClassVar[bool] = False
    known: ClassVar[frozenset[str]] = frozenset()

    def write(
        self, options: Config, params: Params, layers: Sequence[Layer], backbone: str
    ) -> tuple[Config, dict[str, Tensor]]:
        """PEFT's configuration and tensors."""
        raise NotImplementedError

    def read(self, tensors: Tensors, layers: Sequence[Layer]) -> Params:
        """The parameters that `write` wrote."""
        raise NotImplementedError

    def check(self, config: Config) -> None:
        """MethodError for the first setting that is made and not known."""
        for key, value in config.items():
            if value and key not in self.known | _COMMON:
                raise refused(f"It sets {key} = {value!r}, which handful's {self.method} does not have.")

    def head(self, backbone: str) -> Config:
        return {
            "peft_type": self.peft_type, "base_model_name_or_path": backbone, "task_type": "FEATURE_EXTRACTION",
            "inference_mode": True,
        }  # fmt: skip


class LayerForm(Form):
    """A method around layers: PEFT has `PREFIX + name + "." + suffix` for the parameters of the layer `name`."""

    suffixes: ClassVar[Mapping[str, str]]
    """handful's name of a parameter -> PEFT's suffix"""
    known = frozenset(
        {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "bias"}
    )

    def check(self, config: Config) -> None:
        if config.get("bias", "none") != "none":
            raise refused(f"It sets bias = {config['bias']!r}: biases of the backbone were trained beside the method.")
        super().check(config)

    def config(self, options: Config, layers: Sequence[Layer]) -> Config:
        """What PEFT's configuration says beyond the target modules."""
        return {}

    def stored(self, name: str, p: Tensor, layer: Layer) -> Tensor:
        """A parameter as PEFT keeps it."""
        return p

    def shown(self, name: str, tensor: Tensor, layer: Layer) -> Tensor:
        """The parameter that PEFT keeps as `tensor`."""
        return tensor

    def options(self, config: Config, module: str, own: Own, layer: Layer) -> Config:
        """The method's options, but for the roles, at one layer: PEFT's name of it and its tensors."""
        return {}

    def split(self, own: Own, parts: int) -> list[Own] | None:
        """The tensors of a fused layer for each of its parts; None if they do not come apart."""
        return None

    def common(self, params: Own) -> dict[str, Tensor]:
        """PEFT's tensors for what all sites share."""
        return {}

    def shared(self, config: Config, tensors: Tensors, layers: Sequence[Layer]) -> Own:
        """What all sites share, from PEFT's tensors."""
        return {}

    def write(
        self, options: Config, params: Params, layers: Sequence[Layer], backbone: str
    ) -> tuple[Config, dict[str, Tensor]]:
        tensors = self.common(params.get("shared", {}))
        for layer in layers:
            for name, p in params[layer.name].items():
                tensors[f"{PREFIX}{layer.name}.{self.suffixes[name]}"] = self.stored(name, p, layer)
        transposed = bool(layers) and all(layer.transposed for layer in layers)
        config = {"target_modules": sorted(layer.name for layer in layers)} | self.config(options, layers)
        return self.head(backbone) | config | ({"fan_in_fan_out": True} if transposed else {}), tensors

    def read(self, tensors: Tensors, layers: Sequence[Layer]) -> Params:
        found = self.by_module(tensors)
        params = {
            layer.name: {name: self.shown(name, tensor, layer) for name, tensor in found[layer.name].items()}
            for layer in layers
        }
        shared = self.shared({}, tensors, layers)
        return params | ({"shared": shared} if shared else {})

    def by_module(self, tensors: Tensors, whole: Sequence[str] = ()) -> dict[str, Own]:
        """module -> handful's name of a parameter -> PEFT's tensor. MethodError for a tensor that is none of them."""
        found: dict[str, Own] = {}
        ends = sorted(self.suffixes.items(), key=lambda item: -len(item[1]))
        for key, tensor in tensors.items():
            if key in whole:
                continue
            name = next((name for name, suffix in ends if key.endswith(f".{suffix}")), None)
            if name is None or not key.startswith(PREFIX):
                raise refused(f"It holds {key}, which is no parameter of handful's {self.method}.")
            module = key.removeprefix(PREFIX).removesuffix(f".{self.suffixes[name]}")
            found.setdefault(module, {})[name] = tensor
        return found


def refused(found: str, todo: str = "") -> MethodError:
    """An error of which `load_peft` and `save_peft` say what was asked."""
    return MethodError("", found, todo or "Use it with peft, or train the method here.")


def damaged(found: str, todo: str = "") -> ArtifactError:
    return ArtifactError("", found, todo or "Take it from a backup, or save it again.")
