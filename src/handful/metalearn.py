"""From tasks to a prior, and to a primed backbone: what `handful meta-train` and `handful prime` do, as functions."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from handful.algorithms import algorithm as algorithm_named
from handful.attach import attach
from handful.backbone import Backbone, shared
from handful.counting import method_said
from handful.errors import HandfulWarning, RequestError
from handful.holdouts import hold_out, overlap
from handful.meta import Algorithm
from handful.metasources import read_sources
from handful.metatasks import Mixture, Source, Supervised
from handful.metatrain import Course, learn
from handful.methods import Method, OverTasks
from handful.noise import mix
from handful.pools import find_pools
from handful.priming import Priming
from handful.priming import prime as prime_on
from handful.prior import Prior, opened
from handful.progress import Progress, silent
from handful.recipes.tune import tune
from handful.suites import is_suite, suite
from handful.types import Episode, Task

MULTITASK = "multitask"
"""In place of an algorithm: multi-task training of the same parameters, to compare with."""
LOOKED_AT = 64
"""Episodes of a look at the validation tasks."""


def meta_train(
    tasks: Sequence[str] | Source,
    *,
    backbone: str | Backbone = "minilm",
    method: str | Method = "lora",
    algorithm: str | Algorithm = "protonet",
    course: Course | None = None,
    validation: float | Sequence[Episode] = 0.2,
    held_out: Sequence[str] = (),
    force: bool = False,
    start: Prior | str | Path | None = None,
    data: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    name: str = "prior",
    command: str = "",
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Prior:
    """Learns over many small tasks what the tasks to come start from; `prior.save_prior` writes it.

    tasks       what `metasources.read_sources` reads (files, tasks of suites, hidden words), or a source of episodes
    validation  share of the classes to hold out, or episodes; the parameters of the best look at them are kept
    held_out    files or suites that will be measured on: DataError for rows that are in both, unless `force`
    start       a prior to go on from
    algorithm   by name, or "multitask": multi-task training of the same parameters, the arm to compare with
    checkpoint  a file to continue from, and to keep progress in

    Raises RequestError and DataError for tasks that cannot be had, RunError where the outer loop diverges.
    """
    frozen = _loaded(backbone, device)
    known = method_said(method) if isinstance(method, str) else method
    course = _checked(course or Course())
    before = opened(start, frozen, known) if start is not None else None
    source, episodes = _prepared(tasks, frozen, validation, held_out, force, data, seed)
    began = time.monotonic()
    if algorithm == MULTITASK:
        return _multitask(source, frozen, known, course, seed=seed, name=name, command=command, progress=progress)
    found = learn(
        source, frozen, known, _algorithm(algorithm), course, validation=episodes, seed=seed,
        start=before.learned if before else None, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    cost = {
        "seconds": round(time.monotonic() - began, 1), "episodes": len(found.losses) * course.tasks,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Prior.of(found, name, course, seed=seed, command=command, data=told(source), cost=cost)


def _multitask(
    source: Source, backbone: Backbone, method: Method, course: Course, *, seed: int, progress: Progress, **rest: Any
) -> Prior:
    """The control arm: the same parameters held in common by all tasks, a head for each, and no episodes."""
    parts = source.sources if isinstance(source, Mixture) else [source]
    tasks = [part.task for part in parts if isinstance(part, Supervised)]
    if len(tasks) < len(parts):
        raise RequestError(
            "Multi-task training was asked for.", "Some of the sources are no labelled sets as they are.",
            "Give labelled sets alone, without grouped= and cloze:.",
        )  # fmt: skip
    adapted = attach(backbone, method)
    fitted = tune(
        tasks, backbone, method=OverTasks(method=method), steps=course.steps, lr=course.lr, num_folds=0,
        together=True, seed=seed, progress=progress,
    )  # fmt: skip
    return Prior(
        backbone=backbone.id, fingerprint=backbone.fingerprint, method=method, learned=fitted[0].params,
        algorithm=algorithm_named("protonet"), data=told(source), course=course.to_dict(), seed=seed, step=course.steps,
        sites=adapted.site_table(), **rest,
    )  # fmt: skip


def prime(
    tasks: Sequence[str] | Source,
    *,
    backbone: str | Backbone = "minilm",
    method: str | Method = "pfeiffer",
    algorithm: str | Algorithm = "fomaml:steps=5:head=learned",
    course: Course | None = None,
    validation: float | Sequence[Episode] = 0.2,
    held_out: Sequence[str] = (),
    force: bool = False,
    data: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> tuple[Priming, Source]:
    """Learns the backbone's own weights for a method that is tuned later; also the source, without what was held out.

    Arguments are those of `meta_train`. `primed.write_primed` writes the result.
    """
    frozen = _loaded(backbone, device)
    known = method_said(method) if isinstance(method, str) else method
    source, episodes = _prepared(tasks, frozen, validation, held_out, force, data, seed)
    found = prime_on(
        source, frozen, known, _algorithm(algorithm), _checked(course or Course(tasks=4)), validation=episodes,
        seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return found, source


def told(source: Source) -> list[dict[str, Any]]:
    """What a prior says about the parts of a source."""
    parts = zip(source.sources, source.chances, strict=True) if isinstance(source, Mixture) else [(source, 1.0)]
    return [{"name": p.name, "size": p.size, "share": round(share, 4), "digest": p.digest()} for p, share in parts]


def _prepared(
    tasks: Sequence[str] | Source, backbone: Backbone, validation: float | Sequence[Episode], held_out: Sequence[str],
    force: bool, data: str | Path | None, seed: int,
) -> tuple[Source, list[Episode]]:  # fmt: skip
    """The source to learn from, and episodes of what is held out of it."""
    if isinstance(tasks, str):
        tasks = [tasks]
    if isinstance(tasks, Sequence):
        mask = getattr(backbone.tokenizer, "mask_token", None) or "[MASK]"
        source: Source = read_sources(tasks, data, mask_token=mask)
    else:
        source = tasks
    folder = None if data is None else Path(data)
    overlap([source], [task for spec in held_out for task in _measured(spec, folder)], force=force)
    if not isinstance(validation, float | int):
        return source, list(validation)
    if not validation:
        return source, []
    kept, held = hold_out(source, float(validation), seed=seed)
    if held is None:
        message = "No set has classes enough to hold some out: meta-training has no validation curve."
        warnings.warn(message, HandfulWarning, stacklevel=3)
        return kept, []
    return kept, [held.draw(mix(seed, -1, i)) for i in range(LOOKED_AT)]


def _loaded(backbone: str | Backbone, device: str) -> Backbone:
    return shared(backbone, device=device) if isinstance(backbone, str) else backbone


def _algorithm(said: str | Algorithm) -> Algorithm:
    return algorithm_named(said) if isinstance(said, str) else said


def _checked(course: Course) -> Course:
    if not course.lr > 0:
        found = f"Its learning rate is {course.lr:g}."
        raise RequestError("An outer loop was asked for.", found, "Give a rate above 0.")
    return course


def _measured(spec: str, data: Path | None) -> list[Task]:
    """All rows that the tasks of a file or suite learn from or ask."""
    pools = suite(spec).pools(data) if is_suite(spec) else find_pools(spec)
    shots = suite(spec).shots[0] if is_suite(spec) else 1
    held = [(pool.rows(), pool.episode(shots, 0).query) for pool in pools]
    return [
        Task(rows.name, list(dict.fromkeys([*rows.examples, *query.examples])), rows.labels, rows.kind)
        for rows, query in held
    ]
