"""The command line: thin, verb first. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

from handful import __version__, cli_bill, cli_meta, cli_pretrain, cli_prompt, cli_raft, cli_runs
from handful.cli_options import Device, Json
from handful.errors import HandfulError, HandfulWarning

app = typer.Typer(
    help="Teach a frozen pretrained transformer a new task from a handful of labelled examples.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

Text = Annotated[Optional[str], typer.Option(help="Column of the text; found by its name if not given.")]  # noqa: UP045
Pair = Annotated[Optional[str], typer.Option("--text-pair", help="Column of the second text of a pair.")]  # noqa: UP045
Label = Annotated[Optional[str], typer.Option(help="Column of the label.")]  # noqa: UP045
Separator = Annotated[Optional[str], typer.Option(help="Several labels a row, separated by this.")]  # noqa: UP045
Defined = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--definition", "-d", metavar="FILE|NAME", help="A task definition that says how rows are read."),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"handful {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if debug:
        os.environ["HANDFUL_DEBUG"] = "1"


@app.command(no_args_is_help=True)
def fit(
    train: Annotated[str, typer.Argument(help="CSV, TSV, JSONL (also .gz), CoNLL, Parquet, or a hub data set.")],
    out: Annotated[Path, typer.Option(help="Folder for the fitted task.")],
    text: Text = None,
    text_pair: Pair = None,
    label: Label = None,
    multilabel_separator: Separator = None,
    definition: Defined = None,
    backbone: Annotated[str, typer.Option(help="Alias, hub id or folder.")] = "minilm",
    recipe: Annotated[str, typer.Option(help="See `handful recipes`.")] = "default",
    prior: Annotated[
        Path | None, typer.Option(help="What `handful meta-train` or `pretrain` wrote, to start from.")
    ] = None,
    template: Annotated[Optional[str], typer.Option(help="Text with {text}, or Jinja: {{ column }}.")] = None,  # noqa: UP045
    shots: Annotated[Optional[int], typer.Option(min=1, help="So many rows a class, entities a type, or rows.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Decides folds, initial parameters and order.")] = 0,
    dtype: Annotated[Optional[str], typer.Option(help="Number format of the backbone, e.g. bfloat16.")] = None,  # noqa: UP045
    quantize: Annotated[Optional[str], typer.Option(help="Frozen weights in fewer bits: int8, nf4, bnb8.")] = None,  # noqa: UP045
    device: Device = "cpu",
    cache: Annotated[Optional[Path], typer.Option(help="Folder to keep frozen activations in.")] = None,  # noqa: UP045
    resume: Annotated[bool, typer.Option("--resume", help="Continue a fit that was interrupted.")] = False,
    as_json: Json = False,
) -> None:
    """Fit a task and say how good it is."""
    from handful import commands

    commands.fit(
        train, out, columns={"text": text, "text_pair": text_pair, "label": label},
        separator=multilabel_separator, definition=definition,
        backbone=f"{backbone}@{quantize}" if quantize else backbone, recipe=recipe, prior=prior, template=template,
        shots=shots, seed=seed, dtype=dtype, device=device, cache=cache, resume=resume,
        as_json=as_json,
    )  # fmt: skip


@app.command(no_args_is_help=True)
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A fitted task.")],
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Rows to label; - for standard input.")],
    out: Annotated[Optional[Path], typer.Option(help="File for the answers, as JSON lines.")] = None,  # noqa: UP045
    text: Text = None,
    text_pair: Pair = None,
    definition: Defined = None,
    backbone: Annotated[Optional[str], typer.Option(help="Where the task's backbone is now.")] = None,  # noqa: UP045
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Label rows: a JSON line each, with the label and the probability of every class or choice, or its entities."""
    from handful import commands

    columns = {"text": text, "text_pair": text_pair}
    commands.predict(
        folder, source, out, columns=columns, definition=definition, backbone=backbone, device=device, as_json=as_json
    )


@app.command(no_args_is_help=True)
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A fitted task.")],
    test: Annotated[str, typer.Argument(help="Labelled rows that were not trained on.")],
    text: Text = None,
    text_pair: Pair = None,
    label: Label = None,
    multilabel_separator: Separator = None,
    definition: Defined = None,
    backbone: Annotated[Optional[str], typer.Option(help="Where the task's backbone is now.")] = None,  # noqa: UP045
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure a fitted task on a labelled test set."""
    from handful import commands

    columns = {"text": text, "text_pair": text_pair, "label": label}
    commands.evaluate(
        folder, test, columns=columns, separator=multilabel_separator, definition=definition, backbone=backbone,
        device=device, as_json=as_json,
    )  # fmt: skip


@app.command(no_args_is_help=True)
def export(
    folder: Annotated[Path, typer.Argument(metavar="TASK", help="A fitted task.")],
    out: Annotated[Path, typer.Option(help="A new folder, for peft.")],
    backbone: Annotated[Optional[str], typer.Option(help="Where the task's backbone is now.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Write a fitted task as a folder that peft reads, its class head beside it; docs/formats.md has the details."""
    from handful import exporting

    exporting.export(folder, out, backbone=backbone, as_json=as_json)


@app.command(no_args_is_help=True)
def info(
    what: Annotated[str, typer.Argument(metavar="DIR|BACKBONE", help="A fitted task or a backbone.")],
    as_json: Json = False,
) -> None:
    """Say what a fitted task or a backbone is."""
    from handful import commands

    commands.info(what, as_json=as_json)


methods = typer.Typer(help="List the methods, or count what one trains.", rich_markup_mode=None)


@methods.callback(invoke_without_command=True)
def list_methods(context: typer.Context, as_json: Json = False) -> None:
    """List the methods, each with the share of the default backbone's parameters that it trains."""
    if context.invoked_subcommand is None:
        from handful import commands

        commands.list_methods(as_json=as_json)


@methods.command("count")
def count_method(
    method: Annotated[str, typer.Option(help="Options after colons, several with a plus: lora:rank=4+layernorm.")],
    backbone: Annotated[str, typer.Option(help="t5-base, t0-11b, ..., an alias, or a config.json or its folder.")],
    tasks: Annotated[int, typer.Option(min=1, help="So many tasks; what they hold in common counts once.")] = 1,
    as_json: Json = False,
) -> None:
    """Say how many parameters a method trains on a backbone, from its shape alone."""
    from handful import commands

    commands.count_method(backbone, method, tasks=tasks, as_json=as_json)


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes."""
    from handful import commands

    commands.list_recipes(as_json=as_json)


@app.command()
def backbones(as_json: Json = False) -> None:
    """List the backbones that have a short name."""
    from handful import commands

    commands.list_backbones(as_json=as_json)


@app.command()
def demo(seed: int = 0) -> None:
    """Learn five topics from 4, 8 and 16 examples each, with the embedded backbone and data of an installed package."""
    from handful import demo as shown

    shown.run(seed)


app.command(no_args_is_help=True)(cli_runs.compare)
app.command(no_args_is_help=True)(cli_runs.search)
app.command(no_args_is_help=True)(cli_runs.report)
app.command("meta-train", no_args_is_help=True)(cli_meta.meta_train)
app.command(no_args_is_help=True)(cli_meta.prime)
app.command(no_args_is_help=True)(cli_bill.bill)
app.command(no_args_is_help=True)(cli_pretrain.pretrain)
app.command(no_args_is_help=True)(cli_prompt.prompt)
app.add_typer(methods, name="methods")
app.add_typer(cli_raft.raft, name="raft")
app.add_typer(cli_runs.runs, name="runs")
app.add_typer(cli_runs.suites, name="suites")


def main() -> NoReturn:
    """Runs a command; a user's mistake is a message and exit status 2, never a traceback."""
    warnings.showwarning = _show_warning
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", HandfulWarning)
    try:
        status = app(standalone_mode=False) or 0
        if status == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except HandfulError as error:
        status = _fail(error, error.exit_status)
    except KeyboardInterrupt:
        typer.echo(
            "\nstopped; `handful fit ... --resume` continues a fit, and `handful compare` goes on where it was",
            err=True,
        )
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except typer.Abort:
        status = 1
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error of the command line itself
            error.show()  # type: ignore[attr-defined]
            status = error.exit_code  # type: ignore[attr-defined]
        else:
            status = _fail(error, 1)
    sys.exit(status)


def _fail(error: Exception, status: int) -> int:
    if os.environ.get("HANDFUL_DEBUG"):
        raise error
    if isinstance(error, HandfulError):
        typer.echo(f"error: {error}", err=True)
    else:
        typer.echo(
            f"error: {type(error).__name__}: {error} (this is a defect of handful; --debug shows where)", err=True
        )
    return status


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if issubclass(category, HandfulWarning):
        typer.echo(f"warning: {message}", err=True)
