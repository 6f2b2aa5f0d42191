"""The grid of a comparison, and running what is missing of it."""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from handful.cells import DONE, FAILED, PENDING, RUNNING, Cell, Outcome
from handful.engines import Engine
from handful.errors import HandfulError, RequestError
from handful.keys import backbone_digest, cell_key, machine_digest, recipe_digest, versions
from handful.pools import Pool
from handful.store import LEASE, Store
from handful.types import split_id
from handful.work import Item, Job, said_in

JOB_CELLS = 15
"""Cells of a job: what a killed worker loses."""
MOST_LOSSES = 3
"""A job whose workers are lost so often has failed."""
POLL = 0.5


@dataclass(frozen=True)
class Grid:
    """recipes x backbones x tasks x shots x seeds, all with one number format and kind of device."""

    recipes: Sequence[str]
    backbones: Sequence[str]
    pools: Sequence[Pool]
    shots: Sequence[int]
    seeds: Sequence[int]
    dtype: str | None = None
    device: str = "cpu"

    def cells(self) -> list[Cell]:
        """Every cell, with its key; neighbours share recipe, backbone and shots. RequestError for what is not known."""
        names = [(pool.suite, pool.name) for pool in self.pools]
        if twice := next((name for suite, name in names if names.count((suite, name)) > 1), None):
            raise RequestError(
                "Tasks were to be compared.", f"Two of them are called {twice!r}.", "Rename a file or a folder."
            )
        machine = machine_digest(self.dtype or "float32", self.device)
        drawn = [(pool, pool.digest()) for pool in self.pools]
        cells = []
        for recipe in dict.fromkeys(self.recipes):
            code = recipe_digest(recipe)
            for backbone in dict.fromkeys(self.backbones):
                weights = backbone_digest(backbone)
                cells += [
                    Cell(
                        cell_key(digest, code, weights, shots, seed, machine), recipe, backbone, pool.suite, pool.name,
                        shots, seed, pool.metric,
                    )
                    for shots in dict.fromkeys(self.shots)
                    for pool, digest in drawn
                    for seed in dict.fromkeys(self.seeds)
                ]  # fmt: skip
        return cells

    def jobs(self, cells: Sequence[Cell]) -> Iterator[list[Cell]]:
        """Cells that run together: of one recipe, backbone and number of shots, at most `JOB_CELLS`."""
        for _, same in groupby(cells, lambda cell: (cell.recipe, cell.backbone, cell.shots)):
            group = list(same)
            yield from (group[i : i + JOB_CELLS] for i in range(0, len(group), JOB_CELLS))

    def job(self, cells: Sequence[Cell]) -> tuple[Job | None, list[Outcome]]:
        """A job with the data of its cells, and the cells whose data cannot be had."""
        pools = {(pool.suite, pool.name): pool for pool in self.pools}
        items, failed = [], list[Outcome]()
        for cell in cells:
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    episode = pools[cell.suite, cell.task].episode(cell.shots, cell.seed)
                items.append(Item(cell.key, episode, cell.seed, cell.metric, said_in(caught)))
            except HandfulError as error:
                failed.append(Outcome(cell.key, error=str(error)))
        if not items:
            return None, failed
        base, kind = split_id(cells[0].backbone)
        folder = Path(base).expanduser()
        if folder.is_dir():
            base = str(folder.resolve())  # a worker may run elsewhere
        backbone = base if kind is None else f"{base}@{kind}"
        return Job(cells[0].recipe, backbone, tuple(items), self.dtype, self.device), failed


@dataclass
class Progress:
    """How far a run is: state and score of every cell of its grid, and how many were finished here."""

    cells: Mapping[str, Cell]
    status: dict[str, tuple[str, float | None]]
    finished: int = 0
    lost: int = 0

    def keys(self, *states: str) -> list[str]:
        return [key for key, (state, _) in self.status.items() if state in states]


Watch = Callable[[Progress, Sequence[Outcome]], None]
"""Called after every change with how far it is, and with the outcomes that are new."""


def run_grid(grid: Grid, path: Path, start: Callable[[], Engine], watch: Watch) -> Progress:
    """Runs what is missing in the store at `path`, on an engine that is started only if anything is.

    Cells that another process runs are waited for. On the way out, whatever the reason, claims are given back and the
    engine is closed; what was finished is kept.
    """
    cells = grid.cells()  # what cannot be asked for leaves no file behind
    store = Store(path)
    refuse_chosen(store, grid)
    store.add(cells, versions() | {"device": grid.device, "dtype": grid.dtype or "float32"})
    store.claim([])  # sees through the claims of processes that are gone
    by_key = {cell.key: cell for cell in cells}
    progress = Progress(by_key, store.status(by_key))
    watch(progress, [])
    if not progress.keys(PENDING, RUNNING):
        return progress
    engine = start()
    try:
        with _renewed(store):
            _Run(grid, store, engine, progress, watch).work_off()
    finally:
        engine.close()
        store.release()
    return progress


def refuse_chosen(store: Store, grid: Grid) -> None:
    """RequestError where a recipe's options were chosen on a task that is to be reported."""
    chosen = store.choices()
    for recipe in grid.recipes:
        for pool in grid.pools if recipe in chosen else ():
            if any(own in chosen[recipe] for own in pool.contents()):
                raise RequestError(
                    f"The recipe {recipe!r} was to be compared on {pool.name}.",
                    "Its options were chosen on that very task, so its accuracy there would flatter.",
                    "Compare it on other tasks, or choose its options on others.",
                )


@dataclass
class _Run:
    """Claiming, handing in and keeping, until nothing of the grid is left."""

    grid: Grid
    store: Store
    engine: Engine
    progress: Progress
    watch: Watch

    def work_off(self) -> None:
        waiting = deque(self._open(PENDING))
        again: deque[Job] = deque()
        losses: Counter[str] = Counter()
        flying = 0
        while True:
            while flying < self.engine.slots and (again or waiting):
                job = again.popleft() if again else self._claimed(waiting.popleft())
                if job is not None:
                    self.engine.submit(job)
                    flying += 1
            if flying:
                for job, outcome in self.engine.finished(POLL):
                    flying -= 1
                    if isinstance(outcome, str):
                        again.extend(self._lost(job, outcome, losses))
                    else:
                        self._keep(outcome)
                self.watch(self.progress, [])
            elif self.progress.keys(PENDING, RUNNING):  # another process has the rest, or has left it
                time.sleep(POLL)
                self.progress.status.update(self.store.status(self.progress.cells))
                waiting.extend(self._open(PENDING, RUNNING))
                self.watch(self.progress, [])
            else:
                return

    def _open(self, *states: str) -> Iterator[list[Cell]]:
        return self.grid.jobs([self.progress.cells[key] for key in self.progress.keys(*states)])

    def _claimed(self, cells: Sequence[Cell]) -> Job | None:
        taken = set(self.store.claim([cell.key for cell in cells]))
        mine = [cell for cell in cells if cell.key in taken]
        self.progress.status.update({cell.key: (RUNNING, None) for cell in mine})
        job, failed = self.grid.job(mine) if mine else (None, [])
        if failed:
            self._keep(failed)
        return job

    def _keep(self, outcomes: Sequence[Outcome]) -> None:
        self.store.finish(outcomes)
        self.progress.status.update({o.key: (FAILED if o.error else DONE, o.score) for o in outcomes})
        self.progress.finished += len(outcomes)
        self.watch(self.progress, outcomes)

    def _lost(self, job: Job, how: str, losses: Counter[str]) -> list[Job]:
        """What to hand in again: the job, then each cell alone, so that one cannot take the others with it."""
        self.progress.lost += 1
        losses.update(item.key for item in job.items)
        first = job.items[0].key
        times = losses[first]
        if times < MOST_LOSSES - 1 or (times < MOST_LOSSES and len(job.items) == 1):
            return [job]
        if len(job.items) > 1:
            return [replace(job, items=(item,)) for item in job.items]
        self._keep([Outcome(first, error=f"Its worker was lost {times} times, at last: {how}")])
        return []


@contextmanager
def _renewed(store: Store) -> Iterator[None]:
    """Within, the claims of this process are renewed."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE / 6):
            store.renew()

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
