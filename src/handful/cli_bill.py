"""`handful bill`: what tuning and prompting cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from handful.bill import Work
from handful.cli_options import Json

DONE = Work()


def bill(
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="[TASK]", help="A fitted task, whose own bill is made; else --backbone says of what."),
    ] = None,
    backbone: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What is tuned: T0-3B, t5-base, ..., an alias, or a config.json."),
    ] = None,
    prompted: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What is prompted in its place, e.g. gpt3-175b; the same backbone if not given."),
    ] = None,
    method: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What is tuned of it, as for `handful methods count`; ia3 if not given."),
    ] = None,
    shots: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help=f"Examples in the prompt; {DONE.shots}, or all rows of the task, if not given."),
    ] = None,
    tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help=f"Tokens of an example with its answer; {DONE.tokens}, or the mean of the task's rows."),
    ] = None,
    query: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help=f"Tokens of a question with all its choices; {DONE.query}, or as the task noted."),
    ] = None,
    steps: Annotated[Optional[int], typer.Option(help=f"Steps of tuning; {DONE.steps} if not given.")] = None,  # noqa: UP045
    batch: Annotated[Optional[int], typer.Option(help=f"Rows of a step; {DONE.batch} if not given.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Say what tuning and prompting cost, and when tuning has paid off: of a fitted task, or from shapes alone."""
    from handful import billing

    sizes = {"shots": shots, "tokens": tokens, "query": query}
    course = {"method": method, "steps": steps, "batch": batch}
    billing.show(folder, backbone, prompted, sizes, course, as_json=as_json)
