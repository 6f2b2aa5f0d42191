"""Runs the benchmarks, prints target, ratio and whether it was reached, and writes `benchmarks/results/NAME.json`.

python benchmarks/run.py [--only NAME ...] [--quick] [--threads 2]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.timing import Figure, Report

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "step",
    "memory",
    "cached",
    "lengths",
    "many_tasks",
    "bf16",
    "startup",
    "default_fit",
    "vmap",
    "grid",
    "scale",
    "shelf",
    "shelf_costs",
    "meta_step",
    "words",
)
PACKAGES = ("torch", "transformers", "peft", "numpy", "scikit-learn")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="few repeats and nothing written: does it still run?")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(arguments)
    _prepare(asked.threads)
    failed, all_figures = [], []
    for name in asked.only:
        print(f"{name}: {_summary(name)}", flush=True)
        began = time.perf_counter()
        try:
            report: Report = importlib.import_module(f"benchmarks.{name}").run(asked.quick)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        seconds = time.perf_counter() - began
        _print(report.figures)
        print(f"  {seconds:.0f} s\n", flush=True)
        all_figures += [figure for figure in report.figures if figure.target is not None]
        if not asked.quick:
            _write(name, report, seconds)
    missed = [figure.name for figure in all_figures if not figure.reached]
    print(f"{len(all_figures) - len(missed)} of {len(all_figures)} targets reached.")
    for line in (*(f"missed: {name}" for name in missed), *(f"failed: {name}" for name in failed)):
        print(line)
    return 1 if failed else 0


def machine() -> dict[str, Any]:
    """What the figures depend on; no name of the host and no path."""
    import torch

    flags = _cpuinfo("flags").split()
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": _cpuinfo("model name") or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "avx512_bf16": "avx512_bf16" in flags,
        "amx_bf16": "amx_bf16" in flags,
        "system": platform.system(),
        "python": platform.python_version(),
        **versions,
    }


def commit() -> str:
    """The commit that was measured, with "+" where files of the package differ from it."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        changed = subprocess.run(
            ["git", "status", "--porcelain", "src"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip()[:12] + ("+" if changed.strip() else "")


def _prepare(threads: int) -> None:
    """Imports from the checkout, offline, with a fixed number of threads and no chatter."""
    sys.path[0] = str(ROOT)  # not this folder: its modules have names like `coverage`
    sys.path.insert(1, str(ROOT / "src"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for variable in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _summary(name: str) -> str:
    return (importlib.import_module(f"benchmarks.{name}").__doc__ or "").splitlines()[0]


def _print(figures: Sequence[Figure]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("")
    for column in ("target", "wall", "quartiles", "CPU"):
        table.add_column(column, justify="right")
    table.add_column("reached")
    for figure in figures:
        target = "" if figure.target is None else f"{figure.sense} {figure.target:g}"
        reached = {None: "", True: "yes", False: "NO"}[figure.reached]
        cpu = f"{figure.cpu.value:.2f}" if figure.cpu else ""
        spread = "" if figure.wall.low == figure.wall.high else f"{figure.wall.low:.2f} to {figure.wall.high:.2f}"
        table.add_row(figure.name, target, f"{figure.wall.value:.2f}", spread, cpu, reached)
    Console(width=140).print(table)


def _write(name: str, report: Report, seconds: float) -> None:
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    content = {
        "benchmark": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "seconds": round(seconds),
        "figures": [figure.to_json() for figure in report.figures],
        "details": report.details,
    }
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == field), "")


if __name__ == "__main__":
    sys.exit(main())
