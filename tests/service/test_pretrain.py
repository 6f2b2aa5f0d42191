"""`handful pretrain` as a person runs it: killed and continued, used by a fit, and with what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from handful import cli
from handful.folders import read_manifest
from tinytext import save_tiny, save_writer, words_of, write_task

ASKED = [
    "kinds.csv:template={{ text }} is",
    "copa=causes.jsonl:share=0.4:template={{ premise }} so",
    "--backbone",
    "writer",
    "--lr",
    "0.01",
]
ASKED += ["--batch", "4", "--length", "60", "--validation", "2", "--looks", "50", "--json"]


OFTEN = (
    "from handful.checkpoint import Checkpoint; Checkpoint.__init__.__defaults__ = (0.1,)\n"
    "from handful.cli import main; main()"
)
"""The command line, keeping its progress every tenth of a second in place of every two seconds."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_writer(tmp_path / "writer")
    write_task(tmp_path / "kinds.csv", rows=20)
    rows = [
        {"premise": text, "choice1": "ab", "choice2": "cd", "question": "cause", "label": i % 2}
        for i, text in enumerate(dict.fromkeys(words_of(1, 30, 9)))
    ]
    (tmp_path / "causes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def handful(place: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", OFTEN, *arguments]
    return subprocess.Popen(
        command, cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ran(place: Path, *arguments: str) -> tuple[int, str, str]:
    process = handful(place, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def here(place: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit status of a command in this process, with one thread."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["handful", *arguments])
    monkeypatch.delenv("HANDFUL_DEBUG", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        cli.main()
    torch.set_num_threads(threads)
    return int(str(stopped.value.code or 0))


def test_a_killed_run_is_continued_to_the_same_bytes(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["pretrain", *ASKED, "--steps", "200"]
    process = handful(place, *asked, "--out", "killed")
    progress = place / ".killed.progress" / "pretraining.safetensors"
    until = time.monotonic() + 120
    while not progress.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert progress.exists()
    assert not (place / "killed").exists()
    save_tiny(place / "other")
    assert here(place, monkeypatch, *asked, "--backbone", "other", "--out", "killed", "--resume") == 2
    assert "It was started with another backbone: writer, " in capsys.readouterr().err
    assert ran(place, *asked, "--out", "killed", "--resume")[0] == 0
    assert here(place, monkeypatch, *asked, "--out", "whole") == 0
    assert not progress.parent.exists()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()
    both = [read_manifest(place / name, "prior", "handful pretrain") for name in ("killed", "whole")]
    for key in ("curve", "data", "course"):
        assert both[0][key] == both[1][key]


def test_a_prior_is_made_and_used(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = ["pretrain", *ASKED, "--steps", "4", "--out", "prior"]
    assert here(place, monkeypatch, *make, "--held-out", "copa=causes.jsonl") == 2
    assert "copa was to be measured on after pretraining on copa." in capsys.readouterr().err
    assert here(place, monkeypatch, *make) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 4
    assert [own["share"] for own in found["data"]] == [0.6, 0.4]
    assert [look["step"] for look in found["curve"]] == [0, 4]
    assert here(place, monkeypatch, *make[:-1], "prior", "--force") == 0
    fit = ["fit", "causes.jsonl", "--definition", "copa", "--template", "{{ premise }} so", "--backbone", "writer"]
    recipe = ["--recipe", "tfew:steps=2:length=60", "--prior", "prior", "--out", "task"]
    assert here(place, monkeypatch, *fit, *recipe) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["kinds.csv:topic=x"], "The data 'kinds.csv:topic=x' was asked for. 'topic' is no option. Its options are "),
        (["copa"], "It is a task definition, and no rows were given. Name the rows that it reads: copa=FILE."),
        (["nope=kinds.csv"], "Tried to read the task definition nope. "),
        (["kinds.csv", "--lr", "-1"], "Pretraining was asked for. lr is -1. Give a number above 0."),
        (["kinds.csv:template={{ text }}", "--lr", "1e30", "--optimizer", "sgd"], "Lower the learning rate (1e+30)."),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], said: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--backbone", "writer", "--validation", "0", "--steps", "3", "--out", "prior"]
    status = here(place, monkeypatch, "pretrain", *asked, *arguments)
    assert status == (1 if "1e30" in arguments else 2)
    assert said in capsys.readouterr().err
    assert not (place / "prior").exists()
