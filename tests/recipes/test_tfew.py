"""T-Few: what it learns, what its result depends on and what not, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from handful import FewShotClassifier, fit_many
from handful import artifact as artifacts
from handful.artifact import Artifact
from handful.attach import attach
from handful.backbone import Backbone, load
from handful.errors import ArtifactError, DataError, HandfulWarning, RequestError
from handful.methods import from_spec, method
from handful.predictor import Predictor
from handful.prior import Prior
from handful.recipes import recipe
from handful.recipes.tfew import tfew
from handful.templates import Template
from handful.types import Example, Params, Task
from tinytext import random_params, save_speaker, small, speaker, tiny_multilabel, tiny_task, words_of

WORDS = Template(prompt="{{ text }}:", words={"class 0": "yes", "class 1": "no"})
OTHER = Template(prompt="is {{ text }} so:", words=WORDS.words, name="other")
QUICK: dict[str, Any] = {"steps": 3}
ENOUGH: dict[str, Any] = {"steps": 40, "lr": 0.1}


def toy(rows: int = 6, seed: int = 0, templates: tuple[Template, ...] = (WORDS,), name: str = "toy") -> Task:
    """Texts whose letters say their class, to be answered by yes or no."""
    return replace(tiny_task(2, rows, seed=seed, name=name), templates=templates)


def choosing(rows: int = 6, seed: int = 0) -> Task:
    """Rows with two to four choices of their own; the right one is told by the letters of its row."""
    found = [
        Example(text, None, right, choices=(*others, right, "off")[: 4 - i % 2])
        for c, (right, wrong) in enumerate((("yes", "no"), ("no", "yes")))
        for i, (text, others) in enumerate(
            (text, (wrong,) if i % 3 else ("maybe", wrong)) for i, text in enumerate(words_of(c, rows, seed))
        )
    ]
    return Task("choosing", found, (), "choice")


def share_right(fitted: Artifact, task: Task, backbone: Backbone) -> float:
    best = Predictor(fitted, backbone).scores(task.examples).logits.argmax(-1).tolist()
    names = [fitted.labels if example.choices is None else example.choices for example in task.examples]
    return sum(own[i] == e.label for own, i, e in zip(names, best, task.examples, strict=True)) / len(best)


def same(first: Params, second: Params) -> bool:
    return all(torch.equal(p, second[site][name]) for site, own in first.items() for name, p in own.items())


def close(first: Artifact, second: Artifact) -> None:
    for site, own in first.params.items():
        for name, p in own.items():
            torch.testing.assert_close(p, second.params[site][name], rtol=1e-4, atol=1e-5)


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("make", [toy, choosing])
def test_it_learns(kind: str, make: Any) -> None:
    backbone = speaker(kind)
    (before,) = tfew([make()], backbone, steps=0)
    (fitted,) = tfew([make(8)], backbone, **ENOUGH)
    asked = make(12, seed=9)
    assert share_right(fitted, asked, backbone) >= 0.9
    assert share_right(before, asked, backbone) <= 0.7
    assert fitted.estimate is None
    assert any("num_folds" in note for note in fitted.notes)
    assert fitted.method is not None
    assert from_spec(fitted.method) == method("ia3")
    assert fitted.head == {}


def test_an_encoder_fills_in_words(tmp_path: Path) -> None:
    backbone = load(save_speaker("encoder", tmp_path / "encoder"))
    (fitted,) = tfew([toy(8)], backbone, method="lora", optimizer="adamw", steps=30, lr=2e-2)
    assert share_right(fitted, toy(12, seed=9), backbone) >= 0.9


@pytest.mark.parametrize("name", ["lora", "pfeiffer", "layernorm", "prefix", "ladder"])
def test_every_method_fits(name: str) -> None:
    (fitted,) = tfew([toy()], speaker("decoder"), method=small(name), optimizer="adamw", **QUICK)
    assert fitted.method is not None
    assert fitted.method["name"] == name
    assert not same(fitted.params, tfew([toy()], speaker("decoder"), method=small(name), steps=0)[0].params)


@pytest.mark.parametrize("losses", ["lm", "ul", "ln", "lm+ul", "lm+ln", "lm+ul+ln"])
def test_each_arm_is_another_result(losses: str) -> None:
    whole, arm = (tfew([choosing()], speaker("decoder"), losses=own, **QUICK)[0] for own in ("lm+ul+ln", losses))
    assert same(whole.params, arm.params) == (losses == "lm+ul+ln")


def test_losses_that_there_are_not() -> None:
    with pytest.raises(RequestError, match="'rm' is none of lm, ul, ln"):
        tfew([toy()], speaker("decoder"), losses="lm+rm")


def test_it_is_a_recipe_with_options() -> None:
    (said,) = recipe("tfew:steps=3:losses=lm")([toy()], speaker("decoder"), seed=1)
    (called,) = tfew([toy()], speaker("decoder"), steps=3, losses="lm", seed=1)
    assert same(said.params, called.params)


# -- what a result depends on ------------------------------------------------------------------------------------------


def test_seeds() -> None:
    def fitted(seed: int, **options: Any) -> Params:
        return tfew([toy()], speaker("decoder"), seed=seed, **QUICK, **options)[0].params

    assert same(fitted(0), fitted(0))
    assert not same(fitted(0), fitted(1))  # another order, though (IA)^3 starts at ones
    assert not same(fitted(0, method="lora"), fitted(1, method="lora"))


def test_a_batch_of_tasks_equals_each_alone() -> None:
    tasks = [toy(), toy(4, seed=3, name="other"), toy(7, seed=4, templates=(WORDS, OTHER))]
    batch = tfew(tasks, speaker("decoder"), seed=[0, 5, 0], num_folds=2, steps=6)
    for task, seed, own in zip(tasks, (0, 5, 0), batch, strict=True):
        (alone,) = tfew([task], speaker("decoder"), seed=seed, num_folds=2, steps=6)
        close(own, alone)
        assert own.temperature == pytest.approx(alone.temperature, rel=1e-3)
        assert own.estimate is not None
        assert alone.estimate is not None
        assert own.estimate["accuracy"] == alone.estimate["accuracy"]


def test_tasks_of_choices_equal_each_alone() -> None:
    tasks = [choosing(), choosing(4, seed=2)]
    for task, own in zip(tasks, tfew(tasks, speaker("encoder-decoder"), **QUICK), strict=True):
        close(own, tfew([task], speaker("encoder-decoder"), **QUICK)[0])


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(what: str, share: float) -> None:
        if share >= 0.5:
            raise StopError

    options: dict[str, Any] = {"steps": 8, "num_folds": 2}
    (whole,) = tfew([toy()], speaker("decoder"), **options)
    with pytest.raises(StopError):
        tfew([toy()], speaker("decoder"), checkpoint=tmp_path, progress=stop, **options)
    (again,) = tfew([toy()], speaker("decoder"), checkpoint=tmp_path, **options)
    assert same(again.params, whole.params)
    assert list(tmp_path.glob("*.safetensors"))
    (other,) = tfew([toy()], speaker("decoder"), checkpoint=tmp_path, losses="lm", **options)  # of another run
    assert same(other.params, tfew([toy()], speaker("decoder"), losses="lm", **options)[0].params)


def test_every_template_is_learned_from_and_the_first_one_asks() -> None:
    backbone, single, both = speaker("decoder"), toy(), toy(templates=(WORDS, OTHER))
    (one,), (two,), (turned,) = (
        tfew([task], backbone, steps=6) for task in (single, both, replace(both, templates=(OTHER, WORDS)))
    )
    assert not same(one.params, two.params)
    assert [own["name"] for own in two.features["templates"]] == ["default", "other"]
    scores = [Predictor(own, backbone).scores(single.examples).logits for own in (two, turned)]
    assert (scores[0] - scores[1]).abs().max() > 1e-3
    swapped = replace(two, features={**two.features, "templates": turned.features["templates"]})
    assert not torch.equal(Predictor(swapped, backbone).scores(single.examples).logits, scores[0])


def test_a_step_draws_among_all_wordings() -> None:
    """With a template that says nothing in front of one that does, something is learned all the same."""
    mute = Template(prompt="so:", words=WORDS.words, name="mute")
    backbone = speaker("decoder")
    (fitted,) = tfew([toy(8, templates=(mute, WORDS))], backbone, steps=60, lr=0.1)
    asked = replace(fitted, features={**fitted.features, "templates": [WORDS.to_dict()]})
    assert share_right(asked, toy(12, seed=9), backbone) >= 0.9
    assert share_right(fitted, toy(12, seed=9), backbone) == 0.5


# -- estimates ---------------------------------------------------------------------------------------------------------


def test_folds_estimate_the_accuracy() -> None:
    (fitted,) = tfew([toy(8)], speaker("decoder"), num_folds=4, **ENOUGH)
    assert fitted.estimate is not None
    accuracy = fitted.estimate["accuracy"]
    assert fitted.estimate["num_folds"] == 4
    assert accuracy["value"] >= 0.8
    assert accuracy["low"] < accuracy["value"] <= accuracy["high"]
    assert fitted.notes == ()
    (whole,), (folded,) = (tfew([toy()], speaker("decoder"), num_folds=n, **QUICK) for n in (0, 4))
    close(whole, folded)  # rows that are held out are learned from all the same


def test_positions_of_choices_are_no_classes() -> None:
    """A right choice that is in a place of its own is held out like any, and nothing is said of places."""
    task = choosing(8)
    lone = replace(task.examples[0], choices=("a", "b", "c", "d", "e", "yes"), label="yes")
    (fitted,) = tfew([replace(task, examples=[lone, *task.examples[1:]])], speaker("decoder"), num_folds=3, **QUICK)
    assert fitted.labels == ("1", "2", "3", "4", "5", "6")
    found = fitted.estimate or {}
    assert (found["n"], found["num_folds"]) == (16, 3)
    assert "macro_f1" not in found
    assert found["per_class"] == {}
    assert not [said for said in found["warnings"] if "of 1" in said or "most common answer" in said]


# -- a prior -----------------------------------------------------------------------------------------------------------


def prior(name: str = "ia3") -> Prior:
    adapted = attach(speaker("decoder"), small(name))
    return Prior(
        "made", "a tiny decoder", speaker("decoder").fingerprint, adapted.method, None, random_params(adapted.init(0)),
        sites=adapted.site_table(),
    )  # fmt: skip


def test_it_starts_where_a_prior_says() -> None:
    known = prior()
    (start,) = tfew([toy()], speaker("decoder"), prior=known, steps=0)
    assert same(start.params, known.params)
    (fitted,) = tfew([toy()], speaker("decoder"), prior=known, **QUICK)
    assert not same(fitted.params, tfew([toy()], speaker("decoder"), **QUICK)[0].params)
    (method_s,) = tfew([toy()], speaker("decoder"), prior=prior("lora"), **QUICK)
    assert method_s.method is not None
    assert method_s.method["name"] == "lora"


def test_priors_that_do_not_fit() -> None:
    with pytest.raises(RequestError, match="It is one for"):
        tfew([toy()], speaker("decoder"), prior=prior(), method="lora")
    with pytest.raises(ArtifactError, match="these weights are"):
        tfew([toy()], speaker("encoder-decoder"), prior=prior())


# -- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [toy, choosing])
def test_an_artifact_is_the_same_after_it_was_saved(make: Any, tmp_path: Path) -> None:
    (fitted,) = tfew([make()], speaker("decoder"), num_folds=2, **QUICK)
    known = {"name": "defined", "kind": "classification", "labels": ["a", "b"]}
    artifacts.save(replace(fitted, definition=known), tmp_path / "task")
    loaded = artifacts.load(tmp_path / "task")
    assert loaded == replace(fitted, definition=known, params=loaded.params, head=loaded.head)
    scores = [Predictor(own, speaker("decoder")).scores(make(4, 9).examples).logits for own in (fitted, loaded)]
    assert torch.equal(*scores)
    card = (tmp_path / "task" / "README.md").read_text()
    assert "task definition `defined`" in card
    assert ("{{ text }}:" if make is toy else "Answer:") in card
    assert ("one of the answers that a row brings" in card) == (make is choosing)


def test_the_bill() -> None:
    (fitted,) = tfew([toy()], speaker("decoder"), **QUICK)
    cost, size = fitted.cost, sum(p.numel() for own in fitted.params.values() for p in own.values())
    assert cost["trained_parameters"] == cost["method_parameters"] == size
    assert cost["training_flops"] > cost["query_flops"] > 0
    assert cost["query_tokens"] > 1


def test_scikit_learn_s_face() -> None:
    texts, labels = [e.text for e in toy(8).examples], [e.label == "class 0" for e in toy(8).examples]
    made = FewShotClassifier(speaker("decoder"), "tfew:steps=60:lr=0.1", template="{{ text }} is")
    found = made.fit(texts, labels).predict(texts)
    assert made.classes_.tolist() == [False, True]
    assert (found == labels).mean() >= 0.9
    assert made.predict_proba(texts).sum(1) == pytest.approx(1.0)
    assert made.estimate_ is None
    both = fit_many([(texts, labels), toy()], backbone=speaker("decoder"), recipe="tfew:steps=2", template="{{ text }}")
    assert [own.classes_.tolist() for own in both] == [[False, True], ["class 0", "class 1"]]
    with pytest.raises(RequestError, match="choosing is a choice task, whose rows bring their own choices"):
        fit_many([choosing()], backbone=speaker("decoder"), recipe="tfew")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["default", "probe", "prototypes", "lora", "tune", "ia3"])
def test_a_head_of_classes_takes_no_choices(said: str) -> None:
    with pytest.raises(RequestError) as caught:
        recipe(said)([choosing()], speaker("decoder"), seed=0)
    assert "choosing was to be fitted by the recipe" in caught.value.asked
    assert "every row has its own choices" in caught.value.found
    assert "tfew" in caught.value.todo


def test_a_head_of_classes_reads_no_prompt() -> None:
    given = Template(prompt="{{ text }} is", name="given")
    with pytest.raises(RequestError, match="is a prompt, which it does not read"):
        recipe("probe")([toy(templates=(given,))], speaker("decoder"), seed=0)
    recipe("probe")([toy()], speaker("decoder"), seed=0)  # those of a definition are for others


@pytest.mark.parametrize(
    ("task", "found"),
    [
        (tiny_multilabel(), "It is a multilabel task."),
        (replace(tiny_task(), template="so: {text}"), "no column to fill in"),
    ],
)
def test_tasks_that_have_no_words_to_choose_among(task: Task, found: str) -> None:
    with pytest.raises(RequestError) as caught:
        tfew([task], speaker("decoder"), **QUICK)
    assert found in caught.value.found


def test_rows_that_are_wrong_are_named() -> None:
    wrong = choosing()
    rows = [*wrong.examples[:2], replace(wrong.examples[2], label="elsewhere"), *wrong.examples[3:]]
    with pytest.raises(DataError, match="right choice of row 3 of choosing") as caught:
        tfew([replace(wrong, examples=rows)], speaker("decoder"), **QUICK)
    assert "'elsewhere' is none of" in caught.value.found
    fields = [replace(e, fields={"body": e.text}) for e in toy().examples[:1]]
    task = replace(toy(templates=(Template(prompt="{{ body }}"),)), examples=[*fields, *toy().examples[1:]])
    with pytest.raises(DataError, match="row 2"):
        tfew([task], speaker("decoder"), **QUICK)


def test_a_choice_that_begins_another_is_warned_of_once() -> None:
    words = Template(prompt="{{ text }}:", words={"class 0": "no", "class 1": "no way"})
    with pytest.warns(HandfulWarning) as caught:
        tfew([toy(templates=(words,))], speaker("decoder"), **QUICK)
    assert len([own for own in caught if "is the beginning of" in str(own.message)]) == 1
