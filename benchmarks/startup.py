"""Start-up: the command line's help and version against `import peft`, `import handful` against `import torch`."""

from __future__ import annotations

import importlib.util
import resource
import subprocess
import sys
import time
from statistics import median

from benchmarks.timing import Figure, Ratio, Report

COMMANDS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import peft": ["-c", "import peft"],
    "import handful": ["-c", "import handful"],
    "FewShotClassifier": ["-c", "from handful import FewShotClassifier"],
    "handful --help": ["-m", "handful", "--help"],
    "handful --version": ["-m", "handful", "--version"],
}


def run(quick: bool) -> Report:
    commands = dict(COMMANDS)
    if importlib.util.find_spec("handful.cli") is None:
        commands = {name: command for name, command in commands.items() if not name.startswith("handful ")}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(-1, 2 if quick else 7):
        for name, command in commands.items():
            taken = timed(command)
            if number >= 0 and taken is not None:
                seconds[name].append(taken)

    def figure(name: str, of: str, target: float | None = None) -> list[Figure]:
        if not seconds.get(name):
            return []
        wall, cpu = (
            Ratio.of([a[clock] / b[clock] for a, b in zip(seconds[name], seconds[of], strict=True)]) for clock in (0, 1)
        )
        return [Figure(f"{name} / {of}", wall, target, "<=", cpu)]

    figures = [
        *figure("handful --help", "import peft", 0.10),
        *figure("handful --version", "import peft", 0.10),
        *figure("import handful", "import torch", 1.0),
        *figure("FewShotClassifier", "import torch"),
    ]
    medians = {
        name: {"wall_s": round(median(w for w, _ in own), 3), "cpu_s": round(median(c for _, c in own), 3)}
        for name, own in seconds.items()
        if own
    }
    return Report(figures, {"seconds": medians})


def timed(command: list[str]) -> tuple[float, float] | None:
    """Wall and CPU seconds of a fresh interpreter, or None if the command fails."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, check=False)
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return None if done.returncode else (wall, cpu)
