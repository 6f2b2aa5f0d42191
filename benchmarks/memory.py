"""Peak memory over the loaded model of training steps, each case in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import Figure, Ratio, Report

ROWS, LENGTH = 32, 128
CASES = ("handful", "handful, one pass", "peft", "peft, dropout off")


def run(quick: bool) -> Report:
    repeats = 1 if quick else 3
    megabytes = {case: sorted(peak(case) for _ in range(repeats)) for case in CASES}
    best = {case: values[len(values) // 2] for case, values in megabytes.items()}

    def over(name: str, a: str, b: str, target: float | None = None) -> Figure:
        return Figure(name, Ratio.exact(best[a] / best[b]), target)

    figures = [
        over("LoRA step: peak memory / peft's", "handful", "peft", 1.0),
        over("the same without splitting the batch", "handful, one pass", "peft", 1.0),
        over("peft with dropout off / peft", "peft, dropout off", "peft"),
    ]
    return Report(figures, {"rows": ROWS, "length": LENGTH, "megabytes": megabytes})


def peak(case: str, *numbers: int) -> float:
    """Megabytes that a case takes over the loaded model at its peak, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", case, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def growth(work: Callable[[], object]) -> float:
    """Megabytes by which the process's resident memory exceeds what it was before, at the highest moment of `work`."""
    before, highest, done = _resident(), 0, threading.Event()
    exact = _forget_peak()

    def sample() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, _resident())
            time.sleep(0.002)

    if not exact:
        threading.Thread(target=sample, daemon=True).start()
    work()
    done.set()
    return ((_status("VmHWM") if exact else highest) - before) / 2**20


def _forget_peak() -> bool:
    """Linux forgets the process's highest resident memory when asked so; elsewhere it is sampled."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _status("VmHWM") <= _resident() + (1 << 20)


def _resident() -> int:
    return _status("VmRSS")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _case(name: str, numbers: list[int]) -> Callable[[], None]:
    from benchmarks.subjects import Peer, peft_lora, random_labels, random_rows, tasks_of, training

    from handful.methods.lora import LoRA

    if name == "tasks":
        num_tasks, rows, length = numbers
        return training(LoRA(), tasks_of(random_rows(num_tasks * rows, length), num_tasks, rows), 2)
    pool = random_rows(ROWS, LENGTH)
    if name.startswith("method "):
        from benchmarks.cached import with_states
        from benchmarks.subjects import minilm

        from handful.attach import attach
        from handful.methods import method

        adapted = attach(minilm(), method(name.removeprefix("method ")))
        rows = with_states(adapted, pool) if adapted.beside else pool
        return training(adapted, tasks_of(rows, 1, ROWS), 2)
    if name.startswith("peft"):
        return Peer(peft_lora(), dropout="off" not in name).steps(pool, random_labels(ROWS), 2)
    budget = {"budget": ROWS * LENGTH} if "one pass" in name else {}
    return training(LoRA(), tasks_of(pool, 1, ROWS), 2, **budget)


if __name__ == "__main__":
    from transformers.utils import logging

    logging.disable_progress_bar()
    print(json.dumps(growth(_case(sys.argv[1], [int(number) for number in sys.argv[2:]]))))
