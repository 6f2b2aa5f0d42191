"""`handful raft`: the benchmark's tasks fitted, answered and handed in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from handful.cli_options import Device, Json

raft = typer.Typer(help="The RAFT benchmark; see docs/raft.md.", no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[Path | None, typer.Option(help="Folder with raft/TASK/train.csv and test.csv; the hub if not given.")]


@raft.command(no_args_is_help=True)
def fit(
    out: Annotated[Path, typer.Option(help="Folder for the fitted tasks; those in it are kept.")],
    backbone: Annotated[str, typer.Option(help="Alias, hub id or folder.")],
    data: Data = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    recipe: Annotated[str, typer.Option(help="See `handful recipes`.")] = "tfew",
    prior: Annotated[Path | None, typer.Option(help="A prior to start from.")] = None,
    seed: Annotated[int, typer.Option(help="Decides initial parameters and order.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="Number format of the backbone, e.g. bfloat16.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> int:
    """Fit every task that is there from its 50 rows, each into a folder of its name."""
    from handful import raftcommands

    return raftcommands.fit(
        data, out, only=task or [], recipe=recipe, backbone=backbone, prior=prior, seed=seed, dtype=dtype,
        device=device, as_json=as_json,
    )  # fmt: skip


@raft.command(no_args_is_help=True)
def submit(
    fitted: Annotated[Path, typer.Option(help="Folder that `handful raft fit` wrote.")],
    out: Annotated[Path, typer.Option(help="A new folder, for the benchmark.")],
    data: Data = None,
    name: Annotated[
        str | None, typer.Option(help="What to call the submission; the folder's name if not given.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Where the tasks' backbone is now.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> int:
    """Answer the test rows of each task, and write the folder that the benchmark takes."""
    from handful import raftcommands

    called = out.resolve().name if name is None else name
    return raftcommands.submit(data, fitted, out, name=called, backbone=backbone, device=device, as_json=as_json)


@raft.command(no_args_is_help=True)
def validate(
    folder: Annotated[Path, typer.Argument(help="What is to be submitted.")],
    data: Data = None,
    as_json: Json = False,
) -> int:
    """Say everything that is wrong with a submission, by file and line; exit status 1 if anything is."""
    from handful import raftcommands

    return raftcommands.validate(folder, data, as_json=as_json)
