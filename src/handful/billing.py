"""What `handful bill` prints."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from handful.bill import Bill, Work, break_even, prompting, tuning
from handful.console import out_console, print_json, quiet_libraries

LINES = {
    "inference_flops": ("FLOPs an answer", "{:.1e}"),
    "cached_flops": ("the prompt being cached", "{:.1e}"),
    "attention_flops": ("of attention, not in it", "{:.1e}"),
    "training_flops": ("FLOPs to train", "{:.1e}"),
    "kv_cache_bytes": ("cache of keys and values", ""),
    "disk_bytes": ("on disk, a task", ""),
}


def show(tuned: str, prompted: str, method: str, work: Work, *, as_json: bool) -> None:
    """`handful bill`."""
    quiet_libraries()
    bills = {"tuning": tuning(tuned, work, method), "prompting": prompting(prompted, work)}
    answers = break_even(*bills.values())
    if as_json:
        print_json({name: asdict(own) for name, own in bills.items()} | {"break_even_queries": answers})
        return
    table = Table("", f"tuning: {method} on {tuned}", f"prompting {prompted}", box=None)
    for key, (said, form) in LINES.items():
        table.add_row(said, *(_shown(own, key, form) for own in bills.values()))
    out_console.print(table)
    per = f"{work.query} tokens a question, {work.shots} examples of {work.tokens}, {work.steps} steps of {work.batch}"
    out_console.print(f"of {per}")
    out_console.print(
        "Prompting is the cheaper way at any number of answers."
        if answers is None
        else f"Tuning is cheaper from {answers:,} answers on, its training included."
    )


def _shown(bill: Bill, key: str, form: str) -> str:
    value = getattr(bill, key)
    if not value:
        return "0"
    return form.format(value) if form else size(value)


def size(value: float) -> str:
    """Bytes as a person reads them, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
