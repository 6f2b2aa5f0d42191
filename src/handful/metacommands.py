"""What the commands of meta-learning do, and how it looks."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.table import Table

from handful import distributed
from handful.algorithms import algorithm as algorithm_named
from handful.backbone import shared
from handful.console import out_console, print_json, progress_bar, quiet_libraries
from handful.counting import method_said
from handful.errors import HandfulWarning, RequestError
from handful.folders import check_target, size_on_disk
from handful.holdouts import hold_out, overlap
from handful.metasources import read_sources
from handful.metatasks import Mixture
from handful.metatrain import Course, Look
from handful.metatrain import meta_train as train
from handful.noise import mix
from handful.pools import Pool, find_pools
from handful.primed import WHAT as PRIMED
from handful.primed import write_primed
from handful.priming import prime as prime_backbone
from handful.prior import WHAT, Prior, load_prior, save_prior
from handful.suites import is_suite, suite
from handful.types import Episode, Task

LOOKED_AT = 64
"""Episodes of a look at the validation tasks."""


def meta_train(
    tasks: Sequence[str], out: Path, *, backbone: str, method: str, algorithm: str, steps: int, episodes: int,
    lr: float, validation: float, looks: int, patience: int | None, held_out: Sequence[str], force: bool,
    start: Path | None, data: Path | None, seed: int, device: str, resume: bool, as_json: bool,
) -> None:  # fmt: skip
    """`handful meta-train`."""
    quiet_libraries()
    check_target(out, WHAT)
    chosen, known = algorithm_named(algorithm), method_said(method)
    if not lr > 0:
        raise RequestError("An outer loop was asked for.", f"Its learning rate is {lr:g}.", "Give a rate above 0.")
    course = Course(steps=steps, tasks=episodes, lr=lr, validate_every=looks, patience=patience)
    progress_folder = out.with_name(f".{out.name}.progress")
    if not resume:
        shutil.rmtree(progress_folder, ignore_errors=True)
    before = load_prior(start) if start else None
    with progress_bar("meta-training") as report:
        report("reading the tasks", 0.0)
        frozen = shared(backbone, device=device)
        if before is not None:
            before.check(frozen, known)
        source = read_sources(tasks, data, mask_token=getattr(frozen.tokenizer, "mask_token", None) or "[MASK]")
        overlap(source.sources, [_measured(pool) for spec in held_out for pool in _pools(spec, data)], force=force)
        source, episodes_held = _held(source, validation, seed)
        began = time.monotonic()
        found = train(
            source, frozen, known, chosen, course,
            validation=episodes_held, seed=seed, start=before.learned if before else None,
            checkpoint=progress_folder / "outer.safetensors", progress=report,
        )  # fmt: skip
    if not distributed.main_process():
        return  # the first rank writes and speaks
    seconds = round(time.monotonic() - began, 1)
    prior = Prior.of(
        found, out.name, course, seed=seed, command=shlex.join(["handful", *sys.argv[1:]]), data=_told(source),
        cost={"seconds": seconds, "episodes": len(found.losses) * episodes, "threads": torch.get_num_threads()},
    )  # fmt: skip
    save_prior(prior, out)
    shutil.rmtree(progress_folder, ignore_errors=True)
    summary = {
        "out": str(out), "step": found.step, "bytes_on_disk": size_on_disk(out), "cost": dict(prior.cost),
        "data": list(prior.data), "curve": list(prior.curve),
    }  # fmt: skip
    if as_json:
        print_json(summary)
    else:
        _show_curve(found.curve, found.step)
        size = size_on_disk(out) / 1e6
        out_console.print(f"A prior for {prior.backbone}, {size:.2f} MB: {out}", highlight=False)
        out_console.print(f"Use it: handful fit DATA --prior {out} --out TASK", highlight=False)


def prime(
    tasks: Sequence[str], out: Path, *, backbone: str, method: str, algorithm: str, steps: int, episodes: int,
    lr: float, validation: float, looks: int, patience: int | None, start_out: Path | None, data: Path | None,
    seed: int, device: str, resume: bool, as_json: bool,
) -> None:  # fmt: skip
    """`handful prime`."""
    quiet_libraries()
    check_target(out, PRIMED)
    if start_out is not None:
        check_target(start_out, WHAT)
    chosen, known = algorithm_named(algorithm), method_said(method)
    course = Course(steps=steps, tasks=episodes, lr=lr, validate_every=looks, patience=patience)
    progress_folder = out.with_name(f".{out.name}.progress")
    if not resume:
        shutil.rmtree(progress_folder, ignore_errors=True)
    with progress_bar("priming") as report:
        report("reading the tasks", 0.0)
        frozen = shared(backbone, device=device)
        source, episodes_held = _held(read_sources(tasks, data), validation, seed)
        done = prime_backbone(
            source, frozen, known, chosen, course, validation=episodes_held, seed=seed,
            checkpoint=progress_folder / "outer.safetensors", progress=report,
        )  # fmt: skip
    if not distributed.main_process():
        return
    command = shlex.join(["handful", *sys.argv[1:]])
    curve = [asdict(look) for look in done.found.curve]
    told = {**done.primed.told, "command": command, "data": _told(source), "curve": curve}
    write_primed(replace(done.primed, told=told), out)
    if start_out is not None:
        prior = done.prior(start_out.name, str(out), known, course, seed=seed, command=command, data=_told(source))
        save_prior(prior, start_out)
    shutil.rmtree(progress_folder, ignore_errors=True)
    if as_json:
        print_json({"out": str(out), "step": done.found.step, "bytes_on_disk": size_on_disk(out), "curve": curve})
        return
    _show_curve(done.found.curve, done.found.step)
    out_console.print(f"{backbone}, primed for {method}, {size_on_disk(out) / 1e6:.1f} MB: {out}", highlight=False)
    out_console.print(f"Use it: handful fit DATA --backbone {out} --recipe {method} --out TASK", highlight=False)


def _held(source: Mixture, share: float, seed: int) -> tuple[Mixture, list[Episode]]:
    """The source without what is held out, and episodes of what is."""
    if not share:
        return source, []
    kept, held = hold_out(source, share, seed=seed)
    assert isinstance(kept, Mixture)
    if held is None:
        message = "No set has classes enough to hold some out: meta-training has no validation curve."
        warnings.warn(message, HandfulWarning, stacklevel=2)
        return kept, []
    return kept, [held.draw(mix(seed, -1, i)) for i in range(LOOKED_AT)]


def _told(source: Mixture) -> list[dict[str, object]]:
    return [
        {"name": own.name, "size": own.size, "share": round(share, 4), "digest": own.digest()}
        for own, share in zip(source.sources, source.chances, strict=True)
    ]


def _pools(spec: str, data: Path | None) -> Sequence[Pool]:
    return suite(spec).pools(data) if is_suite(spec) else find_pools(spec)


def _measured(pool: Pool) -> Task:
    """All rows that a pool learns from or asks."""
    rows, asked = pool.rows(), pool.episode(1, 0).query
    return Task(pool.name, [*rows.examples, *asked.examples], rows.labels, rows.kind)


def _show_curve(curve: Sequence[Look], kept: int) -> None:
    if not curve:
        return
    table = Table("outer steps", "training loss", "validation loss", "validation accuracy", box=None)
    for look in curve:
        mark = " (kept)" if look.step == kept else ""
        table.add_row(f"{look.step}{mark}", f"{look.training_loss:.3f}", f"{look.loss:.3f}", f"{look.accuracy:.1%}")
    out_console.print(table)
