"""`handful pretrain`: what it does, and how it looks."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from handful import distributed, pretraining
from handful.console import out_console, print_json, progress_bar, quiet_libraries
from handful.folders import check_target, size_on_disk
from handful.prior import WHAT, save_prior


def pretrain(tasks: Sequence[str], out: Path, *, resume: bool, as_json: bool, **asked: Any) -> None:
    """`handful pretrain`."""
    quiet_libraries()
    check_target(out, WHAT)
    folder = out.with_name(f".{out.name}.progress")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    with progress_bar("pretraining") as report:
        report("reading the data", 0.0)
        prior = pretraining.pretrain(
            tasks, name=out.name, command=shlex.join(["handful", *sys.argv[1:]]),
            checkpoint=folder / "pretraining.safetensors", progress=report, **asked,
        )  # fmt: skip
    if not distributed.main_process():
        return  # the first rank writes and speaks
    save_prior(prior, out)
    shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        summary = {"out": str(out), "step": prior.step, "bytes_on_disk": size_on_disk(out), "cost": dict(prior.cost)}
        held = prior.course["held_out"]
        print_json({**summary, "data": list(prior.data), "held_out": held, "curve": list(prior.curve)})
        return
    _show_curve(prior.curve)
    speed = prior.cost["rows_per_second"]
    out_console.print(
        f"A prior for {prior.backbone}, {size_on_disk(out) / 1e3:.0f} kB, {speed} rows/s: {out}", highlight=False
    )
    use = f"handful fit DATA --backbone {prior.backbone} --recipe tfew --prior {out} --out TASK"
    out_console.print(f"Use it: {use}", highlight=False, soft_wrap=True)


def _show_curve(curve: Sequence[Mapping[str, float]]) -> None:
    columns = [name for name in (curve[-1] if curve else {}) if name != "step"]
    if not columns:
        return
    table = Table("step", *(name.replace("_", " ") for name in columns), box=None)
    for look in curve:
        shown = [
            f"{look[name]:.1%}" if name.endswith("accuracy") else f"{look[name]:.3f}" if name in look else ""
            for name in columns
        ]
        table.add_row(f"{look['step']:.0f}", *shown)
    out_console.print(table)
