"""PEFT's form of LoRA and of DoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.peft_format.base import Config, Layer, LayerForm, Own, damaged, refused

_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` after which the backbone's weights are still its own."""


class LoRAForm(LayerForm):
    method, peft_type = "lora", "LORA"
    suffixes: ClassVar[Mapping[str, str]] = {"A": "lora_A.weight", "B": "lora_B.weight"}
    known = LayerForm.known | {
        "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
        "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core",
        "qalora_group_size", "ensure_weight_tying",
    }  # fmt: skip

    def check(self, config: Config) -> None:
        start = config.get("init_lora_weights", True)
        if start not in _STARTS:
            raise refused(f"It sets init_lora_weights = {start!r}, which changes the backbone's own weights.")
        super().check(config)

    def config(self, options: Config, layers: Sequence[Layer]) -> Config:
        return {
            "r": options["rank"], "lora_alpha": options["alpha"], "lora_dropout": options["dropout"], "bias": "none"
        }  # fmt: skip

    def options(self, config: Config, module: str, own: Own, layer: Layer) -> Config:
        rank, asked = own["A"].shape[0], _at(config.get("rank_pattern"), module, config["r"])
        if rank != asked:
            raise damaged(f"At {module} its rank is {rank}, and its configuration says {asked}.")
        alpha = float(_at(config.get("alpha_pattern"), module, config["lora_alpha"]))
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        return {"rank": rank, "alpha": scale * rank, "dropout": float(config.get("lora_dropout") or 0)}

    def split(self, own: Own, parts: int) -> list[Own]:
        rows = {name: p.chunk(parts) for name, p in own.items() if name != "A"}
        return [{"A": own["A"], **{name: each[i] for name, each in rows.items()}} for i in range(parts)]


class DoRAForm(LoRAForm):
    """PEFT keeps the magnitudes `m`, handful `dm = m - ||W0||`."""

    method, needs_weights = "dora", True
    suffixes: ClassVar[Mapping[str, str]] = {**LoRAForm.suffixes, "dm": "lora_magnitude_vector"}

    def config(self, options: Config, layers: Sequence[Layer]) -> Config:
        return super().config(options, layers) | {"use_dora": True}

    def stored(self, name: str, p: Tensor, layer: Layer) -> Tensor:
        return p if name != "dm" else _norm(layer, p) + p

    def shown(self, name: str, tensor: Tensor, layer: Layer) -> Tensor:
        return tensor if name != "dm" else tensor.to(_norm(layer, tensor)) - _norm(layer, tensor)


def _norm(layer: Layer, like: Tensor) -> Tensor:
    assert layer.weight is not None
    kept = torch.promote_types(layer.weight.dtype, torch.float32)
    return torch.linalg.vector_norm(layer.weight, dim=-1, dtype=kept).to(like.device)


def _at(pattern: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value of the first key that is the end of a module's name, as a regular expression."""
    found = (value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, otherwise)
