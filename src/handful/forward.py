"""Calling a frozen backbone on encoded rows, whatever its modality."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from handful.backbone import Backbone


def run_backbone(backbone: Backbone, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Final states `[R, S, D]` and their mask `[R, S]` for inputs `[R, ...]`."""
    entry = next((path for name, path in backbone.family.entry.items() if name in inputs), "")
    model = backbone.model.get_submodule(entry)
    arguments = dict(inputs)
    if "inputs_embeds" in arguments and not entry:
        entry = backbone.family.entry.get("input_ids", "")
        model = backbone.model.get_submodule(entry)
    if backbone.model.config.is_encoder_decoder and "decoder_input_ids" not in arguments:
        rows = next(iter(arguments.values())).shape[0]
        start = backbone.model.config.decoder_start_token_id
        arguments["decoder_input_ids"] = torch.full((rows, 1), start or 0, device=backbone.device)
    if any(stack.name == "decoder" for stack in backbone.family.stacks):
        arguments["use_cache"] = False
    hidden = model(**arguments).last_hidden_state
    return hidden, token_mask(backbone, inputs, hidden)


def token_mask(backbone: Backbone, inputs: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """`[R, S]`, True where `hidden [R, S, D]` belongs to a real token, frame or patch."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape[0] != hidden.shape[0]:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    if mask.shape[1] != hidden.shape[1]:
        frames = getattr(backbone.model, "_get_feature_vector_attention_mask", None)
        if frames is None or backbone.model.config.is_encoder_decoder:
            return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        mask = frames(hidden.shape[1], mask)
    return mask.bool()
