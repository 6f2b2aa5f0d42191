"""A task that ends in text at work: its choices ranked as they were learned, whatever rows are asked together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from handful import predictor as predicting
from handful.artifact import Artifact
from handful.asking import asked_in_words, check_choices_given, widened
from handful.attach import attach
from handful.choices import encode_choices
from handful.chooser import Ranker
from handful.errors import ArtifactError, BackboneError, DataError, HandfulWarning
from handful.fit import predict
from handful.methods import method, to_spec
from handful.predictor import Predictor
from handful.templates import Template
from handful.types import Example, TaskKind
from handful.vocabulary import vocabulary
from tinytext import random_params, speaker

ASK = Template(prompt="{{ text }}:")
OTHER = Template(prompt="so {{ text }}?", name="other")
ROWS = [
    Example("abc", choices=("yes", "no", "it may be")),
    Example("a longer text", choices=("so", "not")),
    Example("d", choices=("a", "b", "c", "d")),
]
INFINITE = float("-inf")


def fitted(kind: TaskKind = "choice", labels: tuple[str, ...] = ("1", "2", "3"), **changes: Any) -> Artifact:
    """A task of random (IA)^3 on the tiny decoder."""
    backbone = speaker("decoder")
    adapted = attach(backbone, method("ia3"))
    features = {"kind": "choices", "templates": [ASK.to_dict(), OTHER.to_dict()], "length": 40}
    found = Artifact(
        "tfew", backbone.id, backbone.fingerprint, labels, features, {}, random_params(adapted.init(0)),
        to_spec(adapted.method), adapted.site_table(), kind=kind, task="asked",
    )  # fmt: skip
    return replace(found, **changes)


def model() -> Ranker:
    return Ranker(attach(speaker("decoder"), method("ia3")), vocabulary(speaker("decoder")))


def test_scores_are_the_ranker_s_in_the_first_template() -> None:
    own = fitted()
    found = asked_in_words(own, speaker("decoder"))(ROWS, 1)
    batch = encode_choices(speaker("decoder"), ROWS, (), ASK, limit=40)
    expected = predict(model(), own.params, batch, batch.inputs["targets"].shape[1])
    torch.testing.assert_close(found, expected)
    assert found.shape == (3, 4)
    assert (found == INFINITE).tolist() == [[False] * 3 + [True], [False] * 2 + [True] * 2, [False] * 4]
    with torch.no_grad():
        torch.testing.assert_close(expected, model()(own.params, batch))
        assert (model()(model().adapted.init(0), batch)[:, :2] - expected[:, :2]).abs().max() > 1e-3


def test_a_row_s_answer_does_not_depend_on_the_others() -> None:
    predictor = Predictor(fitted(), speaker("decoder"))
    whole = predictor.scores(ROWS).logits
    for i, row in enumerate(ROWS):
        alone = predictor.scores([row]).logits[0]
        torch.testing.assert_close(alone, whole[i, : len(alone)], rtol=1e-5, atol=1e-5)
    backwards = predictor.scores(ROWS[::-1]).logits.flip(0)
    torch.testing.assert_close(backwards, whole, rtol=1e-5, atol=1e-5)


def test_choices_in_another_order_have_the_same_scores() -> None:
    turned = [replace(row, choices=(row.choices or ())[::-1]) for row in ROWS]
    predictor = Predictor(fitted(), speaker("decoder"))
    for row, first, second in zip(ROWS, predictor.scores(ROWS).logits, predictor.scores(turned).logits, strict=True):
        size = len(row.choices or ())
        torch.testing.assert_close(first[:size], second[:size].flip(0), rtol=1e-5, atol=1e-5)


def test_chunks_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(fitted(), speaker("decoder"))
    whole = predictor.scores(ROWS).logits
    monkeypatch.setattr(predicting, "CHUNK", 1)
    torch.testing.assert_close(predictor.scores(ROWS).logits, whole, rtol=1e-5, atol=1e-5)


def test_probabilities_are_of_the_choices_that_there_are() -> None:
    cool, warm = (
        Predictor(fitted(temperature=t), speaker("decoder")).scores(ROWS).probabilities("choice") for t in (1.0, 2.0)
    )
    torch.testing.assert_close(cool.sum(-1), torch.ones(3))
    assert cool[0, 3] == cool[1, 2] == cool[1, 3] == 0
    assert (cool.argmax(-1) == warm.argmax(-1)).all()
    assert (warm.amax(-1) < cool.amax(-1)).all()


def test_classes_are_asked_by_the_words_of_their_labels() -> None:
    words = replace(ASK, words={"first": "yes", "second": "no"})
    features = {"kind": "choices", "templates": [words.to_dict()], "length": 40}
    own = fitted("classification", ("first", "second"), features=features)
    rows = [Example("abc"), Example("x y")]
    spoken = [Example(row.text, choices=("yes", "no")) for row in rows]
    expected = Predictor(fitted(), speaker("decoder")).scores(spoken).logits
    torch.testing.assert_close(Predictor(own, speaker("decoder")).scores(rows).logits, expected)


def test_prompts_are_cut_to_the_length_of_the_fit() -> None:
    long = [replace(ROWS[0], text="abc " * 30)]
    with pytest.warns(HandfulWarning, match="fit into 40 tokens"):
        found = asked_in_words(fitted(), speaker("decoder"))(long, 1)
    short = [replace(ROWS[0], text="abc " * 6)]
    with pytest.warns(HandfulWarning, match="Cut"):
        batch = encode_choices(speaker("decoder"), long, (), ASK, limit=40)
    torch.testing.assert_close(found, predict(model(), fitted().params, batch, batch.inputs["targets"].shape[1]))
    assert found.shape == asked_in_words(fitted(), speaker("decoder"))(short, 1).shape


def test_a_wrong_row_is_named_by_its_place_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "CHUNK", 2)
    rows = [*ROWS, replace(ROWS[0], choices=("yes", ""))]
    with pytest.raises(DataError, match="row 4"):
        Predictor(fitted(), speaker("decoder")).scores(rows)


def test_another_backbone_is_refused() -> None:
    with pytest.raises(ArtifactError, match="these weights are"):
        Predictor(fitted(), speaker("encoder-decoder"))
    blind = replace(speaker("encoder"), fingerprint=fitted().fingerprint)
    with pytest.raises(BackboneError, match="output layer"):
        Predictor(fitted(), blind)


def test_widening() -> None:
    found = widened(torch.zeros(2, 2), 4)
    assert found.tolist() == [[0, 0, INFINITE, INFINITE]] * 2
    assert widened(found, 4) is not None
    assert torch.equal(widened(found, 4), found)


@pytest.mark.parametrize(
    ("rows", "kind", "found"),
    [
        ([ROWS[0], Example("bare")], "choice", "Row 2 brings no choices."),
        ([Example("bare"), Example("bare"), ROWS[0]], "classification", "Row 3 brings choices of its own."),
    ],
)
def test_rows_must_be_of_the_kind_of_the_task(rows: list[Example], kind: str, found: str) -> None:
    with pytest.raises(DataError) as caught:
        check_choices_given(rows, kind, "asked")
    assert (caught.value.asked, caught.value.found) == ("The task 'asked' was to be asked.", found)
    with pytest.raises(DataError):
        Predictor(fitted(kind, ("a", "b")), speaker("decoder")).scores(rows)  # type: ignore[arg-type]


def test_rows_that_are_of_the_kind_pass() -> None:
    check_choices_given(ROWS, "choice", "asked")
    check_choices_given([Example("bare")], "classification", "asked")
    check_choices_given([], "choice", "asked")
