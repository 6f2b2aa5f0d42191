"""Tasks whose answers are written freely: learned, kept on disk, measured, and refused where they make no sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from handful import choicecommands
from handful.artifact import load, save
from handful.backbone import Backbone
from handful.errors import BackboneError, RequestError
from handful.predictor import Predictor
from handful.recipes import recipe
from handful.templates import Template
from handful.types import Example, Task
from tinytext import tiny_text, tiny_writer

ROWS = tuple(Example(text, label=(text[0], text[1])) for text in ("ab", "cd", "ef", "gh"))
TASK = Task("first", ROWS, (), "generation", templates=(Template(prompt="{{ text }} ="),))
LEARNED = "tfew:steps=80:lr=0.1:method=lora:optimizer=adamw"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_writer()


def test_the_first_right_answer_is_learned_and_kept(backbone: Backbone, tmp_path: Path) -> None:
    (fitted,) = recipe(LEARNED)([TASK], backbone, seed=0)
    texts = Predictor(fitted, backbone).texts(ROWS)
    assert [text.split()[0] for text in texts] == ["a", "c", "e", "g"]
    read = load(save(fitted, tmp_path / "task"))
    assert Predictor(read, backbone).texts(ROWS) == texts
    assert read.kind == "generation"
    assert "written freely" in choicecommands.about(read)["answers"]


def test_answers_are_measured_against_all_that_are_right(backbone: Backbone) -> None:
    (fitted,) = recipe("tfew:steps=1")([TASK], backbone, seed=0)
    predictor = Predictor(fitted, backbone)
    own = [replace(row, label=("no", text)) for row, text in zip(ROWS, predictor.texts(ROWS), strict=True)]
    found = choicecommands.measured(predictor, replace(TASK, examples=own))
    assert found["f1"] == found["n"] / 4 == 1.0
    assert choicecommands.answers(predictor, ROWS[:1]) == [{"answer": predictor.texts(ROWS[:1])[0]}]


def test_what_makes_no_sense_is_refused(backbone: Backbone) -> None:
    (fitted,) = recipe("tfew:steps=1")([TASK], backbone, seed=0)
    with pytest.raises(RequestError, match="writes its answers freely"):
        Predictor(fitted, backbone).scores(ROWS)
    for said in ("tfew:steps=1:num_folds=2", "icl:shots=2"):
        with pytest.raises(RequestError, match="generation task"):
            recipe(said)([TASK], backbone, seed=0)
    with pytest.raises(BackboneError):
        recipe("tfew:steps=1")([TASK], tiny_text(), seed=0)
    choices = replace(TASK, kind="choice", examples=[Example("a", label="x", choices=("x", "y"))] * 2)
    (ranked,) = recipe("tfew:steps=1")([choices], backbone, seed=0)
    with pytest.raises(RequestError, match="Ask it for scores"):
        Predictor(ranked, backbone).texts(ROWS)
