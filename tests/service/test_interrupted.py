"""Killed or stopped during a fit: nothing is lost, and `--resume` comes to the same bytes."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from commandline import OFTEN, Done, finished, started
from tiny import TINY, build
from tinytext import tokenizer, words_of


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that takes its time, and rows for it."""
    folder = tmp_path_factory.mktemp("interrupted")
    deep = build("bert", {**TINY["bert"].args[1], "num_hidden_layers": 6})  # type: ignore[attr-defined]
    deep.save_pretrained(folder / "deep")
    tokenizer().save_pretrained(folder / "deep")
    lines = [f"{text} {text},{'ab'[c]}" for c in range(2) for text in words_of(c, 24)]
    (folder / "train.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return folder


def fitting(place: Path, out: str, *options: str) -> subprocess.Popen[str]:
    arguments = ["fit", "train.csv", "--backbone", "deep", "--recipe", "lora:steps=400", "--out", out, *options]
    return started(place, *arguments, program=OFTEN)


def stopped(process: subprocess.Popen[str], place: Path, how: signal.Signals) -> Done:
    """Stops a fit when it has kept more of its progress than there was."""

    def kept() -> list[int]:
        return [file.stat().st_mtime_ns for file in (place / ".task.progress").glob("*.safetensors")]

    before, until = kept(), time.monotonic() + 100
    while kept() == before:
        assert process.poll() is None, "it was over before anything was kept"
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(how)
    return finished(process)


def tensors(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def test_a_killed_and_a_stopped_fit_continue_to_the_same_bytes(place: Path) -> None:
    whole = fitting(place, "whole")
    assert stopped(fitting(place, "task"), place, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (place / "task").exists()
    status, _, said = stopped(fitting(place, "task", "--resume"), place, signal.SIGINT)
    assert status == 130
    assert "--resume" in said
    assert "Traceback" not in said
    assert not (place / "task").exists()
    assert finished(fitting(place, "task", "--resume"))[0] == 0
    assert finished(whole)[0] == 0
    assert tensors(place / "whole").keys() == {"adapter_model.safetensors", "head.safetensors"}
    assert tensors(place / "task") == tensors(place / "whole")
    assert {path.name for path in place.iterdir()} == {"deep", "train.csv", "whole", "task"}
