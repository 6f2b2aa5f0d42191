"""Calling a frozen backbone on encoded rows, whatever its modality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from handful.backbone import Backbone
from handful.packing import ANSWER, SCORED, beside, unpacked


def run_backbone(backbone: Backbone, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Final states `[R, S, D]` and their mask `[R, S]` for inputs `[R, ...]`.

    The decoder of an encoder-decoder reads a single start token if it is given nothing else, and several answers a row
    if it is given `decoder_input_ids [R, C, L]`: then S is C * L. What `packing` says of answers counts here.
    """
    arguments: dict[str, Any] = {name: value for name, value in inputs.items() if name not in SCORED}
    answers = arguments.get("decoder_input_ids")
    if answers is not None and answers.ndim == 3:
        with beside(backbone, arguments) as read:
            hidden = _run(backbone, backbone.model, read | {"use_cache": False}).last_hidden_state
        return hidden, arguments["decoder_attention_mask"].flatten(1).bool()
    if ANSWER in arguments:
        arguments = unpacked(backbone, arguments)
    if backbone.model.config.is_encoder_decoder and "decoder_input_ids" not in arguments:
        rows = next(iter(arguments.values())).shape[0]
        start = getattr(backbone.model.config, "decoder_start_token_id", None)
        arguments["decoder_input_ids"] = torch.full((rows, 1), start or 0, device=backbone.device)
    if any(stack.name == "decoder" for stack in backbone.family.stacks):
        arguments["use_cache"] = False
    hidden = _run(backbone, backbone.model.get_submodule(called(backbone, arguments)), arguments).last_hidden_state
    return hidden, token_mask(backbone, inputs, hidden)


def called(backbone: Backbone, inputs: Iterable[str]) -> str:
    """Path of the module that inputs of these names are given to; "" is the model."""
    names = {"input_ids" if name == "inputs_embeds" else name for name in inputs}
    whole = backbone.model.config.is_encoder_decoder
    return "" if whole else next((path for name, path in backbone.family.entry.items() if name in names), "")


def token_mask(backbone: Backbone, inputs: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """`[R, S]`, True where `hidden [R, S, D]` belongs to a real token, frame or patch."""
    mask = inputs.get("decoder_attention_mask" if backbone.model.config.is_encoder_decoder else "attention_mask")
    if mask is not None and mask.shape[1] != hidden.shape[1]:
        frames = getattr(backbone.model, "_get_feature_vector_attention_mask", None)
        mask = None if frames is None else frames(hidden.shape[1], mask)
    return torch.ones(hidden.shape[:2], device=hidden.device).bool() if mask is None else mask.bool()


def hidden_states(backbone: Backbone, inputs: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    """The embeddings' and each block's states, `L + 1` of `[R, S, D]`, the last one final, and their mask `[R, S]`.

    An encoder-decoder answers with its encoder's.
    """
    encoder = backbone.model.config.is_encoder_decoder
    model = backbone.model.get_encoder() if encoder else backbone.model.get_submodule(called(backbone, inputs))
    out = _run(backbone, model, {**inputs, "output_hidden_states": True})
    mask = inputs.get("attention_mask")
    real = mask.bool() if encoder and mask is not None else token_mask(backbone, inputs, out.last_hidden_state)
    return [*out.hidden_states[:-1], out.last_hidden_state], real


def _run(backbone: Backbone, module: nn.Module, arguments: Mapping[str, Any]) -> Any:
    return module(**arguments) if backbone.shards is None else backbone.shards.run(module, arguments)
