"""The commands around comparisons: compare, report, runs and suites. Thin; imports nothing heavy before its time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from handful.cli_options import Json

runs = typer.Typer(help="What a store of results holds.", no_args_is_help=True, rich_markup_mode=None)
suites = typer.Typer(help="The papers' suites of tasks.", no_args_is_help=True, rich_markup_mode=None)

StoreFile = Annotated[Path, typer.Argument(metavar="STORE", help="A file that `handful compare` has made.")]
Data = Annotated[Path | None, typer.Option(help="Folder with the suites' data; see docs/suites.md.")]


def compare(
    sources: Annotated[
        list[str], typer.Argument(metavar="DATA|SUITE...", help="Files, folders with train.* and test.*, or suites.")
    ],
    store: Annotated[Path, typer.Option(help="File for the results; what is there is not run again.")] = Path(
        "runs.sqlite"
    ),
    recipes: Annotated[
        str, typer.Option(help="With commas; options after colons, as in lora:rank=4:steps=100.")
    ] = "default,probe,prototypes",
    backbones: Annotated[str, typer.Option(help="Aliases, hub ids or folders, with commas.")] = "minilm",
    shots: Annotated[
        str | None,
        typer.Option(help="Examples a class, with commas.  [default: 4,8,16, or the suite's]", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="How many draws of each.  [default: 5, or the suite's]", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, or auto.")] = None,
    test: Annotated[str | None, typer.Option(help="Rows to measure on; otherwise those not drawn.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Column of the second text of a pair.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    multilabel_separator: Annotated[
        str | None,
        typer.Option(help="Several labels a row, separated by this."),
    ] = None,
    template: Annotated[str | None, typer.Option(help="Text with {text} and {text_pair}.")] = None,
    ways: Annotated[int | None, typer.Option(min=2, help="So many classes, drawn with each seed.")] = None,
    test_rows: Annotated[int | None, typer.Option(min=1, help="At most so many rows to measure on.")] = None,
    drop_overlap: Annotated[
        bool, typer.Option("--drop-overlap", help="Learn from no row that is in the test split too.")
    ] = False,
    data: Data = None,
    dtype: Annotated[str | None, typer.Option(help="Number format of the backbones, e.g. bfloat16.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, mps.")] = "cpu",
    as_json: Json = False,
) -> int:
    """Compare recipes fairly: the same rows, seeds and tests for all, kept in a store that survives anything."""
    from handful import comparing
    from handful.pools import Reading

    reading = Reading(text, text_pair, label, multilabel_separator, template, drop_overlap)
    return comparing.compare(
        sources, recipes=recipes, backbones=backbones, shots=shots, seeds=seeds, jobs=jobs, ray=ray, store=store,
        test=test, reading=reading, ways=ways,
        test_rows=test_rows, data=data, dtype=dtype, device=device, as_json=as_json,
    )  # fmt: skip


def search(
    sources: Annotated[list[str], typer.Argument(metavar="DATA|SUITE...", help="Tasks that will not be reported.")],
    recipe: Annotated[str, typer.Option(help="What to tune, with options that stay as they are.")],
    vary: Annotated[list[str], typer.Option(help="An option: lr=1e-4..1e-2, or rank=2|4|8. May be repeated.")],
    store: Annotated[Path, typer.Option(help="The comparison's store: it learns what was chosen on what.")] = Path(
        "runs.sqlite"
    ),
    trials: Annotated[int, typer.Option(min=1, help="How many; the first one is the recipe as it is.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides what is tried.")] = 0,
    backbone: Annotated[str, typer.Option(help="Alias, hub id or folder.")] = "minilm",
    shots: Annotated[str | None, typer.Option(help="Examples a class, with commas.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many draws of each.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    text: Annotated[str | None, typer.Option(help="Column of the text.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Column of the second text of a pair.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    drop_overlap: Annotated[bool, typer.Option("--drop-overlap", help="Learn from no row of the test split.")] = False,
    test_rows: Annotated[int | None, typer.Option(min=1, help="At most so many rows to measure on.")] = None,
    data: Data = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, mps.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Choose a recipe's options on validation tasks."""
    from handful import comparing
    from handful.pools import Reading

    comparing.search(
        sources, recipe=recipe, vary=vary, trials=trials, seed=seed, backbone=backbone, shots=shots, seeds=seeds,
        jobs=jobs, store=store, reading=Reading(text, text_pair, label, drop_overlap=drop_overlap), test_rows=test_rows,
        data=data, device=device, as_json=as_json,
    )  # fmt: skip


def report(
    store: StoreFile,
    out: Annotated[Path, typer.Option(help="A .html page, or tables as .md, .tex or .csv.")] = Path("report.html"),
    baseline: Annotated[
        str | None,
        typer.Option(help="Recipe to compare all with; the one that computes least if not given.", show_default=False),
    ] = None,
) -> None:
    """Make a page, or tables, of a store of results."""
    from handful.console import out_console
    from handful.report import write_report

    write_report(store, out, baseline=baseline)
    out_console.print(f"{out} ({out.stat().st_size / 1000:.0f} kB)")


@runs.command("list")
def list_runs(store: StoreFile, as_json: Json = False) -> None:
    """What a store holds, by recipe, backbone and suite."""
    from handful import ledger

    ledger.list_runs(store, as_json=as_json)


@runs.command("show")
def show_runs(
    store: StoreFile,
    key: Annotated[str | None, typer.Argument(help="The start of a cell's key, for all that is known of it.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only failed cells, with their tracebacks.")] = False,
    as_json: Json = False,
) -> None:
    """The cells of a store."""
    from handful import ledger

    ledger.show_runs(store, key, failed=failed, as_json=as_json)


@runs.command("retry")
def retry_runs(
    store: StoreFile,
    keys: Annotated[list[str] | None, typer.Argument(help="Starts of keys; all failed cells if none.")] = None,
) -> None:
    """Put failed cells back on the list, for the next `compare` to run."""
    from handful import ledger

    ledger.retry_runs(store, keys or [])


@runs.command("export")
def export_runs(
    store: StoreFile,
    out: Annotated[Path | None, typer.Option(help="File; standard output otherwise.")] = None,
) -> None:
    """Every cell with all that is known of it, as JSON lines."""
    from handful import ledger

    ledger.export_runs(store, out)


@suites.command("list")
def list_suites(as_json: Json = False) -> None:
    """The suites, with their tasks counted."""
    from handful.suites import shown

    shown.listing(as_json=as_json)


@suites.command("show")
def show_suite(name: Annotated[str, typer.Argument()], data: Data = None, as_json: Json = False) -> None:
    """A suite's tasks, protocol and published figures, and which of its data can be found."""
    from handful.suites import shown

    shown.show(name, data, as_json=as_json)
