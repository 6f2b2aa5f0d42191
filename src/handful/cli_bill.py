"""`handful bill`: what tuning and prompting cost."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from handful.bill import Work

DONE = Work()
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def bill(
    backbone: Annotated[str, typer.Option(help="What is tuned: t0-11b, t5-base, ..., an alias, or a config.json.")],
    prompted: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What is prompted in its place, e.g. gpt3-175b; the same backbone if not given."),
    ] = None,
    method: Annotated[str, typer.Option(help="What is tuned of it, as for `handful methods count`.")] = "ia3",
    shots: Annotated[int, typer.Option(min=0, help="Examples in the prompt.")] = DONE.shots,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an example with its answer.")] = DONE.tokens,
    query: Annotated[int, typer.Option(min=1, help="Tokens of a question with all its choices.")] = DONE.query,
    steps: Annotated[int, typer.Option(min=1, help="Steps of tuning.")] = DONE.steps,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = DONE.batch,
    as_json: Json = False,
) -> None:
    """Say what tuning and prompting cost, from shapes alone, and when tuning has paid for itself."""
    from handful import billing

    work = Work(shots=shots, tokens=tokens, query=query, steps=steps, batch=batch)
    billing.show(backbone, prompted or backbone, method, work, as_json=as_json)
