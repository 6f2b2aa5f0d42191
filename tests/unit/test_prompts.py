"""From examples to inputs: templates, pairs, lengths, marked spans and targets."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from handful.backbone import from_model
from handful.errors import BackboneError, DataError, HandfulWarning
from handful.prompts import encode, mark_names, render, targets
from handful.types import Batch, Example, Task
from tiny import TINY
from tinytext import tiny_text

WORDS = tiny_text().tokenizer


def read(batch: Batch, row: int = 0) -> str:
    assert WORDS is not None
    pieces = WORDS.convert_ids_to_tokens(batch.inputs["input_ids"][row].tolist())
    kept = [p for p, real in zip(pieces, batch.inputs["attention_mask"][row].tolist(), strict=True) if real]
    return " ".join(kept).replace(" ##", "")


@pytest.mark.parametrize(
    ("template", "pair", "expected"),
    [
        (None, None, ("a", None)),
        (None, "b", ("a", "b")),
        ("q: {text}", "b", ("q: a", "b")),
        ("{text} so {text_pair}", "b", ("a so b", None)),
        ("{text_pair}{text}", None, ("a", None)),
        ("{other} {text}", None, ("{other} a", None)),
    ],
)
def test_templates(template: str | None, pair: str | None, expected: tuple[str, str | None]) -> None:
    assert render(Example("a", pair), template) == expected


def test_braces_in_a_text_are_its_own() -> None:
    assert render(Example("{text_pair} {0}", "b"), "{text}!")[0] == "{text_pair} {0}!"
    assert render(Example("{text_pair}", "b"), "{text} {text_pair}")[0] == "{text_pair} b"


def test_rows_are_padded_on_the_right() -> None:
    batch = encode(tiny_text(), [Example("ab"), Example("a"), Example("ab c d")])
    assert batch.inputs["attention_mask"].sum(1).tolist() == [4, 3, 6]
    assert (batch.inputs["attention_mask"].diff(dim=1) <= 0).all()
    assert [read(batch, row) for row in range(3)] == ["[CLS] ab [SEP]", "[CLS] a [SEP]", "[CLS] ab c d [SEP]"]
    assert batch.row_mask.all()


def test_pairs_and_templates_reach_the_tokenizer() -> None:
    rows = [Example("one", "two")]
    assert read(encode(tiny_text(), rows)) == "[CLS] one [SEP] two [SEP]"
    assert read(encode(tiny_text(), rows, template="{text_pair}, {text}?")) == "[CLS] two , one ? [SEP]"


def test_a_text_that_just_fits_is_not_called_cut() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = encode(tiny_text(), [Example("a " * 62)])
    assert batch.inputs["input_ids"].shape == (1, 64)


def test_long_texts_are_cut_with_one_warning() -> None:
    with pytest.warns(HandfulWarning) as said:
        batch = encode(tiny_text(), [Example("a " * 63), Example("b"), Example("c " * 500, None)])
    assert [str(each.message) for each in said] == ["Cut 2 of 3 texts to the 64 tokens that tiny reads."]
    assert batch.inputs["input_ids"].shape == (3, 64)
    with pytest.warns(HandfulWarning, match="Cut 1 of 1 texts"):
        encode(tiny_text(), [Example("a " * 40, "b " * 40)])


def test_what_cannot_be_encoded() -> None:
    with pytest.raises(DataError, match="There are none"):
        encode(tiny_text(), [])
    with pytest.raises(DataError, match="Row 2 has no second text"):
        encode(tiny_text(), [Example("a", "b"), Example("a")])
    with pytest.raises(BackboneError, match="It has no tokenizer"):
        encode(from_model(TINY["bert"]()), [Example("a")])
    with pytest.raises(BackboneError, match="It reads no text"):
        encode(from_model(TINY["vit"]()), [Example("a")])


def test_a_tokenizer_without_padding_uses_its_end() -> None:
    from tinytext import tokenizer

    words = tokenizer()
    words.pad_token, words.eos_token = None, "[SEP]"
    batch = encode(replace(tiny_text(), tokenizer=words), [Example("a"), Example("a b c")])
    assert batch.inputs["input_ids"][0, -1] == 3
    assert batch.inputs["attention_mask"].sum(1).tolist() == [3, 5]


MARKED = [Example("[e1]ab[/e1] is in [e2]c d[/e2]"), Example("so [e2]x[/e2] and <e1>y z</e1>")]


def test_spans_that_every_text_marks() -> None:
    assert mark_names(MARKED) == ("e1", "e2")
    assert mark_names([*MARKED, Example("only [e2]this[/e2]")]) == ("e2",)
    assert mark_names([*MARKED, Example("none [e1] or [e2]")]) == ()
    assert mark_names([]) == ()
    assert mark_names([Example("a", "b")], "[t]{text}[/t] {text_pair}") == ("t",)


def test_tokens_of_a_span_are_marked() -> None:
    batch = encode(tiny_text(), MARKED, marks=("e1", "e2"))
    marks = batch.inputs["marks"]
    assert marks.shape == batch.inputs["input_ids"].shape
    for row, (first, second) in enumerate([("ab", "cd"), ("yz", "x")]):
        for number, inside in ((1, first), (2, second)):
            held = Batch(
                {"input_ids": batch.inputs["input_ids"], "attention_mask": (marks == number).long()}, batch.row_mask
            )
            letters = "".join(c for c in read(held, row) if c.isalnum())
            assert inside in letters
            other = second if number == 1 else first
            assert other not in letters
    assert (marks[batch.inputs["attention_mask"] == 0] == 0).all()


def test_only_the_first_text_is_marked() -> None:
    batch = encode(tiny_text(), [Example("[e1]a[/e1]", "[e1]b[/e1] c")], marks=("e1",))
    second = batch.inputs["input_ids"][0].tolist().index(3) + 1
    assert (batch.inputs["marks"][0, second:] == 0).all()
    assert (batch.inputs["marks"][0, :second] == 1).any()


def test_targets_are_in_the_order_of_the_labels() -> None:
    rows = [Example("a", None, "x"), Example("b", None, "y"), Example("c", None, "x")]
    assert targets(Task("t", rows, ("y", "x"))).tolist() == [1, 0, 1]
    several = [Example("a", None, ("x", "y")), Example("b", None, ()), Example("c", None, ("y",)), Example("d")]
    assert targets(Task("t", several, ("y", "x"), "multilabel")).tolist() == [[1, 1], [0, 0], [1, 0], [0, 0]]


def test_targets_of_the_other_kind() -> None:
    one = [Example("a", None, "long name"), Example("b", None, "y")]
    labels = ("y", "long name")
    assert targets(Task("t", one, labels, "multilabel")).tolist() == [[0, 1], [1, 0]]
    assert targets(Task("t", [Example("a", None, ("y",)), *one], labels)).tolist() == [0, 1, 0]
    for label in (("y", "long name"), ()):
        with pytest.raises(DataError, match=f"Row 1 has {len(label)}"):
            targets(Task("t", [Example("a", None, label)], labels))


def test_everything_lies_where_the_backbone_does() -> None:
    batch = encode(tiny_text(), [Example("a")])
    assert {value.device for value in batch.inputs.values()} == {tiny_text().device} == {torch.device("cpu")}
