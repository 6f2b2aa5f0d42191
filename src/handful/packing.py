"""Several answers after one prompt in one row, so that the prompt is computed once.

A decoder reads `prompt, answer 1, answer 2, ...` in one row: each answer sees the prompt and itself, at the positions
that it would have right after the prompt. An encoder-decoder encodes the prompt once, and its decoder reads all answers
in one row beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.backbone import Backbone
from handful.families import text_config
from handful.types import Batch

ANSWER = "answer"
"""The input `[R, S]` that says of which answer a token is: 0 for the prompt, then 1, 2, ..."""
SCORED = frozenset({"source", "targets"})
"""Inputs `[R, C, L]` that say what is read of a backbone's states, which is not given them."""
OF_ANSWERS = SCORED | {"decoder_input_ids", "decoder_attention_mask"}
"""Inputs whose second dimension is of answers, not of tokens."""


def positions(answer: Tensor) -> Tensor:
    """`[R, S]`: where each token would stand in a text of the prompt and its own answer alone."""
    place = torch.arange(answer.shape[1], device=answer.device).expand_as(answer)
    prompt = (answer == 0).long().cumprod(1).sum(1, keepdim=True)
    first = F.pad(answer[:, 1:] != answer[:, :-1], (1, 0), value=True)
    start = torch.where(first, place, 0).cummax(1).values
    return torch.where(answer == 0, place, place - start + prompt)


def sees(answer: Tensor, real: Tensor) -> Tensor:
    """`[R, S, S]`, True where a token (row) attends to another (column); padding sees itself, to be defined."""
    size = answer.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=answer.device).tril()
    related = (answer[:, None, :] == 0) | (answer[:, None, :] == answer[:, :, None])
    return causal & related & real[:, None, :].bool() | torch.eye(size, dtype=torch.bool, device=answer.device)


def unpacked(backbone: Backbone, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a decoder, `ANSWER` among them, as those that transformers knows: positions and attention masks."""
    answer, real = arguments.pop(ANSWER), arguments["attention_mask"]
    place, allowed = positions(answer), sees(answer, real)
    arguments["position_ids"] = place
    config = text_config(backbone.model.config)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    near = allowed & (place[:, :, None] - place[:, None, :] < window) if window else allowed
    full, sliding = (bias(each, backbone.dtype)[:, None] for each in (allowed, near))
    if kinds - {"full_attention"}:
        arguments["attention_mask"] = {"full_attention": full, "sliding_attention": sliding}
    else:
        arguments["attention_mask"] = full if kinds else sliding
    return arguments


@contextmanager
def beside(backbone: Backbone, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Arguments of an encoder-decoder's decoder for C answers `decoder_input_ids [R, C, L]` in one row, `[R, C * L]`.

    Each is blind to the others and stands where it would alone: keys and values of the prompt are computed once. What
    decoders look up by position is told so for as long as the context is open; distances (T5) are right as they are.
    """
    ids, real = arguments["decoder_input_ids"], arguments["decoder_attention_mask"].flatten(1)
    place = torch.arange(ids.shape[2], device=ids.device).repeat(ids.shape[1])
    answer = torch.arange(1, ids.shape[1] + 1, device=ids.device).repeat_interleave(ids.shape[2]).expand_as(real)
    mask = bias(sees(answer, real), backbone.dtype)[:, None]
    table = getattr(backbone.model.get_decoder(), "embed_positions", nn.Identity())
    with backbone.lock:
        told = table.register_forward_pre_hook(
            lambda _, x, named: (x, named | {"position_ids": place}), with_kwargs=True
        )
        try:
            yield {**arguments, "decoder_input_ids": ids.flatten(1), "decoder_attention_mask": mask}
        finally:
            told.remove()


def bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores of attention where a token may attend to another, and where not; of the same shape."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def apart(batch: Batch) -> Batch:
    """Rows `[T?, B, ...]` of C choices as `[T?, B * C, ...]` of one: for what reads a row's tokens by their order.

    A choice that a row does not have becomes a row without targets.
    """
    targets, source = batch.inputs["targets"], batch.inputs["source"]
    choices, start = targets.shape[-2], targets.ndim - 3

    def each(x: Tensor) -> Tensor:
        return x.unsqueeze(start + 1).expand(*x.shape[: start + 1], choices, *x.shape[start + 1 :])

    inputs = {name: each(x) for name, x in batch.inputs.items() if name not in SCORED}
    if ANSWER in inputs:
        answer, real = inputs.pop(ANSWER), inputs["attention_mask"].bool()
        own = torch.arange(1, choices + 1, device=answer.device)[:, None]
        kept = real & ((answer == 0) | (answer == own))
        order = (~kept).to(torch.uint8).argsort(dim=-1, stable=True)
        inputs = {name: x.gather(-1, order) for name, x in inputs.items()}
        inputs["attention_mask"] = kept.gather(-1, order).long()
        source = source[..., :1] + torch.arange(targets.shape[-1], device=source.device)
    else:
        for name in ("decoder_input_ids", "decoder_attention_mask"):
            inputs[name] = batch.inputs[name].unsqueeze(-2)
        source = torch.arange(targets.shape[-1], device=source.device).expand_as(source)
    inputs |= {"targets": targets.unsqueeze(-2), "source": source.unsqueeze(-2)}
    mask = batch.row_mask.unsqueeze(-1).expand(*batch.row_mask.shape, choices)
    return Batch({name: x.flatten(start, start + 1) for name, x in inputs.items()}, mask.flatten(start))
