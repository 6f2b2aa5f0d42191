"""`handful meta-train` and `handful prime` as a person runs them: killed and continued, and with what is wrong."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from commandline import Done, finished, started
from handful.folders import read_manifest
from tinytags import tiny_tagging, write_conll
from tinytext import save_tiny

WORDS = ("able", "bake", "cold", "deep", "echo", "fade", "gold", "high", "idle", "jade", "kind", "lake")
ASKED = ["--backbone", "tiny", "--method", "lora:rank=2", "--algorithm", "fomaml:steps=2", "--episodes", "4", "--json"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "tiny")
    rows = [f"{word} {other[:2]} {i},{word}" for word in WORDS for i, other in enumerate(WORDS)]
    (tmp_path / "words.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return tmp_path


def ran(place: Path, *arguments: str) -> Done:
    return finished(started(place, *arguments))


def test_a_killed_run_is_continued_to_the_same_bytes(place: Path) -> None:
    asked = ["meta-train", "words.csv:ways=2-3:shots=1-2:query=2", *ASKED, "--steps", "300", "--looks", "100"]
    process = started(place, *asked, "--out", "killed")
    progress = place / ".killed.progress" / "outer.safetensors"
    until = time.monotonic() + 120
    while not progress.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert progress.exists()
    assert not (place / "killed").exists()
    assert ran(place, *asked, "--out", "killed", "--resume")[0] == 0
    assert ran(place, *asked, "--out", "whole")[0] == 0
    assert not progress.parent.exists()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()
    both = [read_manifest(place / name, "prior", "handful meta-train") for name in ("killed", "whole")]
    assert both[0]["curve"] == both[1]["curve"]


def test_a_prior_is_made_and_used(place: Path) -> None:
    status, out, err = ran(place, "meta-train", "words.csv:ways=2:query=2", *ASKED, "--steps", "4", "--out", "prior")
    assert (status, err) == (0, "")
    assert json.loads(out)["step"] == 4
    fit = ["fit", "words.csv", "--backbone", "tiny", "--shots", "2", "--out", "task", "--prior", "prior"]
    assert ran(place, *fit, "--recipe", "lora:rank=2:steps=2:num_folds=0")[0] == 0
    status, _, err = ran(place, *fit, "--recipe", "lora:rank=3")
    assert status == 2
    assert "It is one for LoRA(rank=2)" in err


def test_a_backbone_is_primed_and_used(place: Path) -> None:
    write_conll(place / "tags.conll", tiny_tagging(40))
    asked = ["--backbone", "tiny", "--method", "pfeiffer:width=4", "--steps", "2", "--episodes", "2", "--json"]
    prime = ["prime", "tags.conll:shots=4:query=4", *asked, "--out", "primed", "--prior", "start"]
    status, _, err = ran(place, *prime)
    assert (status, err) == (0, "")
    fit = ["fit", "tags.conll", "--backbone", "primed", "--prior", "start", "--recipe", "pfeiffer:width=4:steps=1"]
    status, _, err = ran(place, *fit, "--out", "task")
    assert (status, err) == (0, "")
    answer = json.loads(ran(place, "predict", "task", "tags.conll")[1].splitlines()[0])
    assert len(answer["tags"]) == len(answer["tokens"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["words.csv:ways=20"], "Episodes of 20 or more classes of words"),
        (["words.csv:shots=9:query=9"], "Ask for fewer ways, shots or query rows"),
        (["words.csv", "--held-out", "words.csv"], "144 of its 144 rows are in it"),
        (["words.csv", "--algorithm", "mamml"], "Known are protonet"),
        (["words.csv", "--method", "lura"], "lura"),
        (["words.csv", "--lr", "0"], "Give a rate above 0"),
        (["nothing.csv"], "nothing.csv"),
        (["words.csv", "--start", "nowhere"], "There is no such folder"),
    ],
)
def test_what_is_wrong_is_said(place: Path, more: list[str], words: str) -> None:
    status, _, err = ran(place, "meta-train", "--backbone", "tiny", "--out", "prior", "--steps", "1", *more)
    assert status == 2
    assert words in err
    assert "Traceback" not in err
    assert not (place / "prior").exists()
