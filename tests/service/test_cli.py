"""The command line as a contract: names, exit statuses, JSON, and what is said about a mistake."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from commandline import Done, call
from handful import __version__, cli
from handful import artifact as artifacts
from handful.methods import methods
from tinytext import save_tiny, tiny_multilabel, tiny_task, words_of

Handful = Callable[..., Done]


@pytest.fixture
def handful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Handful]:
    """Runs the command line in this process, in a folder of its own, on one thread."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield call
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("backbone") / "tiny"))


def rows(classes: int = 2, each: int = 6, names: tuple[str, ...] = ("ä", "b b", "c", "d")) -> list[tuple[str, str]]:
    return [(text, names[c]) for c in range(classes) for text in words_of(c, each)]


def write(path: str, content: list[tuple[str, str]], header: str = "text,label") -> str:
    mark = "\t" if path.endswith(".tsv") else ","
    lines = [header.replace(",", mark), *(f"{text}{mark}{label}" for text, label in content)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def fitted(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fitted task to look at."""
    from handful.backbone import shared
    from handful.recipes import recipe

    (artifact,) = recipe("probe")([tiny_task(3, 6)], shared(tiny), seed=0)
    return artifacts.save(artifact, tmp_path_factory.mktemp("fitted") / "task")


# -- what is answered --------------------------------------------------------------------------------------------------


def test_the_version_and_the_help(handful: Handful) -> None:
    assert handful("--version").out == f"handful {__version__}\n"
    shown = handful("--help")
    assert shown.status == 0
    for command in ("fit", "predict", "evaluate", "export", "info", "methods", "recipes", "backbones", "demo"):
        assert re.search(rf"^\W*{command}\b", shown.out, re.MULTILINE)


def test_the_options_of_the_contract(handful: Handful) -> None:
    options = {
        "fit": "--text --text-pair --label --backbone --recipe --shots --seed --out --resume --json",
        "predict": "--out --json --text",
        "evaluate": "--json --text --label",
        "export": "--out --backbone --json",
        "info": "--json",
    }
    for command, names in options.items():
        shown = handful(command, "--help")
        assert shown.status == 0
        for name in names.split():
            assert re.search(rf"{name}\b", shown.out), (command, name)


FIT_KEYS = {"out", "recipe", "classes", "rows", "estimate", "cost", "bytes_on_disk", "notes"}


@pytest.mark.parametrize("recipe", ["default", "prototypes", "bitfit"])
def test_fit_predict_evaluate_info(handful: Handful, tiny: str, tmp_path: Path, recipe: str) -> None:
    train = write("train.csv", rows())
    done = handful("fit", train, "--backbone", tiny, "--recipe", recipe, "--out", "deep/task", "--json", "--seed", 3)
    assert done.status == 0, done.err
    assert done.json.keys() == FIT_KEYS
    assert done.json["classes"] == ["ä", "b b"]
    assert done.json["rows"] == 12
    assert done.json["estimate"]["accuracy"].keys() == {"value", "low", "high", "level"}
    assert done.json["bytes_on_disk"] == artifacts.size_on_disk("deep/task")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "train.csv"]
    assert [p.name for p in Path("deep").iterdir()] == ["task"]

    answered = handful("predict", "deep/task", write("new.csv", [("abc", ""), ("ghi", "")], "text,other"), "--json")
    assert answered.status == 0
    assert len(answered.lines) == 2
    for line in answered.lines:
        assert line.keys() == {"label", "scores"}
        assert list(line["scores"]) == ["ä", "b b"]
        assert line["label"] == max(line["scores"], key=line["scores"].get)
        assert sum(line["scores"].values()) == pytest.approx(1, abs=1e-5)

    measured = handful("evaluate", "deep/task", train, "--json")
    assert measured.status == 0
    assert measured.json.keys() >= {"n", "accuracy", "macro_f1", "ece", "per_class"}
    assert measured.json["n"] == 12
    assert measured.json["accuracy"].keys() >= {"value", "low", "high"}
    assert (
        0
        <= measured.json["accuracy"]["low"]
        <= measured.json["accuracy"]["value"]
        <= measured.json["accuracy"]["high"]
        <= 1
    )
    assert measured.json["per_class"].keys() == {"ä", "b b"}

    shown = handful("info", "deep/task", "--json")
    assert shown.json["classes"] == ["ä", "b b"]
    assert shown.json["seed"] == 3
    assert shown.json["recipe"] in (recipe, f"tune:{recipe}")
    for command in (["info", "deep/task"], ["evaluate", "deep/task", train], ["predict", "deep/task", "new.csv"]):
        done = handful(*command)
        assert done.status == 0
        assert "ä" in done.out


def test_what_a_fit_says_to_people(handful: Handful, tiny: str) -> None:
    done = handful("fit", write("train.csv", rows()), "--backbone", tiny, "--recipe", "probe", "--out", "task")
    assert done.status == 0
    for word in ("accuracy", "90% interval", "seconds", "parameters", "of the backbone", "kB", "FLOP"):
        assert word in done.out
    assert "measured measured" not in " ".join(done.out.split())
    said = [line for line in done.err.splitlines() if line]
    assert said
    assert all(line.startswith("warning: ") for line in said)  # a warning is a line, however long


def test_a_backbone_is_described(handful: Handful, tiny: str) -> None:
    shown = handful("info", tiny, "--json").json
    assert shown["family"] == "bert"
    assert (shown["blocks"], shown["width"], shown["max_length"]) == (2, 32, 64)
    assert re.fullmatch("[0-9a-f]{64}", shown["fingerprint"])
    assert "BertModel" in handful("info", tiny).out


@pytest.mark.parametrize("what", ["methods", "recipes", "backbones"])
def test_lists(handful: Handful, what: str) -> None:
    listed = handful(what, "--json")
    assert listed.status == 0
    names = [row["name"] for row in listed.json]
    known = {"methods": list(methods()), "recipes": ["default", "probe", "prototypes", "tune"], "backbones": ["minilm"]}
    assert names[: len(known[what])] == known[what]
    assert all(row.keys() >= {"name"} and all(row.values()) for row in listed.json)
    shown = handful(what)
    assert shown.status == 0
    assert all(name in shown.out for name in known[what])


def put(kind: str, name: str) -> tuple[str, bytes]:
    content = {
        "csv": "id,text\n1,naïve\n2,日本\n", "tsv": "text\tid\nnaïve\t1\n日本\t2\n", "txt": "naïve\n日本\n",
        "jsonl": '{"text": "naïve", "n": 1}\n\n{"n": 2, "text": "日本"}\n', "strings": '"naïve"\n"日本"\n',
    }[kind].encode()  # fmt: skip
    path = f"{name}.{'jsonl' if kind == 'strings' else kind}"
    Path(path).write_bytes(content)
    return path, content


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "strings", "txt"])
def test_inputs_of_every_form(handful: Handful, fitted: Path, kind: str) -> None:
    path, content = put(kind, "new")
    expected = handful("predict", fitted, path).lines
    assert len(expected) == 2
    Path(f"{path}.gz").write_bytes(gzip.compress(content))
    assert handful("predict", fitted, f"{path}.gz").lines == expected
    if kind in ("csv", "jsonl"):
        assert handful("predict", fitted, "-", stdin=content).lines == expected
        assert handful("predict", fitted, "-", stdin=b"\xef\xbb\xbf" + content).lines == expected


def test_answers_go_to_a_file_whole_or_not_at_all(handful: Handful, fitted: Path, tmp_path: Path) -> None:
    path, _ = put("csv", "new")
    Path("out.jsonl").write_text("old")
    done = handful("predict", fitted, path, "--out", "out.jsonl", "--json")
    assert (done.status, done.out) == (0, "")
    answers = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert answers == handful("predict", fitted, path).lines
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.csv", "out.jsonl"]
    refused = handful("predict", fitted, path, "--out", "no/such/folder/out.jsonl")
    assert refused.status == 2
    assert "No such file or directory" in refused.err
    Path("folder").mkdir()
    refused = handful("predict", fitted, path, "--out", "folder")
    assert refused.status == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "new.csv", "out.jsonl"]


def test_shots_and_seed(handful: Handful, tiny: str) -> None:
    train = write("train.csv", rows())
    ask = ("fit", train, "--backbone", tiny, "--recipe", "probe", "--shots", 4, "--json", "--out")
    first, again, other = handful(*ask, "a").json, handful(*ask, "b").json, handful(*ask, "c", "--seed", 1).json
    assert first["rows"] == again["rows"] == other["rows"] == 8
    assert Path("a/head.safetensors").read_bytes() == Path("b/head.safetensors").read_bytes()
    assert Path("a/head.safetensors").read_bytes() != Path("c/head.safetensors").read_bytes()
    assert handful("fit", train, "--shots", 0, "--out", "d").status == 2


def test_columns_are_named(handful: Handful, tiny: str) -> None:
    write("odd.csv", rows(), "what,kind")
    ask = ("fit", "odd.csv", "--backbone", tiny, "--recipe", "probe", "--out", "task")
    refused = handful(*ask)
    assert refused.status == 2
    assert all(word in refused.err for word in ("'what'", "'kind'", "--text"))
    assert handful(*ask, "--text", "what", "--label", "kind", "--json").status == 0
    assert handful("predict", "task", "odd.csv").status == 2
    assert len(handful("predict", "task", "odd.csv", "--text", "what").lines) == 12
    assert handful("evaluate", "task", "odd.csv", "--text", "what", "--label", "kind", "--json").json["n"] == 12


def test_pairs(handful: Handful, tiny: str) -> None:
    text = "".join(f"is it,{text},{label}\n" for text, label in rows())
    Path("pairs.csv").write_text("premise,hypothesis,label\n" + text, encoding="utf-8")
    ask = ("fit", "pairs.csv", "--backbone", tiny, "--recipe", "probe", "--out", "task", "--json")
    assert handful(*ask).status == 0
    assert len(handful("predict", "task", "pairs.csv").lines) == 12
    assert handful("evaluate", "task", "pairs.csv", "--json").json["n"] == 12
    for command in ("predict", "evaluate"):
        refused = handful(command, "task", write("single.csv", rows()))
        assert refused.status == 2
        assert "pairs of texts" in refused.err
        assert "--text-pair" in refused.err


def test_several_labels_a_row(handful: Handful, tiny: str) -> None:
    task = tiny_multilabel(16)
    write("train.csv", [(e.text, ";".join(e.label or ())) for e in task.examples])
    lines = [json.dumps({"text": e.text, "label": list(e.label or ())}) for e in task.examples]
    Path("train.jsonl").write_text("\n".join(lines))
    ask = ("--backbone", tiny, "--recipe", "probe", "--json", "--out")
    assert handful("fit", "train.csv", "--multilabel-separator", ";", *ask, "a").status == 0
    done = handful("fit", "train.jsonl", *ask, "b")
    assert set(done.json["classes"]) == {"a", "b"}
    answers = handful("predict", "b", "train.jsonl").lines
    assert all(isinstance(line["label"], list) and line["scores"].keys() == {"a", "b"} for line in answers)
    assert handful("evaluate", "b", "train.jsonl", "--json").json["n"] == 16
    single = write("single.csv", [("abc", "a"), ("fgh", "b")])
    assert handful("evaluate", "b", single, "--json").json["n"] == 2  # one label a row is a set of one
    one = write("one.csv", [(text, "ab"[i % 2]) for i, (text, _) in enumerate(rows())])
    assert handful("fit", one, *ask, "c").status == 0
    refused = handful("evaluate", "c", "train.jsonl", "--json")
    assert refused.status == 2
    assert "One label a row" in refused.err


# -- mistakes ----------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[str | bytes, str, list[str]]] = {
    "an empty file": ("", "train.csv", ["train.csv", "It is empty"]),
    "only a header": ("text,label\n", "train.csv", ["no rows"]),
    "no text column": ("a,label\nx,y\n", "train.csv", ["'a', 'label'", "--text"]),
    "no label column": ("text,b\nx,y\n", "train.csv", ["'text', 'b'", "--label"]),
    "one class": ("text,label\na,x\nb,x\n", "train.csv", ["only one class", "'x'"]),
    "an empty text": ("text,label\na,x\n,y\n", "train.csv", ["Line 3", "empty", "'text'"]),
    "white space": ("text,label\na,x\n  \t ,y\n", "train.csv", ["Line 3", "empty"]),
    "an empty label": ("text,label\na,x\nb,\n", "train.csv", ["Line 3", "empty", "'label'"]),
    "broken UTF-8": (b"text,label\na,x\nb\xff,y\n", "train.csv", ["Line 3", "0xff", "UTF-8"]),
    "a broken quote": ('text,label\na,x\n"b,y\nc,z\n', "train.csv", ["Line 3", "quote"]),
    "a field too many": ("text,label\na,x\nb,y,z\n", "train.csv", ["Line 3 has 3 fields", "2"]),
    "a broken JSON line": ('{"text": "a", "label": "x"}\n{"text": \n', "train.jsonl", ["Line 2", "JSON"]),
    "a JSON line of another kind": ('{"text": "a", "label": "x"}\n[1]\n', "train.jsonl", ["Line 2", "a list"]),
    "a broken archive": (b"\x1f\x8b\x08 cut", "train.csv.gz", ["train.csv.gz"]),
    "an unknown format": ("x", "train.xlsx", ["'.xlsx'", ".csv"]),
}  # fmt: skip


def refused(done: Done, words: list[str], tmp_path: Path, left: list[str]) -> None:
    """Exit 2, one clear message, no traceback, nothing on standard output, nothing written."""
    assert done.status == 2, done.err
    assert done.out == ""
    (message,) = [line for line in done.err.splitlines() if not line.startswith("warning: ")]
    assert message.startswith("error: ")
    assert "Traceback" not in message
    assert "defect" not in message
    assert message.count(". ") >= 2  # what was asked, what was found, what to do
    for word in words:
        assert word in message
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(left)


@pytest.mark.parametrize("what", BAD)
def test_data_that_cannot_be_learned_from(handful: Handful, tiny: str, tmp_path: Path, what: str) -> None:
    content, name, words = BAD[what]
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    refused(handful("fit", name, "--backbone", tiny, "--out", "task"), [name, *words], tmp_path, [name])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--text", "nope"], ["'nope'", "'text', 'label'", "--text"]),
        (["--backbone", "no/such"], ["'no/such'", "minilm", "HF_HUB_OFFLINE"]),
        (["--backbone", "./nowhere"], ["'./nowhere'", "no such folder", "save_pretrained"]),
        (["--recipe", "magic"], ["'magic'", "default", "lora"]),
        (["--out", "train.csv"], ["train.csv", "no fitted task"]),
        (["--out", "train.csv/x"], ["train.csv/x", "is a file"]),
        (["--out", "full"], ["full", "no fitted task"]),
        (["--dtype", "floaty"], ["floaty", "--dtype"]),
        (["--device", "moon"], ["moon", "--device"]),
    ],
)
def test_requests_that_cannot_be_served(
    handful: Handful, tiny: str, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    write("train.csv", rows())
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    done = handful("fit", "train.csv", "--backbone", tiny, "--out", "task", *options)
    refused(done, words, tmp_path, ["full", "train.csv"])
    assert [p.name for p in Path("full").iterdir()] == ["mine.txt"]


def test_missing_files(handful: Handful, fitted: Path, tmp_path: Path) -> None:
    for command in (["fit", "no.csv", "--out", "task"], ["predict", fitted, "no.csv"], ["evaluate", fitted, "no.csv"]):
        refused(handful(*command), ["no.csv", "no such file"], tmp_path, [])
    Path("data").mkdir()
    refused(handful("fit", "data", "--out", "task"), ["data", "directory"], tmp_path, ["data"])
    for command in (["predict", "nothing", "x.csv"], ["evaluate", "nothing", "x.csv"]):
        refused(handful(*command), ["nothing", "no such folder", "handful fit --out"], tmp_path, ["data"])
    refused(handful("info", "nothing"), ["nothing"], tmp_path, ["data"])
    refused(handful("info", "data"), ["data", "handful.json"], tmp_path, ["data"])


def test_wrong_usage_is_status_2(handful: Handful) -> None:
    for arguments in (
        ["fit"],
        ["fit", "x.csv"],
        ["nonsense"],
        ["predict", "x"],
        ["fit", "x.csv", "--seed", "y", "--out", "z"],
    ):
        done = handful(*arguments)
        assert done.status == 2, arguments
        assert "Traceback" not in done.err


def test_a_prediction_input_without_the_text_column(handful: Handful, fitted: Path, tmp_path: Path) -> None:
    Path("new.csv").write_text("a,b\nx,y\n")
    refused(
        handful("predict", fitted, "new.csv", "--out", "o"), ["new.csv", "'a', 'b'", "--text"], tmp_path, ["new.csv"]
    )
    refused(handful("predict", fitted, "-", stdin=b"a\nx\n"), ["standard input", "'a'"], tmp_path, ["new.csv"])
    refused(handful("predict", fitted, "-", stdin=b""), ["standard input", "empty"], tmp_path, ["new.csv"])
    refused(handful("predict", fitted, "-", stdin=b"text\n\xff\n"), ["Line 2"], tmp_path, ["new.csv"])


def test_labels_that_the_task_does_not_know(handful: Handful, fitted: Path, tmp_path: Path) -> None:
    write("test.csv", [("abc", "class 0"), ("d", "other")])
    refused(handful("evaluate", fitted, "test.csv"), ["'other'", "'class 1'"], tmp_path, ["test.csv"])


@pytest.mark.parametrize("name", ["head.safetensors", "handful.json", "README.md"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_damaged_task(handful: Handful, fitted: Path, tmp_path: Path, name: str, damage: str) -> None:
    own = Path(shutil.copytree(fitted, tmp_path / "task"))
    whole = (own / name).read_bytes()
    half = len(whole) // 2
    if damage == "missing":
        (own / name).unlink()
    else:
        flipped = whole[:half] + bytes([whole[half] ^ 4]) + whole[half + 1 :]
        (own / name).write_bytes(whole[:half] if damage == "cut" else flipped)
    write("new.csv", rows())
    for command in (["predict", "task", "new.csv"], ["evaluate", "task", "new.csv"]):
        refused(handful(*command), ["task", name], tmp_path, ["new.csv", "task"])


def test_a_task_of_another_backbone(handful: Handful, fitted: Path, tmp_path: Path) -> None:
    from tiny import TINY, build

    other = Path(save_tiny(tmp_path / "other"))
    build("bert", TINY["bert"].args[1], seed=1).save_pretrained(other)  # type: ignore[attr-defined]
    write("new.csv", rows())
    done = handful("predict", fitted, "new.csv", "--backbone", "other")
    refused(done, ["'other'", "weights"], tmp_path, ["new.csv", "other"])


def test_a_refused_fit_leaves_the_old_task(handful: Handful, tiny: str, fitted: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(fitted, tmp_path / "task"))
    before = {p.name: p.read_bytes() for p in own.iterdir()}
    Path("bad.csv").write_text("text,label\na,x\n")
    refused(
        handful("fit", "bad.csv", "--backbone", tiny, "--out", "task"),
        ["only one class"],
        tmp_path,
        ["bad.csv", "task"],
    )
    assert {p.name: p.read_bytes() for p in own.iterdir()} == before
    write("good.csv", rows())
    done = handful("fit", "good.csv", "--backbone", tiny, "--recipe", "probe", "--out", "task", "--json")
    assert done.status == 0
    assert artifacts.load("task").labels == ("ä", "b b")


def test_a_full_disk_at_the_end(
    handful: Handful, tiny: str, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(fitted, tmp_path / "task")
    write("good.csv", rows())

    def full(_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    done = handful("fit", "good.csv", "--backbone", tiny, "--recipe", "probe", "--out", "task")
    left = [p.name for p in tmp_path.iterdir() if p.name != ".task.progress"]  # what --resume would continue
    assert done.status == 2
    assert "No space left on device" in done.err
    assert sorted(left) == ["good.csv", "task"]
    assert artifacts.load("task").labels[0] == "class 0"
    monkeypatch.undo()


# -- what is warned of -------------------------------------------------------------------------------------------------


def warned(done: Done) -> list[str]:
    assert done.status == 0, done.err
    return [line for line in done.err.splitlines() if line.startswith("warning: ")]


def test_conflicting_duplicates_are_named(handful: Handful, tiny: str) -> None:
    write("train.csv", [*rows(), ("the same", "ä"), ("the same", "b b")])
    said = warned(handful("fit", "train.csv", "--backbone", tiny, "--recipe", "probe", "--out", "task", "--json"))
    (line,) = [line for line in said if "same text" in line]
    assert all(word in line for word in ("'the same'", "line 14", "line 15", "'ä'", "'b b'"))


def test_a_single_example_is_warned_of(handful: Handful, tiny: str) -> None:
    write("train.csv", [*rows(), ("only", "rare")])
    done = handful("fit", "train.csv", "--backbone", tiny, "--recipe", "probe", "--out", "task", "--json")
    assert any("single example of 'rare'" in line for line in warned(done))
    assert done.json["classes"] == ["ä", "b b", "rare"]


def test_a_text_of_ten_megabytes_is_cut_and_said_once(handful: Handful, tiny: str) -> None:
    write("train.csv", [*rows(), ("abc " * 2_500_000, "ä")])
    done = handful("fit", "train.csv", "--backbone", tiny, "--recipe", "probe", "--out", "task", "--json")
    said = [line for line in warned(done) if "cut" in line.lower()]
    assert said == [f"warning: Cut 1 of 13 texts to the 64 tokens that {tiny} reads."]


def test_a_defect_is_called_one(handful: Handful, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("handful.choicecommands.load_task", broken)
    done = handful("predict", fitted, "x.csv")
    assert done.status == 1
    assert "ZeroDivisionError: oh" in done.err
    assert "--debug" in done.err
    monkeypatch.setenv("HANDFUL_DEBUG", "")
    monkeypatch.setattr(sys, "argv", ["handful", "--debug", "predict", str(fitted), "x.csv"])
    with warnings.catch_warnings(), pytest.raises(ZeroDivisionError):
        cli.main()


# -- as a process ------------------------------------------------------------------------------------------------------


def test_a_reader_that_stops_is_no_crash(fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("some words\n" * 3000)
    line = f"{sys.executable} -m handful predict {fitted} {tmp_path / 'many.txt'} | head -n 1"
    done = subprocess.run(
        line, shell=True, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
