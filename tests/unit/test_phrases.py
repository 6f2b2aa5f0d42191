"""Entities and spans as rows to be typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handful.errors import DataError, RequestError
from handful.metasources import read_sources
from handful.metatasks import Supervised
from handful.phrases import typed_phrases, typed_spans
from handful.tables import read_table
from handful.types import Example, Task
from tinytags import tiny_tagging, write_conll

WORDS = ("Marie", "Curie", "left", "Warsaw", ".")
TAGGED = Task(
    "people", [Example(" ".join(WORDS), None, ("B-PER", "I-PER", "O", "B-LOC", "O"), WORDS)], ("O",), "tagging"
)


def slots(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_entities_become_rows() -> None:
    pairs, marked = (typed_phrases(TAGGED, shown) for shown in ("pair", "marked"))
    text = "Marie Curie left Warsaw ."
    assert pairs.examples == [Example(text, "Marie Curie", "PER"), Example(text, "Warsaw", "LOC")]
    assert [e.text for e in marked.examples] == [
        "[e]Marie Curie[/e] left Warsaw .", "Marie Curie left [e]Warsaw[/e] ."
    ]  # fmt: skip
    assert pairs.labels == marked.labels == ("PER", "LOC")
    assert pairs.kind == "classification"


def test_spans_become_rows(tmp_path: Path) -> None:
    spans = [{"slot": "when", "start": 8, "end": 14}, {"label": "who", "start": 0, "end": 2}]
    table = read_table(
        slots(tmp_path / "a.jsonl", [{"text": "We meet Monday", "spans": spans}, {"text": "no", "spans": []}])
    )
    found = typed_spans(table, "a", "pair")
    assert found.examples == [Example("We meet Monday", "Monday", "when"), Example("We meet Monday", "We", "who")]
    assert found.name == "a, phrases"


@pytest.mark.parametrize(
    ("span", "words"),
    [
        ({"slot": "x", "start": 5, "end": 99}, "5 to 99 of 4 characters"),
        ({"start": 0, "end": 2}, "is none"),
        ({"slot": "x", "start": 2, "end": 2}, "2 to 2"),
        ("x", "is none"),
    ],
)
def test_a_span_that_is_none_is_named_by_its_line(span: object, words: str, tmp_path: Path) -> None:
    table = read_table(slots(tmp_path / "a.jsonl", [{"text": "fine", "spans": []}, {"text": "text", "spans": [span]}]))
    with pytest.raises(DataError, match="ine 2") as caught:
        typed_spans(table, "a", "marked")
    assert words in str(caught.value)


def test_one_type_is_too_few(tmp_path: Path) -> None:
    one = [{"text": "We meet", "spans": [{"slot": "who", "start": 0, "end": 2}]}]
    with pytest.raises(DataError, match="It has 1 type of them"):
        typed_spans(read_table(slots(tmp_path / "a.jsonl", one)), "a", "pair")


def test_the_command_line_reads_them(tmp_path: Path) -> None:
    tags = write_conll(tmp_path / "tags.conll", tiny_tagging(60))
    (source,) = read_sources([f"{tags}:phrases=pair:ways=2:shots=2:query=2"]).sources
    assert isinstance(source, Supervised)
    assert set(source.task.labels) == {"X", "Y"}
    assert all(example.text_pair for example in source.draw(0).support.examples)
    for given, words in ((f"{tags}:phrases=both", "phrases=pair or"), (f"{tags}:phrases=pair:ways=9", "of 9 or more")):
        with pytest.raises((RequestError, DataError), match=words):
            read_sources([given])
    plain = tmp_path / "plain.csv"
    plain.write_text("text,label\n" + "\n".join(f"row {i},{'ab'[i % 2]}" for i in range(30)) + "\n")
    with pytest.raises(RequestError, match="neither tags nor spans"):
        read_sources([f"{plain}:phrases=pair"])
