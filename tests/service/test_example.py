"""A method from outside the package, found by its entry point, is a recipe like any."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from tinytext import save_tiny

EXAMPLES = Path(__file__).parents[2] / "examples"


def installed(place: Path) -> Path:
    """The toy package as pip would lay it out: its module, and its entry points in a dist-info folder."""
    project = tomllib.loads((EXAMPLES / "toy_plugin" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    place.mkdir()
    (place / "toy_shift.py").write_bytes((EXAMPLES / "toy_plugin" / "toy_shift.py").read_bytes())
    info = place / f"handful_toy-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return place


def test_the_toy_method_fits_and_comes_back(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    environment = {**os.environ, "PYTHONPATH": str(installed(tmp_path / "site")), "OMP_NUM_THREADS": "1"}
    script = (
        f"import runpy; runpy.run_path({str(EXAMPLES / 'toy_method.py')!r}, run_name='__main__')\n"
        "from handful import FewShotClassifier\n"
        "print(*FewShotClassifier.load('toy_task').predict(['I want my money back', 'nothing happens when I click']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers, size, again = done.stdout.splitlines()
    assert set(answers.split()) <= {"billing", "bug"}
    assert size == f"{2 * 2 * 32} parameters of 'toy'"
    assert again == answers


def test_the_example_is_short() -> None:
    files = (EXAMPLES / "toy_method.py", EXAMPLES / "toy_plugin" / "toy_shift.py")
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 40
