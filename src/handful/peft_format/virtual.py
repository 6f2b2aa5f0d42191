"""PEFT's form of prompt tuning and of prefix tuning: one table for the whole backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handful.peft_format.base import Config, Form, Layer, Tensors, refused
from handful.types import Params

_TABLE = "prompt_embeddings"
_KNOWN = frozenset(
    {"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}
)


class TableForm(Form):
    def check(self, config: Config) -> None:
        if (config.get("num_transformer_submodules") or 1) != 1:
            raise refused("It sets num_transformer_submodules = 2: it has virtual tokens for a decoder of its own.")
        super().check(config)


class PromptForm(TableForm):
    method, peft_type = "prompt", "PROMPT_TUNING"
    known = _KNOWN | {
        "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"
    }  # fmt: skip

    def write(
        self, options: Config, params: Params, layers: Sequence[Layer], backbone: str
    ) -> tuple[Config, dict[str, Tensor]]:
        table = params[layers[0].name]["prompt"]
        # peft finds a width and a number of heads in some configurations only, and has no use for the latter here
        config = {"num_virtual_tokens": options["num_tokens"], "token_dim": table.shape[-1], "num_attention_heads": 1}
        return self.head(backbone) | config, {_TABLE: table}

    def read(self, tensors: Tensors, layers: Sequence[Layer]) -> Params:
        return {layers[0].name: {"prompt": tensors[_TABLE]}}


class PrefixForm(TableForm):
    """The table is `[num_tokens, layers * 2 * d_kv]`: for each layer its keys, then its values."""

    method, peft_type = "prefix", "PREFIX_TUNING"
    known = _KNOWN | {"prefix_projection", "encoder_hidden_size", "init_weights"}

    def write(
        self, options: Config, params: Params, layers: Sequence[Layer], backbone: str
    ) -> tuple[Config, dict[str, Tensor]]:
        config = self.head(backbone) | {"num_virtual_tokens": options["num_tokens"], "prefix_projection": False}
        parts = [params[layer.name][name] for layer in layers for name in ("key", "value")]
        return config, {_TABLE: torch.cat(parts, dim=1)}

    def read(self, tensors: Tensors, layers: Sequence[Layer]) -> Params:
        parts = tensors[_TABLE].chunk(2 * len(layers), dim=1)
        return {layer.name: {"key": parts[2 * i], "value": parts[2 * i + 1]} for i, layer in enumerate(layers)}
