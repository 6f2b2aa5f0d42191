"""Tasks with choices, and tasks answered in words, on the command line: what is printed, kept and refused."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from commandline import call
from handful import artifact as artifacts
from handful import choicecommands, commands
from handful.errors import HandfulWarning
from handful.types import Example, Task
from tinytext import save_speaker, save_tiny, words_of

QUICK = "tfew:steps=2"
LEARNED = "tfew:steps=50:lr=0.1"
DEFINITION = """\
kind: choice
text: premise
choices: [first, second]
label: right
templates:
  - {name: bare, prompt: "{{ premise }}"}
  - {name: asked, prompt: "{{ hint }} {{ premise }} so"}
"""


def rows(each: int = 8, seed: int = 0) -> list[dict[str, Any]]:
    """Choices in turn, two or three of them; the letters of a row say which is right."""
    found = list[dict[str, Any]]()
    for c, right in enumerate(("yes", "no")):
        for i, text in enumerate(words_of(c, each, seed)):
            choices = ["yes", "no"] if i % 2 else ["no", "it is off", "yes"]
            found.append({"text": text, "choices": choices, "answer": choices.index(right)})
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with rows, a definition, a decoder that scores words and an encoder that does not."""
    folder = tmp_path_factory.mktemp("choices")
    for name, seed in {"train": 0, "test": 1}.items():
        write(folder / f"{name}.jsonl", rows(seed=seed))
        named = [
            {"premise": own["text"], "hint": "well", "first": "yes", "second": "no", "right": int(i >= 8)}
            for i, own in enumerate(rows(seed=seed))
        ]
        write(folder / f"{name}_named.jsonl", named)
        lines = [f"{text},{label}" for c, label in enumerate(("up", "down")) for text in words_of(c, 8, seed)]
        (folder / f"{name}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    (folder / "own.yaml").write_text(DEFINITION)
    save_speaker("decoder", folder / "decoder")
    save_tiny(folder / "tiny")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        yield folder
    torch.set_num_threads(threads)


def write(path: Path, content: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


def done(*arguments: object) -> str:
    status, out, err = call(*arguments, columns=120)
    assert status == 0, err
    return out


def lines(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done("predict", *arguments).splitlines()]


@pytest.fixture(scope="module")
def chosen(place: Path) -> dict[str, Any]:
    """A choice task that was learned, and what its fit printed."""
    return json.loads(done(
        "fit", "train.jsonl", "--backbone", "decoder", "--recipe", LEARNED, "--template", "{{ text }}:",
        "--out", "chosen", "--json",
    ))  # fmt: skip


@pytest.fixture(scope="module")
def defined(place: Path) -> Path:
    """A task that was fitted through a definition which is gone."""
    (place / "gone.yaml").write_text(DEFINITION)
    done(
        "fit", "train_named.jsonl", "-d", "gone.yaml", "--backbone", "decoder", "--recipe", LEARNED, "--out", "defined"
    )
    (place / "gone.yaml").unlink()
    return place / "defined"


# -- rows with choices -------------------------------------------------------------------------------------------------


def test_a_fit(chosen: dict[str, Any]) -> None:
    assert (chosen["classes"], chosen["rows"], chosen["estimate"]) == ([], 16, None)
    fitted = artifacts.load("chosen")
    assert (fitted.kind, fitted.labels, fitted.definition) == ("choice", ("1", "2", "3"), None)
    assert chosen["bytes_on_disk"] == artifacts.size_on_disk("chosen")


@pytest.mark.parametrize("labelled", [True, False])
def test_answers(chosen: dict[str, Any], place: Path, labelled: bool) -> None:
    asked = rows(seed=1)
    write(place / "asked.jsonl", [own if labelled else {k: own[k] for k in ("text", "choices")} for own in asked])
    found = lines("chosen", "asked.jsonl")
    for row, own in zip(asked, found, strict=True):
        assert own.keys() == {"label", "choice", "scores"}
        assert list(own["scores"]) == row["choices"]
        assert sum(own["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert own["label"] == row["choices"][own["choice"]] == max(own["scores"], key=own["scores"].get)
    right = sum(own["choice"] == row["answer"] for row, own in zip(asked, found, strict=True))
    assert right >= 14
    measured = json.loads(done("evaluate", "chosen", "test.jsonl", "--json"))
    assert (measured["n"], measured["correct"]) == (16, right)
    assert measured["accuracy"]["value"] == right / 16
    assert measured["accuracy"]["low"] < right / 16 <= measured["accuracy"]["high"]
    assert not {"per_class", "macro_f1"} & measured.keys()


def test_answers_to_a_file(chosen: dict[str, Any], place: Path) -> None:
    assert done("predict", "chosen", "test.jsonl", "--out", "said.jsonl") == ""
    assert [json.loads(line) for line in (place / "said.jsonl").read_text().splitlines()] == lines(
        "chosen", "test.jsonl"
    )


def test_people_read_a_table(chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    for module in (commands, choicecommands):
        monkeypatch.setattr(module, "out_console", screen)
    done("predict", "chosen", "test.jsonl")
    done("evaluate", "chosen", "test.jsonl")
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    head, first, *_ = shown.splitlines()
    assert head.split() == ["text", "choice", "probability"]
    assert first.split()[-1].startswith(("0.", "1."))
    assert "of 16 right" in shown
    assert "accuracy" in shown
    assert "90% interval" in shown
    assert "class" not in shown
    assert "macro" not in shown


def test_info_and_card(chosen: dict[str, Any], place: Path) -> None:
    told = json.loads(done("info", "chosen", "--json"))
    assert (told["kind"], told["classes"], told["prompt"]) == ("choice", [], "{{ text }}:")
    assert told["choices"] == "each row's own, at most 3 in training"
    assert "definition" not in told
    assert "{{ text }}:" in done("info", "chosen")
    card = (place / "chosen" / "README.md").read_text()
    assert "It chooses one of the answers that a row brings" in card
    assert "\n    {{ text }}:\n" in card
    assert "classes" not in card


def test_progress_speaks_of_choices_and_shots_count_rows() -> None:
    task = Task("t", [Example(str(i), label="a", choices=("a", "b")) for i in range(9)], (), "choice")
    assert choicecommands.counted(task) == "9 rows with choices"
    assert choicecommands.drawn(task, None, 0) is task
    few = choicecommands.drawn(task, 4, 0)
    assert len(few.examples) == 4
    assert few == choicecommands.drawn(task, 4, 0) != choicecommands.drawn(task, 4, 1)
    with pytest.warns(HandfulWarning, match="t has 9 rows, fewer than 12"):
        assert len(choicecommands.drawn(task, 12, 0).examples) == 9
    classes = Task("c", [Example(str(i), label="ab"[i % 2]) for i in range(8)], ("a", "b"))
    assert choicecommands.counted(classes) == "8 rows of 2 classes"
    assert len(choicecommands.drawn(classes, 2, 0).examples) == 4


def test_a_fit_of_a_few_rows_with_folds(place: Path) -> None:
    out = done(
        "fit", "train.jsonl", "--shots", 9, "--backbone", "decoder", "--recipe", f"{QUICK}:num_folds=2", "--out", "few",
        "--template", "{{ text }}",
    )  # fmt: skip
    assert "measured" in out
    assert "on 9 rows" in out
    assert "macro" not in out


# -- classes in words --------------------------------------------------------------------------------------------------


def test_a_plain_csv_in_words(place: Path) -> None:
    done(
        "fit", "train.csv", "--backbone", "decoder", "--recipe", LEARNED, "--template", "{{ text }} is",
        "--out", "words",
    )  # fmt: skip
    found = lines("words", "test.csv")
    assert all(own.keys() == {"label", "scores"} and list(own["scores"]) == ["up", "down"] for own in found)
    assert sum(own["label"] == label for own, label in zip(found, ["up"] * 8 + ["down"] * 8, strict=True)) >= 14
    measured = json.loads(done("evaluate", "words", "test.csv", "--json"))
    assert measured["per_class"].keys() == {"up", "down"}
    assert measured["accuracy"]["value"] >= 14 / 16
    told = json.loads(done("info", "words", "--json"))
    assert (told["classes"], told["prompt"]) == (["up", "down"], "{{ text }} is")


def test_a_template_may_ask_for_any_column(place: Path) -> None:
    (place / "wide.csv").write_text("mood,text,label\nwell,abc,up\nwell,fgh,down\noh,cba,up\noh,hgf,down\n")
    done(
        "fit", "wide.csv", "--backbone", "decoder", "--recipe", QUICK, "--template", "{{ mood }} {{ text }}",
        "--out", "wide",
    )  # fmt: skip
    (place / "ask.csv").write_text("text,mood\nabc,well\n")
    assert len(lines("wide", "ask.csv")) == 1
    (place / "bare.csv").write_text("text\nabc\n")
    status, _, err = call("predict", "wide", "bare.csv")
    assert status == 2
    assert "row 1" in err
    assert "'mood' is undefined" in err


# -- definitions -------------------------------------------------------------------------------------------------------


def test_a_task_keeps_the_definition_that_it_was_fitted_through(defined: Path) -> None:
    fitted = artifacts.load(defined)
    assert fitted.definition is not None
    assert (fitted.definition["name"], fitted.definition["choices"]) == ("gone", ["first", "second"])
    assert [own["name"] for own in fitted.features["templates"]] == ["bare", "asked"]
    found = lines("defined", "test_named.jsonl")
    assert sum(own["choice"] == int(i >= 8) for i, own in enumerate(found)) >= 14
    assert all(list(own["scores"]) == ["yes", "no"] for own in found)
    measured = json.loads(done("evaluate", "defined", "test_named.jsonl", "--json"))
    assert measured["correct"] >= 14
    assert json.loads(done("info", "defined", "--json"))["definition"] == "gone"
    assert "task definition `gone`" in (defined / "README.md").read_text()


def test_another_definition_may_take_its_place(defined: Path, place: Path) -> None:
    (place / "turned.yaml").write_text(DEFINITION.replace("[first, second]", "[second, first]"))
    first, second = (lines("defined", "test_named.jsonl", *more) for more in ((), ("-d", "turned.yaml")))
    assert [own["label"] for own in first] == [own["label"] for own in second]
    assert [1 - own["choice"] for own in first] == [own["choice"] for own in second]


def test_rows_that_are_not_as_the_definition_says(defined: Path) -> None:
    status, _, err = call("predict", "defined", "test.csv")
    assert status == 2
    assert "'gone' was to read test.csv" in err
    assert "The task was fitted through this definition; --text COLUMN, or -d, read rows otherwise." in err
    status, _, err = call("predict", "defined", "test_named.jsonl", "--text", "premise")
    assert status == 2
    assert "Row 1 brings no choices." in err


def test_one_of_the_definition_s_templates(place: Path) -> None:
    done(
        "fit", "train_named.jsonl", "-d", "own.yaml", "--template", "asked", "--backbone", "decoder", "--recipe", QUICK,
        "--out", "asked",
    )  # fmt: skip
    fitted = artifacts.load("asked")
    assert [own["name"] for own in fitted.features["templates"]] == ["asked"]
    status, _, err = call("predict", "asked", "test_named.jsonl")
    assert status == 0, err


def test_a_folder_of_a_definition_s_name_is_not_the_definition(place: Path) -> None:
    (place / "copa").mkdir()
    rows = [{"premise": "a.", "choice1": "b", "choice2": "c", "question": "cause", "label": i % 2} for i in range(4)]
    write(place / "copa.jsonl", rows)
    assert "because" in done("prompt", "copa", 1, "--data", "copa.jsonl")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train.jsonl",), ("recipe default", "every row has its own choices", "recipe tfew")),
        (("train.jsonl", "--recipe", "lora"), ("recipe lora", "choice task")),
        (("train.jsonl", "--recipe", "probe"), ("recipe probe", "choice task")),
        (("train.csv", "--template", "{{ text }}"), ("is a prompt", "{text}")),
        (("train.csv", "--recipe", QUICK, "--template", "so: {text}"), ("so: {text}", "{{ text }}")),
        (
            ("train.csv", "--recipe", QUICK, "--template", "{{ text }}" + "x" * 70),
            ("row 1", "64 tokens", "Shorten the template"),
        ),
        (("train.csv", "--recipe", QUICK, "--template", "{{ nope }}"), ("row 1", "'nope' is undefined")),
        (("train.csv", "--recipe", QUICK, "--template", "{{ text.__class__ }}"), ("row 1", "unsafe")),
        (("train.csv", "--recipe", QUICK, "--template", "{{ text"), ("Line 1",)),
        (("train.csv", "--recipe", "tfew:losses=rm", "--template", "{{ text }}"), ("'rm' is none of lm, ul, ln",)),
        (("train_named.jsonl", "-d", "own.yaml", "--template", "x", "--recipe", QUICK), ("'x'", "bare, asked")),
        (
            ("train.csv", "--recipe", QUICK, "--template", "{{ text }}", "--backbone", "tiny"),
            ("lack the output layer",),
        ),
        (("wrong.jsonl", "--recipe", QUICK), ("Line 2", "7 is out of range")),
        (("empty.jsonl", "--recipe", QUICK), ("Line 1", "choice 2 is empty")),
    ],
)
def test_a_mistake_is_a_message(place: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    write(place / "wrong.jsonl", [*rows()[:1], {**rows()[1], "answer": 7}])
    write(place / "empty.jsonl", [{**rows()[0], "choices": ["no", " ", "yes"]}])
    more = () if "--backbone" in arguments else ("--backbone", "decoder")
    status, out, err = call("fit", *arguments, *more, "--out", "never")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not (place / "never").exists()


def test_rows_of_another_kind_are_named(chosen: dict[str, Any], place: Path) -> None:
    for command in ("predict", "evaluate"):
        status, _, err = call(command, "chosen", "test.csv")
        assert status == 2
        assert "Row 1 brings no choices." in err
    write(place / "unknown.jsonl", [*rows()[:2], {**rows()[2], "answer": "elsewhere"}])
    status, _, err = call("evaluate", "chosen", "unknown.jsonl")
    assert status == 2
    assert "Line 3: 'elsewhere' is none of its choices" in err


def test_a_task_in_words_is_not_exported(chosen: dict[str, Any]) -> None:
    status, _, err = call("export", "chosen", "--out", "exported")
    assert status == 2
    assert "It answers in words after a prompt" in err


def test_listing_backbones_converts_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from handful import packaged

    monkeypatch.setattr(packaged, "convert", None)
    monkeypatch.setenv("HANDFUL_CACHE", str(place / "cache"))
    names = {row["name"]: row["where"] for row in json.loads(done("backbones", "--json"))}
    assert "smollm2" in names
    assert "to be converted" in names["smollm2"] or "not installed" in names["smollm2"]
    assert not (place / "cache").exists()
