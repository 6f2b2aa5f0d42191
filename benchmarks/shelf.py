"""A training step of each method against `peft`'s or `adapters`' same method; side networks on cached states."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmarks.cached import with_states
from benchmarks.memory import peak
from benchmarks.subjects import Peer, minilm, peft_ia3, peft_lora, random_labels, random_rows, tasks_of, training
from benchmarks.timing import Figure, Ratio, Report, compared, interleave

from handful.attach import attach
from handful.backbone import aliases
from handful.methods import Method, method, methods

ROWS, LENGTH = 32, 64
PYTHON = "HANDFUL_ADAPTERS_PYTHON"
"""Environment variable: the interpreter of an environment with `adapters`."""
BY_ADAPTERS: dict[str, dict[str, Any]] = {
    "houlsby": {"reduction": 16},
    "pfeiffer": {"reduction": 16},
    "parallel": {"reduction": 16},
    "compacter": {"width": 24},
    "compacter_pp": {"width": 24},
}
SIDES = ("ladder", "last", "losa")


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
    steps, repeats = (1, 3) if quick else (2, 7)
    pool, labels = random_rows(ROWS, LENGTH), random_labels(ROWS)
    figures, seconds = list[Figure](), dict[str, Any]()
    compared_with_peer = set[str]()
    for name, (ours, config) in by_peft().items():
        pair = {"peft": Peer(config).steps(pool, labels, steps), "handful": _ours(ours, pool, steps)}
        timings = interleave(pair, repeats)
        figures.append(compared(f"{name}: step / peft's", timings, "handful", "peft", 1.0))
        seconds[name] = timings.medians()
        compared_with_peer.add(name)
    for name, options in BY_ADAPTERS.items() if os.environ.get(PYTHON) else ():
        with _adapters(name, steps) as theirs:
            timings = interleave({"adapters": theirs, "handful": _ours(method(name, **options), pool, steps)}, repeats)
        ratio = timings.ratio("handful", "adapters")
        figures.append(Figure(f"{name}: step / adapters'", ratio, 1.0))
        seconds[name] = {side: {"wall": own["wall"]} for side, own in timings.medians().items()}
        compared_with_peer.add(name)
    figures += _sides(quick, seconds) + _others(compared_with_peer, pool, steps, repeats, seconds)
    return Report(figures, {"rows": ROWS, "length": LENGTH, "steps_a_run": steps, "seconds": seconds})


def _ours(of: Method, pool: Any, steps: int) -> Callable[[], None]:
    return training(of, tasks_of(pool, 1, ROWS), steps)


def _sides(quick: bool, seconds: dict[str, Any]) -> list[Figure]:
    """Side networks on cached states over LoRA in all blocks: time and peak memory of a step."""
    steps, pool = 1 if quick else 3, random_rows(ROWS, LENGTH)
    runs = {"lora": _ours(method("lora"), pool, steps)}
    for name in SIDES:
        adapted = attach(minilm(), method(name))
        runs[name] = training(adapted, tasks_of(with_states(adapted, pool), 1, ROWS), steps)
    timings = interleave(runs, 3 if quick else 7)
    seconds["side networks"] = timings.medians()
    lora = peak("handful")
    return [
        *(compared(f"{name}, cached: step / LoRA's", timings, name, "lora", 0.25) for name in SIDES),
        *(
            Figure(f"{name}, cached: peak memory / LoRA's", Ratio.exact(peak(f"side {name}") / lora), 0.35)
            for name in SIDES
        ),
    ]


def _others(
    known: set[str], pool: Any, steps: int, repeats: int, seconds: dict[str, Any]
) -> list[Figure]:  # fmt: skip
    """Methods that no peer has, over LoRA."""
    lora, figures = _ours(method("lora"), pool, steps), list[Figure]()
    for name in methods():
        if name not in known and name not in SIDES:
            timings = interleave({"lora": lora, name: _ours(method(name), pool, steps)}, min(3, repeats))
            figures.append(compared(f"{name}: step / LoRA's", timings, name, "lora"))
            seconds[name] = timings.medians()
    return figures


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
