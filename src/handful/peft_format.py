"""The parameters of a method as PEFT's files, for the methods that PEFT has; by site and name for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from handful.types import Params

Config = dict[str, Any]
Tensors = Mapping[str, Tensor]
_PREFIX = "base_model.model."


def to_peft(spec: Config, params: Params, sites: Sequence[Config], backbone: str) -> tuple[Config, dict[str, Tensor]]:
    """`(adapter_config, tensors)` of a method's spec and parameters at `sites` (name, role, layer of each)."""
    writer = _format(spec, sites)
    if writer is None:
        config = {"peft_type": None, "base_model_name_or_path": backbone, "handful_method": spec}
        return config, {f"{site}::{name}": p for site, own in params.items() for name, p in own.items()}
    config, tensors = writer.write(_innermost(spec)["options"], params, sites)
    common = {"base_model_name_or_path": backbone, "task_type": "FEATURE_EXTRACTION", "inference_mode": True}
    return common | config, tensors


def from_peft(spec: Config, tensors: Tensors, sites: Sequence[Config]) -> Params:
    """The parameters that `to_peft` wrote."""
    writer = _format(spec, sites)
    if writer is not None:
        return writer.read(tensors, sites)
    params: Params = {}
    for key, tensor in tensors.items():
        site, name = key.rsplit("::", 1)
        params.setdefault(site, {})[name] = tensor
    return params


class _LoRA:
    @staticmethod
    def write(options: Config, params: Params, sites: Sequence[Config]) -> tuple[Config, dict[str, Tensor]]:
        config = {
            "peft_type": "LORA", "r": options["rank"], "lora_alpha": options["alpha"], "bias": "none",
            "lora_dropout": options["dropout"], "target_modules": sorted(params),
        }  # fmt: skip
        named = (
            (f"{_PREFIX}{site}.lora_{name}.weight", own[name]) for site, own in params.items() for name in ("A", "B")
        )
        return config, dict(named)

    @staticmethod
    def read(tensors: Tensors, sites: Sequence[Config]) -> Params:
        return {
            site["name"]: {name: tensors[f"{_PREFIX}{site['name']}.lora_{name}.weight"] for name in ("A", "B")}
            for site in sites
        }


class _IA3:
    @staticmethod
    def write(options: Config, params: Params, sites: Sequence[Config]) -> tuple[Config, dict[str, Tensor]]:
        inner = [site["name"] for site in sites if site["role"] == "ffn.out"]
        config = {"peft_type": "IA3", "target_modules": sorted(params), "feedforward_modules": inner}
        tensors = {
            f"{_PREFIX}{site}.ia3_l": own["l"][None, :] if site in inner else own["l"][:, None]
            for site, own in params.items()
        }
        return config, tensors

    @staticmethod
    def read(tensors: Tensors, sites: Sequence[Config]) -> Params:
        return {site["name"]: {"l": tensors[f"{_PREFIX}{site['name']}.ia3_l"].flatten()} for site in sites}


class _Prompt:
    @staticmethod
    def write(options: Config, params: Params, sites: Sequence[Config]) -> tuple[Config, dict[str, Tensor]]:
        config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": options["num_tokens"]}
        return config, {"prompt_embeddings": params[sites[0]["name"]]["prompt"]}

    @staticmethod
    def read(tensors: Tensors, sites: Sequence[Config]) -> Params:
        return {sites[0]["name"]: {"prompt": tensors["prompt_embeddings"]}}


class _Prefix:
    """PEFT keeps one table `[num_tokens, layers * 2 * d_kv]`: for each layer its keys, then its values."""

    @staticmethod
    def write(options: Config, params: Params, sites: Sequence[Config]) -> tuple[Config, dict[str, Tensor]]:
        config = {
            "peft_type": "PREFIX_TUNING", "num_virtual_tokens": options["num_tokens"], "prefix_projection": False
        }  # fmt: skip
        parts = [params[site["name"]][name] for site in sites for name in ("key", "value")]
        return config, {"prompt_embeddings": torch.cat(parts, dim=1)}

    @staticmethod
    def read(tensors: Tensors, sites: Sequence[Config]) -> Params:
        parts = tensors["prompt_embeddings"].chunk(2 * len(sites), dim=1)
        return {site["name"]: {"key": parts[2 * i], "value": parts[2 * i + 1]} for i, site in enumerate(sites)}


_FORMATS = {"lora": _LoRA, "ia3": _IA3, "prompt": _Prompt, "prefix": _Prefix}


def _format(spec: Config, sites: Sequence[Config]) -> type[_LoRA | _IA3 | _Prompt | _Prefix] | None:
    """PEFT's form of a method, None if PEFT cannot hold it: parts of fused layers, prefixes on some layers only."""
    name = _innermost(spec)["name"]
    if name in ("lora", "ia3") and any("#" in site["name"] for site in sites):
        return None
    if name == "prefix" and (spec["name"] != "prefix" or len({site["role"] for site in sites}) > 1):
        return None
    return _FORMATS.get(name)


def _innermost(spec: Config) -> Config:
    """The method inside a layer range."""
    while spec["name"] == "on_layers":
        spec = spec["options"]["method"]
    return spec
