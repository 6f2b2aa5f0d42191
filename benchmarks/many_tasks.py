"""Many small tasks in one fit against the same tasks in turn, and the memory that they take together."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.memory import peak
from benchmarks.subjects import random_rows, tasks_of, training
from benchmarks.timing import Figure, Ratio, Report, compared, interleave

from handful.methods.lora import LoRA

LENGTH = 32
GRID = [(num_tasks, rows) for rows in (4, 16) for num_tasks in (1, 4, 8, 16, 32)]


def run(quick: bool) -> Report:
    figures, seconds = [], {}
    grid = [(8, 4), (8, 16)] if quick else GRID
    for num_tasks, rows in grid:
        steps = max(1, 128 // (num_tasks * rows))
        together, in_turn = both(num_tasks, rows, steps)
        timings = interleave({"together": together, "in turn": in_turn}, 5 if num_tasks * rows <= 128 else 3)
        name = f"{num_tasks} tasks of {rows} rows"
        seconds[name] = timings.medians() | {"steps": steps}  # type: ignore[operator]
        target = 1.25 if (num_tasks, rows) == (8, 4) else 0.97
        figures.append(compared(f"{name}: in turn / together", timings, "in turn", "together", target, ">="))
    few, many = (4, 16) if quick else (4, 32)
    megabytes = {num_tasks: peak("tasks", num_tasks, 16, LENGTH) for num_tasks in (few, many)}
    grown = Ratio.exact(megabytes[many] / megabytes[few])
    figures.append(Figure(f"peak memory of {many} tasks of 16 rows / of {few}", grown, 1.5))
    return Report(figures, {"length": LENGTH, "seconds": seconds, "megabytes": megabytes})


def both(num_tasks: int, rows: int, steps: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """LoRA on all tasks in one fit, and in one fit each."""
    pools = [random_rows(rows, LENGTH, seed) for seed in range(num_tasks)]
    alone = [training(LoRA(), tasks_of(pool, 1, rows), steps) for pool in pools]

    def in_turn() -> None:
        for run in alone:
            run()

    return training(LoRA(), tasks_of(random_rows(num_tasks * rows, LENGTH), num_tasks, rows), steps), in_turn
