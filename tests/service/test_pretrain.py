"""`handful pretrain` as a person runs it: killed and continued, used by a fit, and with what is wrong."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from commandline import OFTEN, call, finished, started
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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a backbone and rows, worked in on one thread."""
    save_writer(tmp_path / "writer")
    write_task(tmp_path / "kinds.csv", rows=20)
    rows = [
        {"premise": text, "choice1": "ab", "choice2": "cd", "question": "cause", "label": i % 2}
        for i, text in enumerate(dict.fromkeys(words_of(1, 30, 9)))
    ]
    (tmp_path / "causes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def test_a_killed_run_is_continued_to_the_same_bytes(place: Path) -> None:
    asked = ["pretrain", *ASKED, "--steps", "200"]
    process = started(place, *asked, "--out", "killed", program=OFTEN)
    progress = place / ".killed.progress" / "pretraining.safetensors"
    until = time.monotonic() + 120
    while not progress.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert progress.exists()
    assert not (place / "killed").exists()
    save_tiny(place / "other")
    refused = call(*asked, "--backbone", "other", "--out", "killed", "--resume")
    assert refused.status == 2
    assert "It was started with another backbone: writer, " in refused.err
    assert finished(started(place, *asked, "--out", "killed", "--resume", program=OFTEN)).status == 0
    assert call(*asked, "--out", "whole").status == 0
    assert not progress.parent.exists()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()
    both = [read_manifest(place / name, "prior", "handful pretrain") for name in ("killed", "whole")]
    for key in ("curve", "data", "course"):
        assert both[0][key] == both[1][key]


def test_a_prior_is_made_and_used(place: Path) -> None:
    make = ["pretrain", *ASKED, "--steps", "4", "--out", "prior"]
    refused = call(*make, "--held-out", "copa=causes.jsonl")
    assert refused.status == 2
    assert "copa was to be measured on after pretraining on copa." in refused.err
    done = call(*make)
    assert done.status == 0
    found = done.json
    assert found["step"] == 4
    assert [own["share"] for own in found["data"]] == [0.6, 0.4]
    assert [look["step"] for look in found["curve"]] == [0, 4]
    assert call(*make[:-1], "prior", "--force").status == 0
    fit = ["fit", "causes.jsonl", "--definition", "copa", "--template", "{{ premise }} so", "--backbone", "writer"]
    recipe = ["--recipe", "tfew:steps=2:length=60", "--prior", "prior", "--out", "task"]
    done = call(*fit, *recipe)
    assert done.status == 0, done.err


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
def test_what_is_wrong_is_said(arguments: list[str], said: str, place: Path) -> None:
    asked = ["--backbone", "writer", "--validation", "0", "--steps", "3", "--out", "prior"]
    done = call("pretrain", *asked, *arguments)
    assert done.status == (1 if "1e30" in arguments else 2)
    assert said in done.err
    assert not (place / "prior").exists()
