"""`handful prompt`, and definitions on the command line: what is shown, what is exact, what is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from commandline import Done, call
from handful import artifact as artifacts
from tiny import TINY
from tinytext import save_tiny, words_of

Handful = Callable[..., Done]
ROWS = [
    {"text": "It rained [all] day.", "choices": ["He got wet.", "He sang."], "answer": 0},
    {"text": "A shirt?", "choices": ["shirt pocket", "shirt"], "answer": "shirt"},
    {"text": "long " * 60, "choices": ["yes", "no"], "answer": 1},
]
OWN = """\
kind: choice
text: text
choices: choices
label: answer
templates:
  - {name: bare, prompt: "{{ text }}"}
  - {name: asked, prompt: "Q: {{ text }} A:", cut: text}
"""
CLASSES = """\
kind: classification
text: body
label: kind
labels: [early, late]
templates:
  - prompt: "{{ body }} Is it early or late?"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with rows, definitions, and a decoder that reads bytes, 64 of them."""
    folder = tmp_path_factory.mktemp("prompt")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "own.yaml").write_text(OWN)
    (folder / "classes.yaml").write_text(CLASSES)
    for name, seed in {"train.jsonl": 0, "test.jsonl": 1}.items():
        rows = [{"body": text, "kind": c} for c in range(2) for text in words_of(c, 6, seed)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({piece: i for i, piece in enumerate(["<end>", *alphabet])}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    TINY["llama"]().save_pretrained(folder / "decoder")
    read = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", model_max_length=64)
    read.save_pretrained(folder / "decoder")
    save_tiny(folder / "tiny")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def handful(place: Path) -> Handful:
    return partial(call, columns=100)


def shown(handful: Handful, *arguments: object) -> dict[str, Any]:
    done = handful("prompt", *arguments, "--json")
    assert done.status == 0, done.err
    return done.json


def test_a_row_of_a_file_in_the_default_template(handful: Handful) -> None:
    found = shown(handful, "rows.jsonl")
    assert (found["task"], found["kind"], found["row"], found["rows"]) == ("rows", "choice", 1, 3)
    assert found["label"] == "He got wet."
    assert found["prompts"] == [
        {
            "template": "default", "prompt": "It rained [all] day.\nAnswer:", "choices": ["He got wet.", "He sang."],
            "right": [0], "tokens": None,
        }
    ]  # fmt: skip


def test_it_is_pleasant_to_read_and_brackets_are_kept(handful: Handful) -> None:
    status, out, _ = handful("prompt", "own.yaml", 1, "--data", "rows.jsonl")
    lines = [line.strip("│ \n") for line in out.splitlines()]
    assert status == 0
    assert "own, row 1 of 3, template bare" in lines[0]
    assert lines[1] == "It rained [all] day."
    assert lines[3].split() == ["→", "He", "got", "wet."]
    assert lines[4] == "He sang."
    assert lines[-1] == "There are more templates: asked. Choose one with --template, or all."


def test_templates_by_name_all_of_them_and_one_s_own(handful: Handful) -> None:
    def prompts(*given: object) -> dict[str, str]:
        found = shown(handful, "own.yaml", 1, "--data", "rows.jsonl", *given)["prompts"]
        return {one["template"]: one["prompt"] for one in found}

    assert prompts("--template", "asked") == {"asked": "Q: It rained [all] day. A:"}
    assert list(prompts("--template", "all")) == ["bare", "asked"]
    assert prompts("--template", "{{ choices | join('|') }}") == {"given": "He got wet.|He sang."}


def test_a_choice_that_begins_another_is_noted(handful: Handful) -> None:
    status, out, _ = handful("prompt", "rows.jsonl", 2)
    assert status == 0
    assert "note: 'shirt' is the beginning of 'shirt pocket'" in out


def test_tokens_are_those_that_the_backbone_gets(handful: Handful) -> None:
    found = shown(handful, "own.yaml", 1, "--data", "rows.jsonl", "--backbone", "decoder")["prompts"][0]
    tokens = found["tokens"]
    assert tokens["prompt"]["text"] == found["prompt"]
    assert len(tokens["prompt"]["ids"]) == len(found["prompt"])  # a token a byte
    assert tokens["prompt"]["pieces"][:4] == ["I", "t", "Ġ", "r"]
    assert [own["text"] for own in tokens["choices"]] == [" He got wet.<end>", " He sang.<end>"]
    assert (tokens["cut_characters"], tokens["limit"]) == (0, 64)


def test_what_is_cut_is_said(handful: Handful) -> None:
    arguments = ("own.yaml", 3, "--data", "rows.jsonl", "--template", "asked", "--backbone", "decoder")
    tokens = shown(handful, *arguments)["prompts"][0]["tokens"]
    assert len(tokens["prompt"]["ids"]) + len(" yes<end>") - len("<end>") + 1 <= 64
    assert tokens["prompt"]["text"].startswith("Q: long long")
    assert tokens["prompt"]["text"].endswith(" A:")
    status, out, _ = handful("prompt", *arguments)
    assert status == 0
    assert f"the backbone reads 64; {tokens['cut_characters']} characters cut" in " ".join(out.split())
    assert "Q : · l o n g ·" in out


def test_a_prompt_that_cannot_be_cut_enough_is_named_by_its_row(handful: Handful) -> None:
    template = "{{ text[:2] }}" + "x" * 80
    arguments = ("prompt", "rows.jsonl", 3, "--template", template, "--backbone", "decoder")
    status, _, err = handful(*arguments)
    assert status == 2
    assert "The prompt of row 3 was to be read by 'decoder', which reads 64 tokens." in err
    assert "Shorten the template" in err


def test_rows_without_labels(handful: Handful, place: Path) -> None:
    (place / "new.jsonl").write_text(json.dumps({"text": "t", "choices": ["a", "b"]}) + "\n")
    status, _, err = handful("prompt", "new.jsonl")
    assert status == 2
    assert "None is called label or answer" in err
    found = shown(handful, "new.jsonl", "--unlabelled")
    assert (found["kind"], found["label"], found["prompts"][0]["right"]) == ("choice", None, [])
    status, _, err = handful("prompt", "train.jsonl", "--unlabelled", "--text", "body")
    assert status == 2
    assert "What its labels are is not known" in err
    classes = shown(handful, "classes.yaml", "--data", "train.jsonl", "--unlabelled")
    assert classes["prompts"][0]["choices"] == ["early", "late"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("own.yaml",), ("task definition", "--data FILE")),
        (("copa",), ("task definition", "--data FILE")),
        (("nowhere.jsonl",), ("no such file",)),
        (("rows.jsonl", 4), ("Row 4", "3 rows", "1 to 3")),
        (("own.yaml", 1, "--data", "train.jsonl"), ("own", "no column", "choices")),
        (("own.yaml", 1, "--data", "rows.jsonl", "--template", "nope"), ("'nope'", "bare, asked")),
        (("own.yaml", 1, "--data", "rows.jsonl", "--text", "text"), ("--text was given too",)),
        (("rows.jsonl", 1, "--template", "{{ nope }}"), ("row 1", "'nope' is undefined", "choices")),
        (("rows.jsonl", 1, "--template", "{{ text.__class__ }}"), ("row 1", "unsafe")),
        (("rows.jsonl", 1, "--template", "{{ text"), ("'{{ text'", "Line 1")),
        (("rows.jsonl", 1, "--template", "so: {text}"), ("no such place", "{{ name }}")),
        (("rows.jsonl", 1, "--backbone", "tiny"), ("no mask",)),
    ],
)
def test_a_mistake_is_a_message(handful: Handful, arguments: tuple[object, ...], words: tuple[str, ...]) -> None:
    status, out, err = handful("prompt", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_a_definition_is_what_fit_predict_and_evaluate_read_through(handful: Handful) -> None:
    status, _, err = handful(
        "fit",
        "train.jsonl",
        "-d",
        "classes.yaml",
        "--backbone",
        "tiny",
        "--recipe",
        "probe",
        "--out",
        "fitted",
        "--json",
    )
    assert status == 0, err
    assert artifacts.load(Path("fitted")).labels == ("early", "late")
    status, out, err = handful("predict", "fitted", "test.jsonl", "--definition", "classes.yaml", "--json")
    assert status == 0, err
    assert {json.loads(line)["label"] for line in out.splitlines()} <= {"early", "late"}
    status, out, err = handful("evaluate", "fitted", "test.jsonl", "--definition", "classes.yaml", "--json")
    assert status == 0, err
    assert json.loads(out)["n"] == 12
    status, _, err = handful("fit", "train.jsonl", "-d", "nowhere.yaml", "--out", "other")
    assert status == 2
    assert "nowhere.yaml" in err
