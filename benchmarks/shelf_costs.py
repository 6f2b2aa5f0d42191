"""Time and peak memory of a training step of every method over LoRA's; side networks on cached states."""

from __future__ import annotations

from benchmarks.cached import with_states
from benchmarks.memory import peak
from benchmarks.subjects import minilm, random_rows, tasks_of, training
from benchmarks.timing import Figure, Ratio, Report, compared, interleave

from handful.attach import attach
from handful.methods import method, methods

ROWS, LENGTH, STEPS = 32, 64, 1


def run(quick: bool) -> Report:
    """Every method beside a LoRA of its own, so that all see the same machine."""
    repeats, pool = 1 if quick else 3, random_rows(ROWS, LENGTH)
    lora = training(method("lora"), tasks_of(pool, 1, ROWS), STEPS)
    figures, step, megabytes = list[Figure](), dict[str, float](), dict[str, float]()
    for name in methods():
        adapted = attach(minilm(), method(name))
        rows = with_states(adapted, pool) if adapted.beside else pool
        timings = interleave({"lora": lora, name: training(adapted, tasks_of(rows, 1, ROWS), STEPS)}, repeats)
        target = 0.25 if adapted.beside else None
        figures.append(compared(f"{name}: step / LoRA's", timings, name, "lora", target))
        step[name] = figures[-1].wall.value
    for name in ("lora", "ladder") if quick else methods():
        megabytes[name] = peak(f"method {name}")
        target = 0.35 if attach(minilm(), method(name)).beside else None
        ratio = Ratio.exact(megabytes[name] / megabytes["lora"])
        figures.append(Figure(f"{name}: peak memory / LoRA's", ratio, target))
    return Report(figures, {"rows": ROWS, "length": LENGTH, "over_lora": step, "megabytes": megabytes})
