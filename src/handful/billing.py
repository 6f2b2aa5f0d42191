"""What `handful bill` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from handful.bill import Work, break_even, prompting, tuning
from handful.console import out_console, print_json, quiet_libraries
from handful.errors import RequestError
from handful.taskbill import TaskBill, task_bill

LINES = {
    "inference_flops": "FLOPs an answer",
    "cached_flops": "the prompt being cached",
    "attention_flops": "of attention, not in it",
    "vocabulary_flops": "of the output layer, not in it",
    "training_flops": "FLOPs to train",
    "counted_training_flops": "gradients of states alone",
    "kv_cache_bytes": "cache of keys and values",
    "disk_bytes": "on disk, a task",
}
OWN = {
    "inference_flops": "FLOPs an answer",
    "cached_flops": "the prompt being cached",
    "context_flops": "to cache it, once",
    "training_flops": "FLOPs to train",
    "seconds": "seconds to train",
    "kv_cache_bytes": "cache of keys and values",
    "disk_bytes": "on disk",
}


def show(
    folder: Path | None,
    backbone: str | None,
    prompted: str | None,
    sizes: Mapping[str, int | None],
    course: Mapping[str, Any],
    *,
    as_json: bool,
) -> None:
    """`handful bill`: of a fitted task in `folder`, or of shapes; what is None was not said.

    RequestError for neither, and for a course of training of a task that has had its own.
    """
    quiet_libraries()
    said = {name: value for name, value in course.items() if value is not None}
    if folder is not None:
        if said:
            raise RequestError(
                f"The bill of the task in {folder} was asked for, with --{' and --'.join(said)}.",
                "It has been fitted already, and its folder says what that has cost.",
                "Leave the option out, or ask for a bill from shapes: handful bill --backbone NAME.",
            )
        found = task_bill(folder, backbone=backbone, prompted=prompted, **sizes)
        print_json(asdict(found)) if as_json else _show_task(found)
    elif backbone is None:
        raise RequestError(
            "A bill was asked for.", "Neither a fitted task nor a backbone was named.",
            "Give a task's folder, or --backbone, such as t5-base.",
        )  # fmt: skip
    else:
        method = said.pop("method", "ia3")
        work = Work(**said, **{name: value for name, value in sizes.items() if value is not None})
        _show_shapes(backbone, prompted or backbone, method, work, as_json=as_json)


def _show_shapes(tuned: str, prompted: str, method: str, work: Work, *, as_json: bool) -> None:
    bills = {"tuning": tuning(tuned, work, method), "prompting": prompting(prompted, work)}
    answers = break_even(*bills.values())
    if as_json:
        print_json({name: asdict(own) for name, own in bills.items()} | {"break_even_queries": answers})
        return
    table = Table("", f"tuning: {method} on {tuned}", f"prompting {prompted}", box=None)
    for key, name in LINES.items():
        table.add_row(name, *(_shown(key, getattr(own, key)) for own in bills.values()))
    out_console.print(table)
    per = f"{work.query} tokens a question, {work.shots} examples of {work.tokens}, {work.steps} steps of {work.batch}"
    out_console.print(f"of {per}")
    out_console.print(_verdict(answers))


def _show_task(bill: TaskBill) -> None:
    task, sides = bill.task, (asdict(bill.tuning), asdict(bill.prompting))
    other = "the same backbone" if task["prompted"] == task["backbone"] else task["prompted"]
    table = Table("", f"{task['name']}, tuned by {task['recipe']}", f"prompting {other}", box=None)
    for key, name in OWN.items():
        table.add_row(name, *(_shown(key, side.get(key)) for side in sides))
    out_console.print(table, soft_wrap=True)
    blocks = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in bill.shape.items() if "blocks" in name)
    size_of = f"{bill.shape['parameters']:,} parameters, {blocks} of width {bill.shape['width']}"
    lines = [
        f"backbone: {task['backbone']}, {size_of}",
        f"of {task['query']} tokens a question, {task['shots']} examples of {task['tokens']} in the prompt",
        f"counted when it was fitted; by formula an answer is {_shown('flops', bill.tuning.formula_flops)} FLOPs",
        *(f"note: {note}" for note in bill.notes),
        _verdict(bill.break_even_queries),
    ]
    if bill.prompting.context_flops:
        lines.append(f"With the prompt cached: {_verdict(bill.break_even_cached_queries)}")
    for line in lines:
        out_console.print(line, markup=False, highlight=False, soft_wrap=True)


def _verdict(answers: int | None) -> str:
    if answers is None:
        return "Prompting is the cheaper way at any number of answers."
    return f"Tuning is cheaper from {max(answers, 1):,} answers on, its training included."


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if not value:
        return "0"
    return size(value) if key.endswith("bytes") else f"{value:,.1f}" if key == "seconds" else f"{value:.1e}"


def size(value: float) -> str:
    """Bytes as a person reads them, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
