"""Killed or stopped during a fit: nothing is lost, and `--resume` comes to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny import TINY, build
from tinytext import tokenizer, words_of


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that takes its time, and rows for it."""
    folder = tmp_path_factory.mktemp("interrupted")
    deep = build("bert", {**TINY["bert"].args[1], "num_hidden_layers": 12})  # type: ignore[attr-defined]
    deep.save_pretrained(folder / "deep")
    tokenizer().save_pretrained(folder / "deep")
    lines = [f"{text} {text},{'ab'[c]}" for c in range(2) for text in words_of(c, 24)]
    (folder / "train.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return folder


def started(place: Path, out: str, *options: str) -> subprocess.Popen[str]:
    arguments = ["fit", "train.csv", "--backbone", "deep", "--recipe", "lora", "--out", out, *options]
    return subprocess.Popen(
        [sys.executable, "-m", "handful", *arguments], cwd=place, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def stopped(process: subprocess.Popen[str], place: Path, out: str, how: signal.Signals) -> tuple[int, str]:
    """Stops a fit when it has kept some of its progress."""
    progress, until = place / f".{out}.progress", time.monotonic() + 100
    while not list(progress.glob("*.safetensors")):
        assert process.poll() is None, "it was over before anything was kept"
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(how)
    return finished(process)


def tensors(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def test_killed_and_stopped_fits_continue_to_the_same_bytes(place: Path) -> None:
    whole = started(place, "whole")
    killed = started(place, "killed")
    assert stopped(killed, place, "killed", signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (place / "killed").exists()
    interrupted = started(place, "stopped")
    status, said = stopped(interrupted, place, "stopped", signal.SIGINT)
    assert status == 130
    assert "--resume" in said
    assert "Traceback" not in said
    assert not (place / "stopped").exists()
    assert finished(whole)[0] == 0
    expected = tensors(place / "whole")
    assert expected.keys() == {"adapter_model.safetensors", "head.safetensors"}
    for out in ("killed", "stopped"):
        assert finished(started(place, out, "--resume"))[0] == 0
        assert tensors(place / out) == expected
    left = {path.name for path in place.iterdir()}
    assert left == {"deep", "train.csv", "whole", "killed", "stopped"}
