"""PEFT's forms, and which one a method has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from handful.peft_format.base import Config, Form, Layer, LayerForm, Tensors
from handful.peft_format.ia3 import IA3Form
from handful.peft_format.layernorm import LayerNormForm
from handful.peft_format.lora import DoRAForm, LoRAForm
from handful.peft_format.vera import VeRAForm
from handful.peft_format.virtual import PrefixForm, PromptForm
from handful.types import Params

FORMS: dict[str, Form] = {
    form.method: form
    for form in (LoRAForm(), DoRAForm(), VeRAForm(), IA3Form(), LayerNormForm(), PromptForm(), PrefixForm())
}
"""handful's name of a method -> PEFT's form of it"""


def kind_of(spec: Config, layers: Sequence[Layer]) -> Form | str:
    """PEFT's form of a method at these layers, or why there is none."""
    name = innermost(spec)["name"]
    form = FORMS.get(name)
    if form is None:
        return f"PEFT has no {name}; it has {', '.join(FORMS)}"
    parts = [layer.name for layer in layers if "#" in layer.name]
    if isinstance(form, LayerForm) and parts:
        return f"{parts[0]} is a part of a fused layer, which PEFT can only change as a whole"
    if name == "prefix" and (_on_some(spec) or len({layer.role for layer in layers}) > 1):
        return "PEFT has prefixes in every layer of one stack, and this one is on some layers or for several attentions"
    return form


def innermost(spec: Config) -> Config:
    """The method inside a layer range or beside other tasks."""
    while spec["name"] in ("on_layers", "over_tasks"):
        spec = spec["options"]["method"]
    return spec


def _on_some(spec: Config) -> bool:
    while spec["name"] == "over_tasks":
        spec = spec["options"]["method"]
    return spec["name"] == "on_layers"


def own_form(spec: Config, params: Params, backbone: str) -> tuple[Config, dict[str, Tensor]]:
    """handful's own form: tensors by site and name."""
    config = {"peft_type": None, "base_model_name_or_path": backbone, "handful_method": spec}
    return config, {f"{site}::{name}": p for site, own in params.items() for name, p in own.items()}


def by_name(tensors: Tensors, sites: Iterable[str]) -> Params:
    """The parameters in handful's own form; sites with none of their own are in it too."""
    params: Params = {site: {} for site in sites}
    for key, tensor in tensors.items():
        site, _, name = key.rpartition("::")
        params.setdefault(site, {})[name] = tensor
    return params
