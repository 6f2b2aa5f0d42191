"""Rows -> inputs for backbones that score choices: prompts and choices in tokens, cut by their template's own rule."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from handful.backbone import Backbone
from handful.errors import BackboneError, DataError, HandfulWarning
from handful.packing import ANSWER
from handful.templates import Prompt, Template, asked_for, columns, prompts_of
from handful.types import Batch, Example

NOTHING = -1
"""In the place of a token that a choice does not have."""


@dataclass(frozen=True)
class Spoken:
    """A row in tokens: its prompt, its choices, and of how many characters of `Template.cut` it was relieved."""

    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    cut: int = 0


def encode_choices(
    backbone: Backbone,
    examples: Sequence[Example],
    labels: Sequence[str],
    template: Template,
    *,
    limit: int | None = None,
    end: bool = True,
    rows: Sequence[int] | None = None,
) -> Batch:
    """Rows with their choices as inputs, whose scores `chooser` reads.

    `targets [B, C, L]` are the tokens of C choices, -1 where there is none, and `source [B, C, L]` says which of the
    final states is to predict each. A decoder reads a prompt and its choices in one row, an encoder-decoder the choices
    `decoder_input_ids [B, C, L]` beside its prompt; an encoder fills in a masked word.

    `limit` is of tokens of a prompt with its longest choice, by default what the backbone reads; what was cut is said
    once. With `end`, the end of the sequence counts as each choice's last token. DataError names a row that is too long
    even when cut, by its number in `rows` if given; BackboneError says why a backbone scores no words.
    """
    limit = limit or backbone.max_length
    return together(backbone, speak(backbone, examples, labels, template, limit=limit, end=end, rows=rows))


def together(backbone: Backbone, rows: Sequence[Spoken]) -> Batch:
    """Spoken rows as inputs, padded on the right."""
    most, longest = max(len(row.choices) for row in rows), max(len(c) for row in rows for c in row.choices)
    targets = torch.full((len(rows), most, longest), NOTHING)
    for b, row in enumerate(rows):
        for c, choice in enumerate(row.choices):
            targets[b, c, : len(choice)] = torch.tensor(choice)
    made = _MAKERS[backbone.family.architecture](backbone, rows, targets)
    inputs = {name: value.to(backbone.device) for name, value in made.items()}
    inputs["targets"] = targets.to(backbone.device)
    return Batch(inputs, torch.ones(len(rows), dtype=torch.bool, device=backbone.device))


def check_reads(backbone: Backbone) -> None:
    """BackboneError for a backbone that does not read text, or not on its own."""
    lone = backbone.family.reads_text and backbone.family.architecture in _MAKERS
    if not lone or backbone.tokenizer is None:
        found = "It has no tokenizer." if lone else "It reads no text alone."
        todo = "Use a decoder, an encoder-decoder or a masked-language encoder."
        raise BackboneError(f"Choices were to be scored by {backbone.id!r}.", found, todo)


def speak(
    backbone: Backbone, examples: Sequence[Example], labels: Sequence[str], template: Template, *, limit: int,
    end: bool, rows: Sequence[int] | None = None, only: Sequence[int] | None = None,
) -> list[Spoken]:  # fmt: skip
    """Each row in tokens, cut to `limit` where it must be, which is warned of.

    rows  the rows' numbers, by which errors name them; from 1 on if not given
    only  the position of the one choice of each row that is spoken; all of them if not given
    """
    check_reads(backbone)
    rows, chosen = rows or range(1, len(examples) + 1), only or [None] * len(examples)
    prompts = prompts_of(examples, labels, template, rows=rows, only=only)
    found = [_tokens(backbone, prompt, template, end) for prompt in prompts]
    for i, (row, example) in enumerate(zip(found, examples, strict=True)):
        if _excess(backbone, row, limit) > 0:
            found[i] = _cut(backbone, row, example, labels, template, limit, end, rows[i], chosen[i])
    if cut := sum(row.cut > 0 for row in found):
        name = template.cut or "their longest column"
        warnings.warn(
            f"Cut {name} of {cut} of {len(found)} prompts to fit into {limit} tokens.", HandfulWarning, stacklevel=3
        )
    return found


def framed(backbone: Backbone, text: str, template: Template) -> str:
    """A prompt as the backbone reads it: in its chat's format where the template asks for one."""
    if not template.chat:
        return text
    tokenizer: Any = backbone.tokenizer
    if getattr(tokenizer, "chat_template", None) is None:
        raise BackboneError(
            f"The template {template.name!r} is a chat's.", f"{backbone.id!r} has no chat template.",
            "Use an instruction-tuned backbone, or a template without chat.",
        )  # fmt: skip
    said = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False))


def _tokens(backbone: Backbone, prompt: Prompt, template: Template, end: bool) -> Spoken:
    tokenizer: Any = backbone.tokenizer
    kind, text = backbone.family.architecture, framed(backbone, prompt.text, template)
    if kind == "encoder":
        return _words(backbone, prompt)
    if kind == "encoder-decoder":
        spoken = tokenizer([text, *(choice.strip() for choice in prompt.choices)])["input_ids"]
        if not end:
            spoken[1:] = [ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids for ids in spoken[1:]]
        return Spoken(tuple(spoken[0]), tuple(map(tuple, spoken[1:])))
    space = "" if template.chat or not text or text[-1].isspace() else " "
    whole = [text + space + choice.strip() for choice in prompt.choices]
    first, *rest = tokenizer([text, *whole], add_special_tokens=not template.chat)["input_ids"]
    closing = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    first, *rest = (ids[:-1] if closing and ids[-1:] == closing else ids for ids in (first, *rest))
    bare = [space + choice.strip() for choice in prompt.choices]
    alone = tokenizer(bare, add_special_tokens=False)["input_ids"] if bare else []
    own = [  # the tokens that go on from the prompt, where it is read alike with and without them
        ids[len(first) :] if ids[: len(first)] == first and len(ids) > len(first) else by_itself
        for ids, by_itself in zip(rest, alone, strict=True)
    ]
    return Spoken(tuple(first), tuple(tuple(ids + closing) if end else tuple(ids) for ids in own))


def _words(backbone: Backbone, prompt: Prompt) -> Spoken:
    """A prompt that ends with a masked word, and choices of one token each that could be it."""
    tokenizer: Any = backbone.tokenizer
    if tokenizer.mask_token is None:
        found = "Its tokenizer has no mask to fill in."
        raise BackboneError(f"Words were to be scored by {backbone.id!r}.", found, "Use a masked-language encoder.")
    text = prompt.text if tokenizer.mask_token in prompt.text else f"{prompt.text} {tokenizer.mask_token}"
    pieces = [tokenizer(f" {choice.strip()}", add_special_tokens=False)["input_ids"] for choice in prompt.choices]
    if long := [choice for choice, ids in zip(prompt.choices, pieces, strict=True) if len(ids) != 1]:
        raise BackboneError(
            f"Words were to be scored by {backbone.id!r}, an encoder, which fills in one token.",
            f"{long[0]!r} is not one token of its vocabulary.",
            "Give the template `words` of one token each, or use a decoder or an encoder-decoder.",
        )
    return Spoken(tuple(tokenizer(text)["input_ids"]), tuple(map(tuple, pieces)))


def _excess(backbone: Backbone, row: Spoken, limit: int) -> int:
    """How many tokens a prompt, with its longest choice where both are read in one row, is too long."""
    after = max(map(len, row.choices), default=0) if backbone.family.architecture == "decoder" else 0
    return len(row.prompt) + after - limit


def _cut(
    backbone: Backbone, row: Spoken, example: Example, labels: Sequence[str], template: Template, limit: int, end: bool,
    number: int, only: int | None,
) -> Spoken:  # fmt: skip
    """A row again with its template's column shortened until it fits."""
    tokenizer: Any = backbone.tokenizer
    known = columns(example)
    asked = asked_for(template.prompt)
    name = template.cut or max((c for c in known if c in asked), key=lambda c: len(known[c]), default="")
    whole = text = known.get(name, "")
    while text and (excess := _excess(backbone, row, limit)) > 0:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        stop = offsets[-excess][0] if excess < len(offsets) else 0  # a character of several tokens is dropped whole
        text = text[: min(stop, len(text) - 1)].rstrip()
        shorter = replace(example, fields={**(example.fields or {}), name: text})
        shorter = replace(shorter, **{name: text}) if name in ("text", "text_pair") else shorter
        row = _tokens(backbone, template.render(shorter, labels, f"row {number}", only), template, end)
    if (excess := _excess(backbone, row, limit)) > 0:
        raise DataError(
            f"The prompt of row {number} was to be cut to {limit} tokens, in its column {name!r}.",
            f"Without that column it still has {excess} too many.",
            "Shorten the template or its choices, name another column to `cut`, or use a backbone that reads more.",
        )
    return replace(row, cut=len(whole) - len(text))


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def _packed(backbone: Backbone, rows: Sequence[Spoken], targets: Tensor) -> dict[str, Tensor]:
    """Prompts with all but the last token of each choice after them; first tokens are predicted by the prompt's end."""
    ids, answer = list[list[int]](), list[list[int]]()
    source = torch.zeros_like(targets)
    for b, row in enumerate(rows):
        ids.append(list(row.prompt))
        answer.append([0] * len(row.prompt))
        for c, choice in enumerate(row.choices):
            source[b, c, 0] = len(row.prompt) - 1
            source[b, c, 1 : len(choice)] = torch.arange(len(choice) - 1) + len(ids[-1])
            ids[-1] += choice[:-1]
            answer[-1] += [c + 1] * (len(choice) - 1)
    mask = _padded([[1] * len(row) for row in ids], 0)
    return {
        "input_ids": _padded(ids, _pad(backbone)),
        "attention_mask": mask,
        ANSWER: _padded(answer, 0),
        "source": source,
    }


def _filled_in(backbone: Backbone, rows: Sequence[Spoken], targets: Tensor) -> dict[str, Tensor]:
    tokenizer: Any = backbone.tokenizer
    prompts = [row.prompt for row in rows]
    at = [max(i for i, token in enumerate(ids) if token == tokenizer.mask_token_id) for ids in prompts]
    return {
        "input_ids": _padded(prompts, _pad(backbone)),
        "attention_mask": _padded([[1] * len(ids) for ids in prompts], 0),
        "source": torch.tensor(at)[:, None, None].expand_as(targets).clone(),
    }


def _beside(backbone: Backbone, rows: Sequence[Spoken], targets: Tensor) -> dict[str, Tensor]:
    config: Any = backbone.model.config
    prompts = [row.prompt for row in rows]
    start = getattr(config, "decoder_start_token_id", None) or 0
    real = targets != NOTHING
    before = targets.roll(1, -1).masked_fill(~real, _pad(backbone))
    before[..., 0] = start
    return {
        "input_ids": _padded(prompts, _pad(backbone)),
        "attention_mask": _padded([[1] * len(ids) for ids in prompts], 0),
        "decoder_input_ids": before,
        "decoder_attention_mask": real.long(),
        "source": torch.arange(targets.shape[1] * targets.shape[2])
        .reshape(targets.shape[1:])
        .expand_as(targets)
        .clone(),
    }


_MAKERS = {"decoder": _packed, "encoder": _filled_in, "encoder-decoder": _beside}
"""What makes inputs of spoken rows, by a family's architecture."""


def _pad(backbone: Backbone) -> int:
    tokenizer: Any = backbone.tokenizer
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return found or 0
