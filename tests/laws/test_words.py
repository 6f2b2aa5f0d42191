"""Answers that follow one prompt in one row: each gets what it would get alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from handful.choices import NOTHING, Spoken, together
from handful.packing import apart
from handful.types import Batch, Params, task_params
from laws.cases import DUAL, FAMILIES, METHODS, SPEECH, VISION, Case, applies, backbone, random_params
from tiny import ENCODER_DECODERS, TINY

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3", "gpt2")
WRITERS = (*DECODERS, *sorted(ENCODER_DECODERS - {"whisper"}))
ROWS = (
    Spoken((5, 6, 7, 8, 9, 10), ((11, 12, 3), (13, 3), (14, 15, 16, 17, 3))),
    Spoken((8, 9, 10), ((20, 3), (21, 22, 3))),
)


def cases(*dtypes: str) -> Any:
    chosen = [
        Case(method, family, dtype)
        for family in WRITERS
        for method in METHODS
        for dtype in dtypes
        if applies(method, family) and METHODS[method].causal
    ]
    return pytest.mark.parametrize("case", chosen, ids=str)


def batch(case: Case, rows: tuple[Spoken, ...]) -> Batch:
    reader: Any = SimpleNamespace(pad_token_id=0, eos_token_id=3)
    return together(replace(backbone(case.family, case.dtype), tokenizer=reader), rows)


def predicting(case: Case, params: Params, rows: Batch) -> Tensor:
    """The states that predict each token of each choice, `[T?, B, C, L, D]`, zero where there is none."""
    adapted, shape = case.adapted(), rows.inputs["targets"].shape
    rows = apart(rows) if adapted.beside else rows
    hidden = adapted(params, rows).hidden
    source, real = rows.inputs["source"], rows.inputs["targets"] != NOTHING
    found = hidden.gather(-2, source.flatten(-2)[..., None].expand(*source.shape[:-2], -1, hidden.shape[-1]))
    return torch.where(real[..., None], found.unflatten(-2, source.shape[-2:]), 0.0).reshape(*shape, -1)


@cases("float64")
def test_choices_after_one_prompt_equal_each_alone(case: Case) -> None:
    params = random_params(case, None)
    with torch.no_grad():
        found = predicting(case, params, batch(case, ROWS))
        for b, row in enumerate(ROWS):
            for c, choice in enumerate(row.choices):
                alone = predicting(case, params, batch(case, (Spoken(row.prompt, (choice,)),)))[0, 0]
                torch.testing.assert_close(found[b, c, : len(choice)], alone, **case.tolerance)


@cases("float64")
def test_no_state_has_seen_what_it_predicts(case: Case) -> None:
    params = random_params(case, None)
    with torch.no_grad():
        found, other = (
            predicting(case, params, batch(case, (Spoken((5, 6, 7), ((11, 12, last, 3),)),)))[0, 0] for last in (13, 14)
        )
    torch.testing.assert_close(found[:3], other[:3], **case.tolerance)
    assert (found[3] - other[3]).abs().max() > 1e-6


@cases("float64")
def test_tasks_of_choices_equal_a_loop(case: Case) -> None:
    params = random_params(case, 2)
    rows = [batch(case, ROWS), batch(case, ROWS[::-1])]
    stack = Batch(
        {name: torch.stack([own.inputs[name] for own in rows]) for name in rows[0].inputs}, torch.ones(2, 2).bool()
    )
    with torch.no_grad():
        found = predicting(case, params, stack)
        for t, own in enumerate(rows):
            torch.testing.assert_close(found[t], predicting(case, task_params(params, t), own), **case.tolerance)


def test_every_architecture_is_a_writer_or_none() -> None:
    silent = VISION | DUAL | SPEECH | {"whisper", "gemma3"}
    readers = {"bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"}
    assert set(WRITERS) | silent | readers == {FAMILIES[name][0] for name in TINY}
