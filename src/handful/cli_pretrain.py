"""`handful pretrain`: a method on a mixture of tasks that end in text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from handful.cli_options import Json


def pretrain(
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...", help="Files, DEFINITION=FILE, tasks of suites; options follow: a.csv:share=0.1."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the prior.")],
    backbone: Annotated[str, typer.Option(help="Alias, hub id or folder of one that writes text.")],
    method: Annotated[
        str, typer.Option(help="Options after colons, several with a plus: lora:rank=4+layernorm.")
    ] = "ia3",
    steps: Annotated[int, typer.Option(min=1, help="Steps; T-Few takes 100,000.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 16,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 3e-4,
    losses: Annotated[str, typer.Option(help="Of lm, ul and ln, joined by a plus.")] = "lm",
    optimizer: Annotated[str, typer.Option(help="adafactor-scaled, adafactor, adamw or sgd.")] = "adafactor-scaled",
    length: Annotated[int, typer.Option(min=1, help="Tokens to which prompts with their answers are cut.")] = 256,
    cap: Annotated[
        float, typer.Option(help="A task counts at most so many rows, divided by the number of its templates.")
    ] = 500_000,
    validation: Annotated[
        int, typer.Option(min=0, help="Rows of each task to hold out and look at; at most a tenth of them.")
    ] = 32,
    looks: Annotated[int, typer.Option(min=1, help="Steps between two looks at them.")] = 250,
    held_out: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="More data to look at, as DATA; rows of it that are in both are refused. Repeat."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Learn from rows of --held-out all the same.")] = False,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data", "--data-root", help="Folder with the suites' data; see docs/suites.md."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides first parameters, what is held out, drawn, and its order.")] = 0,
    dtype: Annotated[Optional[str], typer.Option(help="Number format of the backbone, e.g. bfloat16.")] = None,  # noqa: UP045
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, mps.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was interrupted.")] = False,
    as_json: Json = False,
) -> None:
    """Learn where T-Few starts from a mixture of tasks that end in text."""
    from typing import Any

    from handful import pretraincommands
    from handful.pretraining import Pretraining

    own: dict[str, Any] = {"optimizer": optimizer}
    course = Pretraining(
        steps=steps,
        batch=batch,
        lr=lr,
        losses=losses,
        length=length,
        cap=cap,
        validation=validation,
        looks=looks,
        **own,
    )
    pretraincommands.pretrain(
        tasks, out, backbone=backbone, method=method, course=course, held_out=held_out or [], force=force, data=data,
        seed=seed, dtype=dtype, device=device, resume=resume, as_json=as_json,
    )  # fmt: skip
