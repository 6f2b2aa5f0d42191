"""Tagging tasks from end to end: fitted, saved, loaded, asked, measured, compared; alone or beside others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commandline import call
from handful import artifact as artifacts
from handful import classifier
from handful.artifact import Artifact
from handful.card import model_card
from handful.errors import DataError, RequestError
from handful.estimate import Estimate
from handful.methods import Method
from handful.methods.layernorm import LayerNormTuning
from handful.methods.variants import OnLayers
from handful.predictor import Predictor
from handful.recipes import recipe
from handful.recipes.tune import tune
from handful.tagging import bio, entity_f1, types_of
from handful.types import Episode, Example, Task
from handful.work import Item, Job, run
from tinytags import tiny_tagging, write_conll, write_jsonl
from tinytext import save_tiny, small, tiny_task, tiny_text

METHODS: dict[str, Method] = {
    "lora": small("lora"), "prompt": small("prompt"), "ladder": small("ladder"),
    "top": OnLayers(method=LayerNormTuning(), start=1),
}  # fmt: skip


def fitted(
    tasks: list[Task], method: str = "lora", *, folds: int = 3, steps: int = 8, **options: Any
) -> list[Artifact]:
    return tune(tasks, tiny_text(), method=METHODS[method], steps=steps, num_folds=folds, lr=1e-2, **options)


ASKED = tiny_tagging(15, seed=5).examples


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_it_answers_the_same(tmp_path: Path, method: str) -> None:
    (first,) = fitted([tiny_tagging(10)], method)
    again = artifacts.load(artifacts.save(first, tmp_path / "task"))
    assert again.kind == "tagging"
    assert again.labels == ("O", "B-X", "I-X", "B-Y", "I-Y")
    before, after = (Predictor(own, tiny_text()) for own in (first, again))
    scores = before.scores(ASKED).logits
    assert scores.shape == (15, max(len(e.words or ()) for e in ASKED), 5)
    assert torch.equal(scores, after.scores(ASKED).logits)
    tags = before.tags(ASKED)
    assert [len(own) for own in tags] == [len(example.words or ()) for example in ASKED]
    assert all(bio(own) == own for own in tags)
    assert {tag for own in tags for tag in own} > {"O"}


def test_it_learns() -> None:
    task = tiny_tagging(40)
    (own,) = fitted([task], steps=60)
    tags = Predictor(own, tiny_text()).tags(ASKED)
    f1, _ = entity_f1([example.label or () for example in ASKED], tags)
    assert f1.f1 > 0.6
    found = Estimate.from_dict(own.estimate or {})
    assert found.entity_f1 is not None
    assert found.num_folds == 3
    assert found.entity_f1.value is not None
    assert found.entity_f1.value == pytest.approx(f1.f1, abs=0.25)
    assert found.entity_f1.low <= found.entity_f1.value <= found.entity_f1.high
    assert own.temperature != 1
    assert own.cost["trained_parameters"] > own.cost["method_parameters"] > 0


def test_labels_without_meaning_promise_nothing() -> None:
    """Words that say nothing about their tags: an estimate that looked at its own rows would be high."""
    task = tiny_tagging(30)
    rng = np.random.default_rng(0)
    shuffled = [
        replace(e, words=tuple("".join(rng.choice(list("abcmnouvw"), 2)) for _ in e.words or ())) for e in task.examples
    ]
    examples = [replace(e, text=" ".join(e.words or ())) for e in shuffled]
    (own,) = fitted([replace(task, examples=examples)], steps=60)
    found = Estimate.from_dict(own.estimate or {})
    assert found.entity_f1 is not None
    assert (found.entity_f1.value or 0) < 0.45


def test_a_task_alone_and_beside_others() -> None:
    tasks = [tiny_tagging(9), tiny_tagging(14, seed=1, kinds=("Y",), template="go: {text}")]
    together = fitted(tasks, seed=[3, 4])
    for task, beside, seed in zip(tasks, together, (3, 4), strict=True):
        (alone,) = fitted([task], seed=seed)
        found, expected = (Predictor(own, tiny_text()).scores(ASKED).logits for own in (beside, alone))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        said, known = ((own.estimate or {})["entity_f1"]["value"] for own in (beside, alone))
        assert said == pytest.approx(known, abs=0.05)
        assert beside.temperature == pytest.approx(alone.temperature, rel=1e-2)


def test_without_folds_it_claims_nothing() -> None:
    (own,) = fitted([tiny_tagging(8)], folds=0)
    assert own.temperature == 1
    assert (own.estimate or {})["entity_f1"]["value"] is None


def test_other_recipes_say_what_to_use() -> None:
    for name in ("probe", "prototypes"):
        with pytest.raises(RequestError, match="the recipe lora"):
            recipe(name)([tiny_tagging(8)], tiny_text(), seed=0)
    (own,) = recipe("default")([tiny_tagging(5)], tiny_text(), seed=0)
    assert own.recipe == "tune:lora"
    with pytest.raises(RequestError, match="tagging task"):
        classifier.fit_many([tiny_tagging(8)], backbone=tiny_text())


def test_it_is_asked_words() -> None:
    (own,) = fitted([tiny_tagging(8)], folds=0)
    with pytest.raises(DataError, match="fitted on words; these are texts"):
        Predictor(own, tiny_text()).scores([Example("a b")])
    (other,) = recipe("prototypes")([tiny_task(2, 4)], tiny_text(), seed=0)
    with pytest.raises(DataError, match="fitted on texts; these are words"):
        Predictor(other, tiny_text()).scores(ASKED)


def test_the_card_says_f1() -> None:
    (own,) = fitted([tiny_tagging(12)])
    card = model_card(own)
    assert "A tagger of words, for 2 types of entities: X, Y." in card
    assert "entity f1: " in card
    assert "accuracy" not in card


def test_a_cell_of_a_comparison(tmp_path: Path) -> None:
    task = tiny_tagging(12)
    episode = Episode(task, replace(task, examples=ASKED))
    backbone = str(save_tiny(tmp_path / "tiny"))
    (outcome,) = run(Job("lora:rank=2:steps=5:num_folds=2", backbone, [Item("k", episode, 0, "entity_f1")]))
    assert outcome.error is None
    (own,) = recipe("lora:rank=2:steps=5:num_folds=2")([task], tiny_text(), seed=[0])
    guess = Predictor(own, tiny_text()).tags(ASKED)
    micro, _ = entity_f1([example.label or () for example in ASKED], guess)
    assert outcome.score == pytest.approx(micro.f1)
    assert outcome.measures["n"] == sum(len(e.words or ()) for e in ASKED)
    assert outcome.estimate == (own.estimate or {})["entity_f1"]
    assert outcome.measures["entities"] == micro.support


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def handful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Runs the command line in this process and gives what it prints; a failure is a test's."""
    monkeypatch.chdir(tmp_path)

    def said(*arguments: object, status: int = 0) -> str:
        done = call(*arguments)
        assert done.status == status, done.err
        return done.err if status else done.out

    return said


def test_fit_predict_evaluate(handful: Callable[..., str], tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    train, test = (
        write_conll(tmp_path / "train.conll", tiny_tagging(20)),
        write_jsonl(tmp_path / "test.jsonl", tiny_tagging(9, seed=2)),
    )
    few = ("--backbone", tiny, "--recipe", "lora:rank=2:steps=6:num_folds=2")
    done = json.loads(handful("fit", train, *few, "--out", "task", "--json"))
    assert done["estimate"]["entity_f1"]["level"] == 0.9
    assert types_of(done["classes"]) == ("X", "Y")
    shown = handful("fit", train, *few, "--shots", 3, "--out", "task")
    assert "entity f1" in shown
    assert "accuracy" not in shown
    rows = [json.loads(line) for line in handful("predict", "task", test).splitlines()]
    own = artifacts.load("task")
    examples = tiny_tagging(9, seed=2).examples
    tags = Predictor(own, tiny_text()).tags(examples)
    assert [row["tokens"] for row in rows] == [list(example.words or ()) for example in examples]
    assert [tuple(row["tags"]) for row in rows] == tags
    for row in rows:
        for entity in row["entities"]:
            assert entity["text"] == " ".join(row["tokens"][entity["start"] : entity["end"]])
            assert row["tags"][entity["start"]] == f"B-{entity['type']}"
            assert 0.2 <= entity["probability"] <= 1
    micro, each = entity_f1([example.label or () for example in examples], tags)
    measured = json.loads(handful("evaluate", "task", test, "--json"))
    assert measured["entity_f1"]["value"] == pytest.approx(micro.f1)
    assert measured["per_class"]["X"]["n"] == each["X"].support
    assert "precision" in handful("evaluate", "task", test)
    assert "X, Y" in (tmp_path / "task" / "README.md").read_text()


def test_what_is_wrong_is_said(handful: Callable[..., str], tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    train = write_conll(tmp_path / "train.conll", tiny_tagging(8))
    assert "the recipe lora" in handful("fit", train, "--backbone", tiny, "--recipe", "probe", "--out", "a", status=2)
    handful("fit", train, "--backbone", tiny, "--recipe", "lora:rank=2:steps=2:num_folds=0", "--out", "task", "--json")
    (tmp_path / "b.conll").write_text("u B-NEW\n")
    assert "'B-NEW'" in handful("evaluate", "task", "b.conll", status=2)
    assert "tags words" in handful("export", "task", "--out", "peft", status=2)
