"""Prompts and their choices as backbones read them: in tokens, in one row or beside each other, and cut by rule."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers as tr
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from handful.attach import attach
from handful.backbone import Backbone, from_model, load
from handful.choice_losses import mean_logp, sum_logp
from handful.choices import NOTHING, Spoken, encode_choices, framed, speak, together
from handful.chooser import Chooser, Ranker
from handful.errors import BackboneError, DataError, HandfulWarning, MethodError
from handful.methods import method
from handful.packing import ANSWER
from handful.templates import Template
from handful.types import Example
from handful.vocabulary import vocabulary
from tiny import TINY
from tinytext import FACE, SPEAKERS, save_speaker, speaker, speller, tiny_text

PLAIN = Template(prompt="{{ text }}")
ROWS = [
    Example("Is it so?", choices=("yes", "no", "it may be")),
    Example("Rain.", choices=("he got wet.", "he sang. |")),
]
KINDS = pytest.mark.parametrize("kind", SPEAKERS)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Backbones with their language models, as they are on disk."""

    @cache
    def of(kind: str) -> tuple[Backbone, Any]:
        folder = save_speaker(kind, tmp_path_factory.mktemp(kind))
        heads: dict[str, Any] = {
            "decoder": tr.AutoModelForCausalLM,
            "encoder-decoder": tr.AutoModelForSeq2SeqLM,
            "encoder": tr.AutoModelForMaskedLM,
        }
        return load(folder), heads[kind].from_pretrained(folder).eval()

    return of


def spoken(kind: str, example: Example, template: Template = PLAIN, *, limit: int = 64, end: bool = True) -> Spoken:
    (row,) = speak(speaker(kind), [example], (), template, limit=limit, end=end)
    return row


def text(ids: Any, kind: str = "decoder") -> str:
    return speller(kind).decode([int(i) for i in ids])


# -- in tokens ---------------------------------------------------------------------------------------------------------


def test_a_decoder_goes_on_from_the_prompt() -> None:
    for row in ROWS:
        found = spoken("decoder", row)
        assert text(found.prompt) == row.text
        assert [text(ids) for ids in found.choices] == [f" {choice}</s>" for choice in row.choices or ()]
        for ids, choice in zip(found.choices, row.choices or (), strict=True):  # as if written in one go
            assert [*found.prompt, *ids] == [*speller()(f"{row.text} {choice}")["input_ids"], 3]


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_choice() -> None:
    found = spoken("encoder-decoder", ROWS[0])
    assert text(found.prompt) == "Is it so?</s>"
    assert [text(ids) for ids in found.choices] == ["yes</s>", "no</s>", "it may be</s>"]


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_without_an_end(kind: str) -> None:
    with_, without = spoken(kind, ROWS[0]), spoken(kind, ROWS[0], end=False)
    assert without.prompt == with_.prompt
    assert [(*ids, 3) for ids in without.choices] == list(with_.choices)


def test_an_encoder_fills_in_the_last_word_or_where_it_is_told() -> None:
    row = Example("So:", choices=("yes", "no"))
    for prompt, said in (("{{ text }}", "<s>So: <mask></s>"), ("<mask> {{ text }}", "<s><mask> So:</s>")):
        found = spoken("encoder", row, Template(prompt=prompt))
        assert text(found.prompt) == said
        assert [text(ids) for ids in found.choices] == [" yes", " no"]
        batch = together(speaker("encoder"), [found])
        assert batch.inputs["source"].tolist() == [[[found.prompt.index(4)]] * 2]
    with pytest.raises(BackboneError, match="'x' is not one token"):
        spoken("encoder", replace(row, choices=("yes", "x")))


def test_a_prompt_that_ends_with_a_space_keeps_its_tokens() -> None:
    found = spoken("decoder", Example("n: ", choices=("no", "yes")))
    assert speller()("n: no")["input_ids"][: len(found.prompt)] != list(found.prompt)  # " no" is one token
    assert text(found.prompt) == "n: "
    assert [text(ids) for ids in found.choices] == ["no</s>", "yes</s>"]


def test_spaces_around_choices_do_not_count() -> None:
    first, second = (spoken("decoder", Example("a", choices=own)) for own in (("b", "c"), (" b", "c\n")))
    assert first == second


@pytest.mark.parametrize("labels", [(), ("a", "b")])
def test_choices_of_the_row_come_before_those_of_the_task(labels: tuple[str, ...]) -> None:
    own, task = (Example("x", choices=("c", "d")), Example("x"))
    (found,) = speak(speaker("decoder"), [own], labels, PLAIN, limit=64, end=False)
    assert [text(ids) for ids in found.choices] == [" c", " d"]
    if labels:
        (found,) = speak(speaker("decoder"), [task], labels, PLAIN, limit=64, end=False)
        assert [text(ids) for ids in found.choices] == [" a", " b"]


def test_the_words_of_labels() -> None:
    template = Template(prompt="{{ text }}", words={"0": "no", "1": "yes"}, answer="{{ choice }}!")
    (found,) = speak(speaker("decoder"), [Example("x")], ("0", "1"), template, limit=64, end=False)
    assert [text(ids) for ids in found.choices] == [" no!", " yes!"]


# -- a chat ------------------------------------------------------------------------------------------------------------


def test_a_chat_is_in_the_decoder_s_own_format() -> None:
    chat = Template(prompt="{{ text }}", chat=True)
    said = framed(speaker("decoder"), "so", chat)
    assert said == "<user>so<bot>"
    found = spoken("decoder", Example("so", choices=("yes", "no")), chat)
    assert found.prompt == tuple(speller()(said, add_special_tokens=False)["input_ids"])
    assert [text(ids) for ids in found.choices] == ["yes</s>", "no</s>"]  # no space: the answer begins a turn


def test_what_has_no_chat() -> None:
    with pytest.raises(BackboneError) as caught:
        spoken("encoder-decoder", ROWS[0], Template(prompt="{{ text }}", chat=True, name="told"))
    assert "'told' is a chat's" in caught.value.asked
    assert "without chat" in caught.value.todo


# -- as inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_targets_hold_every_choice_and_nothing_else(kind: str) -> None:
    backbone = speaker(kind)
    batch = encode_choices(backbone, ROWS, (), PLAIN)
    targets = batch.inputs["targets"]
    rows = speak(backbone, ROWS, (), PLAIN, limit=64, end=True)
    assert targets.shape == (2, 3, max(len(ids) for row in rows for ids in row.choices))
    for b, row in enumerate(rows):
        assert [tuple(ids[ids != NOTHING].tolist()) for ids in targets[b]] == [*row.choices, ()][:3]
    assert batch.row_mask.tolist() == [True, True]


def test_a_decoder_s_row_holds_the_prompt_once() -> None:
    row = Spoken((5, 6, 7), ((8, 9, 3), (10, 3)))
    batch = together(speaker("decoder"), [row, Spoken((5,), ((8,),))])
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10], [5, 0, 0, 0, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1] * 6, [1, 0, 0, 0, 0, 0]]
    assert batch.inputs[ANSWER].tolist() == [[0, 0, 0, 1, 1, 2], [0] * 6]
    assert batch.inputs["source"][0].tolist() == [[2, 3, 4], [2, 5, 0]]


def test_an_encoder_decoder_s_choices_begin_with_its_start() -> None:
    batch = together(speaker("encoder-decoder"), [Spoken((5, 6, 3), ((8, 9, 3), (10, 3))), Spoken((5, 3), ((8, 3),))])
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 3], [5, 3, 0]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[[0, 8, 9], [0, 10, 0]], [[0, 8, 0], [0, 0, 0]]]
    assert batch.inputs["decoder_attention_mask"].tolist() == [[[1, 1, 1], [1, 1, 0]], [[1, 1, 0], [0, 0, 0]]]


@KINDS
def test_scores_are_those_of_the_language_model_on_each_choice_alone(kind: str, loaded: Any) -> None:
    backbone, model = loaded(kind)
    rows = [Example(row.text, choices=("yes", "no")) for row in ROWS] if kind == "encoder" else ROWS
    template = Template(prompt="{{ text }}<mask>") if kind == "encoder" else PLAIN
    chooser = Chooser(attach(backbone, method("ia3")), vocabulary(backbone))
    with torch.no_grad():
        batch = encode_choices(backbone, rows, (), template)
        logp = chooser(chooser.adapted.init(0), batch)
        for b, row in enumerate(speak(backbone, rows, (), template, limit=64, end=True)):
            for c, ids in enumerate(row.choices):
                expected = alone(kind, model, row.prompt, ids)
                torch.testing.assert_close(logp[b, c, : len(ids)], expected, rtol=1e-4, atol=1e-5)
                assert bool((logp[b, c, len(ids) :] == float("-inf")).all())
        for normalised in (True, False):
            scores = Ranker(chooser.adapted, chooser.words, normalised)(chooser.adapted.init(0), batch)
            torch.testing.assert_close(scores, mean_logp(logp) if normalised else sum_logp(logp))


def alone(kind: str, model: Any, prompt: tuple[int, ...], ids: tuple[int, ...]) -> Tensor:
    """Log-probabilities of the tokens of one choice, by the language model itself."""
    target = torch.tensor(ids)
    if kind == "decoder":
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    elif kind == "encoder":
        logits = model(input_ids=torch.tensor([prompt])).logits[0, [prompt.index(4)]]
    else:
        logits = model(input_ids=torch.tensor([prompt]), labels=target[None]).logits[0]
    return logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]


# -- cutting -----------------------------------------------------------------------------------------------------------

LONG = Template(prompt="Q {{ question }} C {{ passage }} A", cut="passage")
FIELDS = {"question": "who?", "passage": "one two three four five six seven eight nine ten eleven"}


def cut_row(
    limit: int, template: Template = LONG, fields: dict[str, str] | None = None, kind: str = "decoder"
) -> Spoken:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HandfulWarning)
        return spoken(kind, Example("x", fields=fields or FIELDS, choices=("yes", "no way")), template, limit=limit)


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("limit", [24, 25, 33, 40, 64])
def test_only_the_template_s_column_is_cut_and_to_no_more_than_fits(limit: int, kind: str) -> None:
    whole, found = (
        spoken(kind, Example("x", fields=FIELDS, choices=("yes", "no way")), LONG, limit=999),
        cut_row(limit, kind=kind),
    )
    after = max(map(len, found.choices)) if kind == "decoder" else 0
    assert len(found.prompt) + after <= limit
    assert found.choices == whole.choices
    said = text(found.prompt).removesuffix("</s>")
    kept = said.removeprefix("Q who? C ").removesuffix(" A")
    assert said == f"Q who? C {kept} A"
    assert FIELDS["passage"].startswith(kept)
    assert len(FIELDS["passage"]) - len(kept) == found.cut
    assert limit - len(found.prompt) - after <= 1  # a space at the end goes too


def test_without_a_rule_the_longest_column_of_the_template_is_cut() -> None:
    template = Template(prompt="{{ question }} {{ passage }}")
    assert "who?" in text(cut_row(20, template).prompt)
    swapped = {"question": FIELDS["passage"], "passage": "who?", "ques": "not asked for " * 9}
    found = text(cut_row(20, template, swapped).prompt)
    assert found.startswith("one")
    assert found.endswith("who?")


@given(st.text("ab \n" + FACE, max_size=30), st.integers(12, 24))
def test_cutting_ends_whatever_is_written(passage: str, limit: int) -> None:
    """A character of several tokens is cut whole, and not tried for ever."""
    found = cut_row(limit, Template(prompt="{{ passage }}: "), {"passage": passage})
    assert len(found.prompt) + max(map(len, found.choices)) <= limit
    assert passage.startswith(text(found.prompt).removesuffix(": "))


def test_what_was_cut_is_said_once() -> None:
    rows = [Example(own, choices=("yes", "no")) for own in ("a" * 50, "short", "b" * 60)]
    with pytest.warns(HandfulWarning) as caught:
        encode_choices(speaker("decoder"), rows, (), PLAIN, limit=30)
    assert [str(w.message) for w in caught] == ["Cut their longest column of 2 of 3 prompts to fit into 30 tokens."]


def test_a_prompt_that_cannot_be_cut_is_named() -> None:
    rows = [Example("a", choices=("yes", "no")), Example("b" * 40, choices=("yes", "no"))]
    for template in (Template(prompt="{{ text }}" + "so " * 10), Template(prompt="{{ text }}", cut="other")):
        with pytest.raises(DataError) as caught:
            speak(speaker("decoder"), rows, (), template, limit=20, end=True)
        assert caught.value.asked.startswith("The prompt of row 2" if template.cut else "The prompt of row 1")
        assert "too many" in caught.value.found


def test_the_limit_is_the_backbone_s_own() -> None:
    row = Example("a" * 70, choices=("yes", "no"))
    with pytest.warns(HandfulWarning, match="64 tokens"):
        batch = encode_choices(speaker("decoder"), [row], (), PLAIN)
    assert batch.inputs["input_ids"].shape[1] <= 64 + 2  # each choice's tokens follow the same prompt


# -- what scores no words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "found"),
    [
        (lambda: from_model(TINY["vit"]()), "It reads no text alone."),
        (lambda: from_model(TINY["clip"](), speller()), "It reads no text alone."),
        (lambda: from_model(TINY["whisper"](), speller()), "It reads no text alone."),
        (lambda: from_model(TINY["gpt2"]()), "It has no tokenizer."),
        (tiny_text, "Its tokenizer has no mask to fill in."),
    ],
)
def test_backbones_that_score_no_words(backbone: Any, found: str) -> None:
    with pytest.raises(BackboneError) as caught:
        encode_choices(backbone(), ROWS, (), PLAIN)
    assert caught.value.found == found
    assert caught.value.todo


def test_a_method_that_looks_ahead_scores_no_words() -> None:
    backbone = speaker("decoder")
    with pytest.raises(MethodError) as caught:
        Chooser(attach(backbone, method("losa")), vocabulary(backbone))
    assert "those that follow" in caught.value.found


@pytest.mark.parametrize("choices", [("a", ""), ("a", " a"), ("a",)])
def test_choices_that_cannot_be_told_apart_are_named_with_their_row(choices: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="row 2"):
        encode_choices(speaker("decoder"), [ROWS[0], Example("x", choices=choices)], (), PLAIN)
