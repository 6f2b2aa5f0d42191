"""`handful compare`: the grid that was asked for, and the live table. Starts without torch."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from handful.cells import DONE, FAILED, PENDING, RUNNING, Cell, Outcome
from handful.console import err_console, out_console, quiet_libraries
from handful.engines import engine_of
from handful.errors import RequestError
from handful.pools import Pool, Reading, find_pools
from handful.recipes import parse, written
from handful.runs import Grid, Progress, Watch, run_grid
from handful.store import Store
from handful.suites import is_suite, suite, suites


def compare(
    sources: Sequence[str], *, recipes: str, backbones: str, shots: str | None, seeds: int | None, jobs: int,
    ray: str | None, store: Path, test: str | None, reading: Reading, ways: int | None, test_rows: int | None,
    data: Path | None, dtype: str | None, device: str, as_json: bool,
) -> int:  # fmt: skip
    """`handful compare`; exit status 1 if a cell failed."""
    quiet_libraries()
    if jobs > 1 and ray is not None:
        asked = f"--jobs {jobs} and --ray {ray} were both given."
        raise RequestError(asked, "Cells run either in processes here or on a cluster.", "Leave one of them out.")
    pools, usual_shots, usual_seeds = find(sources, test, reading, ways, test_rows, data)
    numbers = whole_numbers(shots, "--shots") if shots else usual_shots
    said = [written(*parse(one)) for one in _listed(recipes, "recipe")]
    own_seeds = range(usual_seeds if seeds is None else seeds)
    grid = Grid(said, _listed(backbones, "backbone"), pools, numbers, own_seeds, dtype, device)
    with _events() if as_json else _live() as watch:
        progress = run_grid(grid, store, lambda: engine_of(jobs, ray), watch)
    failed = progress.keys(FAILED)
    if as_json:
        counts = {"done": len(progress.keys(DONE)), "failed": len(failed)}
        print_event("end", **counts, lost=progress.lost, finished_here=progress.finished)
    else:
        out_console.print(scores_table(progress))
        done = len(progress.keys(DONE))
        out_console.print(
            f"{done} of {len(progress.cells)} cells in {store}, {progress.finished} of them run just now."
        )
        out_console.print(f"`handful report {store} --out report.html` makes a page of it.", highlight=False)
        _say_failed(progress, failed, store)
    return 1 if failed else 0


def search(
    sources: Sequence[str], *, recipe: str, vary: Sequence[str], trials: int, seed: int, backbone: str,
    shots: str | None, seeds: int | None, jobs: int, store: Path, reading: Reading, test_rows: int | None,
    data: Path | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """`handful search`: the trials as they end, and the best."""
    from handful import searching

    quiet_libraries()
    pools, usual_shots, usual_seeds = find(sources, None, reading, None, test_rows, data)
    numbers = whole_numbers(shots, "--shots") if shots else usual_shots
    grid = Grid([recipe], [backbone], pools, numbers, range(usual_seeds if seeds is None else seeds), device=device)

    def told(number: int, trial: searching.Trial) -> None:
        if as_json:
            print_event("trial", number=number, recipe=trial.recipe, score=trial.score)
        else:
            out_console.print(f"{number:4}  {100 * trial.score:.1f}  {trial.recipe}", highlight=False, markup=False)

    with _live() as watch:
        done = searching.search(
            grid, searching.read_space(vary), trials=trials, seed=seed, store=store,
            start=lambda: engine_of(jobs, None), watch=watch, told=told, command=" ".join(sys.argv[1:]),
        )  # fmt: skip
    if as_json:
        print_event("end", recipe=done[0].recipe, score=done[0].score)
    else:
        out_console.print(f"best: {done[0].recipe}", highlight=False, markup=False)
        note = f"{store} now knows that it was chosen on {', '.join(pool.name for pool in pools)}: "
        out_console.print(f"{note}`handful compare` will not report it there.", highlight=False, soft_wrap=True)


def find(
    sources: Sequence[str], test: str | None, reading: Reading, ways: int | None, test_rows: int | None,
    data: Path | None,
) -> tuple[list[Pool], tuple[int, ...], int]:  # fmt: skip
    """The pools of files, folders and suites, and the shots and seeds that are usual for them."""
    known, pools = suites(), list[Pool]()
    named = [suite(source) for source in sources if is_suite(source)]
    if named and (test is not None or reading != Reading() or ways is not None or test_rows is not None):
        raise RequestError(
            f"The suite {named[0].name!r} was asked for with options about its data.",
            "A suite says itself which columns, classes and rows count.",
            "Leave out --test, --text, --text-pair, --label, --template, --ways and --test-rows, or name a file.",
        )
    if data is not None and not named:
        found = f"Known suites are {', '.join(known)}; a file or folder is named directly."
        raise RequestError(f"--data {data} was given without a suite.", found, "Name a suite, or leave out --data.")
    if test is not None and len(sources) > 1:
        found = f"There are {len(sources)} data sources."
        raise RequestError(f"--test {test} was given.", found, "Compare on one, or put train and test in a folder.")
    for source in sources:
        if is_suite(source):
            pools += suite(source).pools(data)
            for task, why in suite(source).missing(data).items():
                err_console.print(f"missing: {source.partition('/')[0]}/{task}: {why}", highlight=False, markup=False)
        else:
            pools += find_pools(source, test, reading, ways=ways, test_rows=test_rows)
    if not pools:
        found = "None of its tasks could be found."
        raise RequestError(f"The suite {sources[0]!r} was asked for.", found, "Say with --data where its data lies.")
    usual = {(own.shots, own.seeds) for own in named} or {((4, 8, 16), 5)}
    if len(usual) > 1:
        found = f"Their protocols differ: {', '.join(f'{own.name} has shots {own.shots}' for own in named)}."
        raise RequestError("Several suites were to be compared.", found, "Compare on one at a time.")
    return pools, *usual.pop()


def whole_numbers(said: str, option: str) -> tuple[int, ...]:
    """`"4,8,16"` -> `(4, 8, 16)`. RequestError for anything but whole numbers above zero."""
    try:
        numbers = tuple(int(part) for part in said.split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1:
        raise RequestError(f"{option} {said} was given.", "It is no list of whole numbers above 0.", "Write 4,8,16.")
    return numbers


def scores_table(progress: Progress, caption: str | None = None) -> Table:
    """Mean score of each recipe and backbone, a column for each number of shots, and how many cells it is of."""
    scores: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    sizes: dict[tuple[str, str, int], int] = defaultdict(int)
    for key, cell in progress.cells.items():
        place = cell.recipe, cell.backbone, cell.shots
        sizes[place] += 1
        score = progress.status[key][1]
        if score is not None:
            scores[place].append(score)
    columns = sorted({shots for _, _, shots in sizes})
    several = len({backbone for _, backbone, _ in sizes}) > 1
    table = Table("recipe", box=None, caption=caption, caption_justify="left")
    for shots in columns:
        table.add_column(f"k = {shots}", justify="right")
    for recipe, backbone in dict.fromkeys((recipe, backbone) for recipe, backbone, _ in sizes):
        row = []
        for shots in columns:
            own, size = scores[recipe, backbone, shots], sizes[recipe, backbone, shots]
            row.append(f"{100 * fmean(own):.1f}" if own else "-")
            row[-1] += f" ({len(own)}/{size})" if len(own) < size else ""
        table.add_row(Text(f"{recipe} on {backbone}" if several else recipe), *row)
    return table


@dataclass
class _Clock:
    """Time left, from how long the cells of this run have taken."""

    started: float = field(default_factory=time.monotonic)

    def caption(self, progress: Progress) -> str:
        left = len(progress.keys(PENDING, RUNNING))
        done, failed = len(progress.keys(DONE)), len(progress.keys(FAILED))
        text = f"{done} of {len(progress.cells)} cells done"
        text += f", {failed} failed" if failed else ""
        text += f", {progress.lost} workers lost" if progress.lost else ""
        if left and progress.finished:
            seconds = int((time.monotonic() - self.started) / progress.finished * left)
            text += f", about {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
        return text


@contextmanager
def _live() -> Iterator[Watch]:
    """A table on standard error that follows the run; no more than a line where that is no terminal."""
    clock = _Clock()
    if not err_console.is_terminal:
        yield lambda progress, outcomes: None
        return
    with Live(console=err_console, transient=True, refresh_per_second=2) as live:
        drawn = [0.0]

        def watch(progress: Progress, outcomes: Sequence[Outcome]) -> None:
            if outcomes or time.monotonic() - drawn[0] > 1:
                drawn[0] = time.monotonic()
                live.update(scores_table(progress, clock.caption(progress)))

        yield watch


@contextmanager
def _events() -> Iterator[Watch]:
    """One JSON line on standard output for the start and for every cell; what libraries print goes elsewhere."""
    started, out = [False], sys.stdout

    def watch(progress: Progress, outcomes: Sequence[Outcome]) -> None:
        with redirect_stdout(out):
            if not started[0]:
                started[0] = True
                print_event("start", cells=len(progress.cells), done=len(progress.keys(DONE)))
            for outcome in outcomes:
                cell = progress.cells[outcome.key]
                print_event("cell", **_named(cell), score=outcome.score, error=outcome.error)

    with redirect_stdout(sys.stderr):
        yield watch


def print_event(event: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"event": event} | values, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _named(cell: Cell) -> dict[str, Any]:
    names = ("key", "recipe", "backbone", "suite", "task", "shots", "seed")
    return {name: getattr(cell, name) for name in names}


def _say_failed(progress: Progress, failed: Sequence[str], store: Path) -> None:
    if not failed:
        return
    errors: Mapping[str, list[Cell]] = defaultdict(list)
    found = {r.cell.key: r for r in Store(store).results(latest=False) if r.status == FAILED}
    for key in failed:
        outcome = found[key].outcome if key in found else None
        errors[outcome.error or "" if outcome else ""].append(progress.cells[key])
    for error, cells in errors.items():
        first = cells[0]
        where = f"{first.recipe} on {first.task}, k = {first.shots}, seed {first.seed}"
        more = f" (and {len(cells) - 1} more cells)" if len(cells) > 1 else ""
        err_console.print(f"failed: {where}{more}: {error}", markup=False, highlight=False, soft_wrap=True)
    again = f"`handful runs retry {store}` puts them on the list again, `handful runs show {store} --failed` says more."
    err_console.print(again, highlight=False, soft_wrap=True)


def _listed(said: str, what: str) -> list[str]:
    found = [part.strip() for part in said.split(",") if part.strip()]
    if not found:
        raise RequestError(f"--{what}s {said!r} was given.", f"No {what} was given in it.", "Name one, or several.")
    return found
