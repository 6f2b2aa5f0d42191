"""`handful prompt`: what a backbone sees of a row."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from handful.cli_options import Json

Column = Optional[str]  # noqa: UP045


def prompt(
    task: Annotated[str, typer.Argument(help="A file of rows; or a task definition (a file, or a name) with --data.")],
    row: Annotated[int, typer.Argument(min=1, help="Which row, counted from 1.")] = 1,
    data: Annotated[Column, typer.Option(help="The rows that the definition reads.")] = None,
    template: Annotated[
        Column, typer.Option(help="A name, `all`, or a text with {{ column }}; the first if not given.")
    ] = None,
    backbone: Annotated[Column, typer.Option(help="Show the tokens of this one, and what it has to cut.")] = None,
    text: Annotated[Column, typer.Option(help="Column of the text; found by its name if not given.")] = None,
    text_pair: Annotated[Column, typer.Option("--text-pair", help="Column of the second text of a pair.")] = None,
    label: Annotated[Column, typer.Option(help="Column of the label.")] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="The rows have no labels.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a backbone sees of a row: its prompt, its choices, and with --backbone its tokens."""
    from handful import prompting

    columns = {"text": text, "text_pair": text_pair, "label": label}
    prompting.show(
        task, row, data=data, columns=columns, unlabelled=unlabelled, template=template, backbone=backbone,
        as_json=as_json,
    )  # fmt: skip
