"""Answers that are written freely: greedy decoding by a backbone with a method on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from handful.attach import Adapted
from handful.backbone import Backbone
from handful.choices import Spoken, speak, together
from handful.errors import BackboneError
from handful.packing import apart
from handful.templates import Template
from handful.types import Example, Params
from handful.vocabulary import Vocabulary

TOGETHER = 16
"""Rows that are written at a time."""


def write(
    adapted: Adapted, words: Vocabulary, params: Params, examples: Sequence[Example], template: Template, *,
    limit: int, most: int,
) -> list[str]:  # fmt: skip
    """An answer to each row, of at most `most` tokens, the most probable token at each step.

    Every step reads prompt and answer so far anew, so it holds for any method; prompts are cut to `limit` tokens.
    """
    check_writes(adapted.backbone)
    bare = [replace(example, choices=None, label=None) for example in examples]
    spoken = speak(adapted.backbone, bare, (), template, limit=limit, end=True)
    order = sorted(range(len(spoken)), key=lambda row: len(spoken[row].prompt))
    answers = [""] * len(spoken)
    for start in range(0, len(order), TOGETHER):
        rows = order[start : start + TOGETHER]
        for row, ids in zip(rows, _written(adapted, words, params, [spoken[i] for i in rows], most), strict=True):
            answers[row] = _decoded(adapted.backbone, ids)
    return answers


def check_writes(backbone: Backbone) -> None:
    """BackboneError for a backbone that does not write from left to right."""
    if backbone.family.architecture == "encoder":
        raise BackboneError(
            f"An answer was to be written by {backbone.id!r}.", "It is an encoder, which fills in single words.",
            "Use a decoder or an encoder-decoder, or give the task choices.",
        )  # fmt: skip


@torch.no_grad()
def _written(
    adapted: Adapted, words: Vocabulary, params: Params, rows: Sequence[Spoken], most: int
) -> list[tuple[int, ...]]:
    tokenizer: Any = adapted.backbone.tokenizer
    written: list[tuple[int, ...]] = [() for _ in rows]
    going = list(range(len(rows)))
    while going:
        asked = together(adapted.backbone, [Spoken(rows[i].prompt, ((*written[i], 0),)) for i in going])
        batch = apart(asked) if adapted.beside else asked
        hidden, source = adapted(params, batch).hidden, batch.inputs["source"]
        last = torch.tensor([len(written[i]) for i in going], device=source.device)
        place = source[:, 0].gather(1, last[:, None])
        states = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))[:, 0]
        for i, token in zip(list(going), words(states).argmax(-1).tolist(), strict=True):
            written[i] = (*written[i], token)
            if token == tokenizer.eos_token_id or len(written[i]) == most:
                going.remove(i)
    return written


def _decoded(backbone: Backbone, ids: Sequence[int]) -> str:
    tokenizer: Any = backbone.tokenizer
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
