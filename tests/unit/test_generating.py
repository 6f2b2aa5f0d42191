"""Answers written freely are those of transformers' own greedy decoding, and of the method that is on the backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from handful.attach import attach
from handful.errors import BackboneError
from handful.generating import TOGETHER, check_writes, write
from handful.methods import method
from handful.templates import Template
from handful.types import Example, map_params
from handful.vocabulary import vocabulary
from tinytext import random_params, save_writer, small, tiny_text, tiny_writer

ROWS = [Example(text) for text in ("a", "bc d", "efg", "h i j")]
ASKED = Template(prompt="{{ text }}:")


def written(name: str, rows: list[Example] = ROWS, *, moved: bool = False, most: int = 5) -> list[str]:
    backbone = tiny_writer()
    adapted = attach(backbone, small(name))
    params = adapted.init(0)
    params = random_params(params, scale=0.5) if moved else params
    return write(adapted, vocabulary(backbone), params, rows, ASKED, limit=40, most=most)


def test_it_is_transformers_greedy_decoding(tmp_path: Path) -> None:
    backbone = tiny_writer()
    tokenizer = backbone.tokenizer
    assert tokenizer is not None
    model = AutoModelForCausalLM.from_pretrained(save_writer(tmp_path / "writer")).eval()
    for row, answer in zip(ROWS, written("ia3"), strict=True):
        ids = tokenizer(f"{row.text}:", return_tensors="pt")["input_ids"]
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0,
            eos_token_id=None,
        )  # fmt: skip
        assert answer == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt", "ladder"])
def test_rows_together_are_rows_alone(name: str) -> None:
    together = written(name, moved=True)
    assert together == [written(name, [row], moved=True)[0] for row in ROWS]
    assert together != written(name)


def test_more_rows_than_are_written_at_a_time_keep_their_order() -> None:
    rows = [ROWS[i % 4] for i in range(TOGETHER + 5)]
    once = written("ia3", most=3)
    assert written("ia3", rows, most=3) == [once[i % 4] for i in range(len(rows))]


def test_an_encoder_does_not_write() -> None:
    with pytest.raises(BackboneError, match="decoder"):
        check_writes(tiny_text())


def test_parameters_decide() -> None:
    backbone = tiny_writer()
    adapted = attach(backbone, method("ia3"))
    none = map_params(torch.zeros_like, adapted.init(0))
    silent = write(adapted, vocabulary(backbone), none, ROWS, ASKED, limit=40, most=2)
    assert silent != write(adapted, vocabulary(backbone), adapted.init(0), ROWS, ASKED, limit=40, most=2)
