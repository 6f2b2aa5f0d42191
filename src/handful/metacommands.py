"""The commands of meta-learning, and how what they found looks."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from handful import distributed, metalearn
from handful.algorithms import algorithm as algorithm_named
from handful.console import out_console, print_json, progress_bar, quiet_libraries
from handful.counting import method_said
from handful.folders import check_target, size_on_disk
from handful.metatrain import Course, Look
from handful.primed import WHAT as PRIMED
from handful.primed import write_primed
from handful.prior import WHAT, save_prior


def meta_train(tasks: Sequence[str], out: Path, *, course: Course, resume: bool, as_json: bool, **asked: Any) -> None:
    """`handful meta-train`."""
    checkpoint = _begin(out, WHAT, resume, asked)
    with progress_bar("meta-training") as report:
        report("reading the tasks", 0.0)
        prior = metalearn.meta_train(
            tasks, course=course, name=out.name, command=_command(), checkpoint=checkpoint, progress=report, **asked
        )
    if not distributed.main_process():
        return  # the first rank writes and speaks
    save_prior(prior, out)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    if as_json:
        summary = {"out": str(out), "step": prior.step, "bytes_on_disk": size_on_disk(out), "cost": dict(prior.cost)}
        print_json({**summary, "data": list(prior.data), "curve": list(prior.curve)})
        return
    _show_curve([Look(**look) for look in prior.curve], prior.step)  # type: ignore[arg-type]
    out_console.print(f"A prior for {prior.backbone}, {size_on_disk(out) / 1e6:.2f} MB: {out}", highlight=False)
    out_console.print(f"Use it: handful fit DATA --prior {out} --out TASK", highlight=False)


def prime(
    tasks: Sequence[str], out: Path, *, course: Course, start_out: Path | None, resume: bool, as_json: bool,
    **asked: Any,
) -> None:  # fmt: skip
    """`handful prime`."""
    checkpoint = _begin(out, PRIMED, resume, asked)
    if start_out is not None:
        check_target(start_out, WHAT)
    with progress_bar("priming") as report:
        report("reading the tasks", 0.0)
        done, source = metalearn.prime(tasks, course=course, checkpoint=checkpoint, progress=report, **asked)
    if not distributed.main_process():
        return
    curve, data = [asdict(look) for look in done.found.curve], metalearn.told(source)
    write_primed(
        replace(done.primed, told={**done.primed.told, "command": _command(), "data": data, "curve": curve}), out
    )
    if start_out is not None:
        method = method_said(asked["method"])
        start = done.prior(start_out.name, str(out), method, course, seed=asked["seed"], command=_command(), data=data)
        save_prior(start, start_out)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    if as_json:
        print_json({"out": str(out), "step": done.found.step, "bytes_on_disk": size_on_disk(out), "curve": curve})
        return
    _show_curve(done.found.curve, done.found.step)
    size = size_on_disk(out) / 1e6
    out_console.print(f"{asked['backbone']}, primed for {asked['method']}, {size:.1f} MB: {out}", highlight=False)
    use = f"handful fit DATA --backbone {out} --recipe {asked['method']} --out TASK"
    out_console.print(f"Use it: {use}", highlight=False)


def _begin(out: Path, what: str, resume: bool, asked: dict[str, Any]) -> Path:
    """Where progress is kept; before anything is read, what was asked for is looked at."""
    quiet_libraries()
    check_target(out, what)
    if asked["algorithm"] != metalearn.MULTITASK:
        algorithm_named(asked["algorithm"])
    method_said(asked["method"])
    folder = out.with_name(f".{out.name}.progress")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    return folder / "outer.safetensors"


def _command() -> str:
    return shlex.join(["handful", *sys.argv[1:]])


def _show_curve(curve: Sequence[Look], kept: int) -> None:
    if not curve:
        return
    table = Table("outer steps", "training loss", "validation loss", "validation accuracy", box=None)
    for look in curve:
        mark = " (kept)" if look.step == kept else ""
        table.add_row(f"{look.step:.0f}{mark}", f"{look.training_loss:.3f}", f"{look.loss:.3f}", f"{look.accuracy:.1%}")
    out_console.print(table)
