"""The commands of meta-learning. Thin; imports nothing heavy before its time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from handful.cli_options import Json


def meta_train(
    tasks: Annotated[
        list[str],
        typer.Argument(metavar="TASKS...", help="Files, tasks of suites, cloze:FILE; options follow: a.csv:ways=2-5."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the prior.")],
    backbone: Annotated[str, typer.Option(help="Alias, hub id or folder.")] = "minilm",
    method: Annotated[
        str, typer.Option(help="Options after colons, several with a plus: lora:rank=4+layernorm.")
    ] = "lora",
    algorithm: Annotated[
        str, typer.Option(help="Options after colons: fomaml:steps=5; docs/meta-training.md.")
    ] = "protonet",
    steps: Annotated[int, typer.Option(min=1, help="Outer steps.")] = 500,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of an outer step.")] = 8,
    lr: Annotated[float, typer.Option(help="Outer learning rate.")] = 1e-3,
    validation: Annotated[float, typer.Option(help="Share of the classes that are held out to validate on.")] = 0.2,
    looks: Annotated[int, typer.Option(min=1, help="Outer steps between two looks at them.")] = 50,
    patience: Annotated[Optional[int], typer.Option(min=1, help="Looks without a gain after which it stops.")] = None,  # noqa: UP045
    held_out: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A file or suite that will be measured on: rows that are in it too are refused. Repeat."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Learn from rows of --held-out all the same.")] = False,
    start: Annotated[Optional[Path], typer.Option(help="A prior to go on from.")] = None,  # noqa: UP045
    data: Annotated[Optional[Path], typer.Option(help="Folder with the suites' data; see docs/suites.md.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Decides first parameters, episodes and what is held out.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, mps.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was interrupted.")] = False,
    as_json: Json = False,
) -> None:
    """Learn a starting point for tasks to come from many small tasks."""
    from handful import metacommands
    from handful.metatrain import Course

    metacommands.meta_train(
        tasks, out, backbone=backbone, method=method, algorithm=algorithm, validation=validation,
        course=Course(steps=steps, tasks=episodes, lr=lr, validate_every=looks, patience=patience),
        held_out=held_out or [], force=force, start=start, data=data, seed=seed, device=device, resume=resume,
        as_json=as_json,
    )  # fmt: skip


def prime(
    tasks: Annotated[
        list[str],
        typer.Argument(metavar="TASKS...", help="As for meta-train, e.g. ner3/uner_da ner3/uner_pt."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the primed backbone.")],
    backbone: Annotated[str, typer.Option(help="Alias, hub id or folder.")] = "minilm",
    method: Annotated[str, typer.Option(help="What will be tuned on it later.")] = "pfeiffer",
    algorithm: Annotated[
        str, typer.Option(help="As for meta-train; without inner steps it is multi-task training.")
    ] = "fomaml:steps=5:head=learned",
    steps: Annotated[int, typer.Option(min=1, help="Outer steps.")] = 500,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of an outer step.")] = 4,
    lr: Annotated[
        float, typer.Option(help="Outer learning rate; the backbone's own weights learn at 0.02 of it.")
    ] = 1e-3,
    validation: Annotated[float, typer.Option(help="Share of classes or sentences held out to validate on.")] = 0.2,
    looks: Annotated[int, typer.Option(min=1, help="Outer steps between two looks at them.")] = 50,
    patience: Annotated[Optional[int], typer.Option(min=1, help="Looks without a gain after which it stops.")] = None,  # noqa: UP045
    start_out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--prior", help="Folder for a prior too: where the method and the head start."),
    ] = None,
    data: Annotated[Optional[Path], typer.Option(help="Folder with the suites' data; see docs/suites.md.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Decides first parameters, episodes and what is held out.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, mps.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was interrupted.")] = False,
    as_json: Json = False,
) -> None:
    """Prepare a backbone, all of its weights, for the few parameters that will be tuned on it."""
    from handful import metacommands
    from handful.metatrain import Course

    metacommands.prime(
        tasks, out, backbone=backbone, method=method, algorithm=algorithm, validation=validation,
        course=Course(steps=steps, tasks=episodes, lr=lr, validate_every=looks, patience=patience),
        start_out=start_out, data=data, seed=seed, device=device, resume=resume, as_json=as_json,
    )  # fmt: skip
