"""Made-up tasks in RAFT's layout: no row of the benchmark is in them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from handful.suites.raftdata import SPECS

CLASSES = ("yes", "no")


def row(name: str, number: int) -> dict[str, str]:
    """A row whose first field says its class."""
    word = ("red", "blue")[number % 2]
    return {field: f"{word} {field.lower()} {number}" for field in SPECS[name].fields} | {"ID": str(number)}


def write_csv(file: Path, rows: Sequence[dict[str, str]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def make(
    data: Path, *names: str, classes: Sequence[str] = CLASSES, tested: str = "test.csv", asked: int = 4
) -> Path:  # fmt: skip
    """`data` with the tasks, all eleven if none is named: 50 labelled rows, and `asked` without a label."""
    for name in names or SPECS:
        rows = [row(name, i) | {"Label": classes[i % len(classes)]} for i in range(50)]
        write_csv(data / "raft" / name / "train.csv", rows)
        tests = [row(name, i) | {"Label": "Unlabeled"} for i in range(50, 50 + asked)]
        write_csv(data / "raft" / name / tested, tests)
    return data
