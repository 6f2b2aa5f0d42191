"""A training step of each method against `peft`'s or `adapters`' same method."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.subjects import Peer, peft_ia3, peft_lora, random_labels, random_rows, tasks_of, training
from benchmarks.timing import Figure, Report, compared, interleave

from handful.backbone import aliases
from handful.methods import Method, method

ROWS, LENGTH = 32, 64
PYTHON = "HANDFUL_ADAPTERS_PYTHON"
"""Environment variable: the interpreter of an environment with `adapters`."""
BY_ADAPTERS: dict[str, dict[str, Any]] = {
    "houlsby": {"reduction": 16},
    "pfeiffer": {"reduction": 16},
    "parallel": {"reduction": 16},
    "compacter": {"width": 24},
    "compacter++": {"width": 24},
}


def by_peft() -> dict[str, tuple[Method, Any]]:
    """name -> our method and peft's configuration of the same size."""
    from peft import LNTuningConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig, VeraConfig

    virtual: dict[str, Any] = {"num_virtual_tokens": 20, "task_type": "FEATURE_EXTRACTION"}
    targets = ["query", "value"]
    return {
        "lora": (method("lora"), peft_lora()),
        "dora": (method("dora"), LoraConfig(r=8, lora_alpha=16, target_modules=targets, use_dora=True)),
        "vera": (method("vera"), VeraConfig(target_modules=targets)),
        "ia3": (method("ia3"), peft_ia3()),
        "layernorm": (method("layernorm"), LNTuningConfig(target_modules=["LayerNorm"])),
        "prompt": (method("prompt"), PromptTuningConfig(**virtual)),
        "prefix": (method("prefix"), PrefixTuningConfig(**virtual)),
    }


def run(quick: bool) -> Report:
    steps, repeats = (1, 3) if quick else (2, 5)
    pool, labels = random_rows(ROWS, LENGTH), random_labels(ROWS)
    figures, seconds = list[Figure](), dict[str, Any]()
    for name, (ours, config) in by_peft().items():
        pair = {"peft": Peer(config).steps(pool, labels, steps), "handful": _ours(ours, pool, steps)}
        timings = interleave(pair, repeats)
        figures.append(compared(f"{name}: step / peft's", timings, "handful", "peft", 1.0))
        seconds[name] = timings.medians()
    for name, options in BY_ADAPTERS.items() if os.environ.get(PYTHON) else ():
        with _adapters(name, steps) as theirs:
            timings = interleave({"adapters": theirs, "handful": _ours(method(name, **options), pool, steps)}, repeats)
        ratio = timings.ratio("handful", "adapters")
        figures.append(Figure(f"{name}: step / adapters'", ratio, 1.0))
        seconds[name] = {side: median(own) for side, own in timings.wall.items()}  # a process has its own CPU clock
    return Report(figures, {"rows": ROWS, "length": LENGTH, "steps_a_run": steps, "seconds": seconds})


def _ours(of: Method, pool: Any, steps: int) -> Callable[[], None]:
    return training(of, tasks_of(pool, 1, ROWS), steps)


@contextmanager
def _adapters(name: str, steps: int) -> Iterator[Callable[[], None]]:
    """`steps` steps by the other library, in a process that waits for its turn."""
    script = Path(__file__).with_name("adapters_peer.py")
    command = [os.environ[PYTHON], str(script), aliases()["minilm"](), name, *map(str, (ROWS, LENGTH, steps))]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdin=-1, stdout=-1, stderr=sys.stderr, text=True, env=os.environ | threads)
        )
        stack.callback(process.kill)
        assert process.stdin is not None
        assert process.stdout is not None
        if not process.stdout.readline().startswith("ready"):
            raise RuntimeError(f"{' '.join(command)} did not start")
        ask, answer = process.stdin, process.stdout

        def turn() -> None:
            ask.write("\n")
            ask.flush()
            assert answer.readline() == "done\n"

        yield turn
