"""Training a method to its end: what it learns, what it turns into, and what that learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from handful.attach import Adapted, attach
from handful.batches import Rows
from handful.chooser import Chooser
from handful.fisher import fisher
from handful.fit import Loss, Schedule, Watch, fit
from handful.progress import Progress, silent
from handful.scoring import Classifier
from handful.types import Params, stack_params, task_params

Reader = TypeVar("Reader", Classifier, Chooser)


@dataclass(frozen=True)
class Trained(Generic[Reader]):
    """A stack of trained params `[T, ...]`, the model that reads them, and what happened to tasks that diverged."""

    model: Reader
    params: Params
    stopped: dict[int, str]

    @property
    def adapted(self) -> Adapted:
        assert self.model.adapted is not None
        return self.model.adapted


def train(
    model: Reader,
    params: Params,
    rows_of: Callable[[Reader], Rows],
    loss: Loss,
    schedule: Schedule,
    *,
    seed: Sequence[int],
    groups: Sequence[int] | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Trained[Reader]:
    """Trains stacked `params` by the hooks of their method: `first`, `finished` and `refit` (`methods.base.Method`).

    rows_of     the rows of every task as a model wants them: what is computed once depends on where its method acts
    groups      see `fit`
    checkpoint  a file; each stage keeps its progress in one of its own
    """
    stopped: dict[int, str] = {}
    stage, steps = 0, schedule.steps
    while True:
        now = Trained(model, params, stopped)
        method, rows = now.adapted.method, rows_of(model)
        if method.first == "fisher":
            found = fisher(model, params, rows, loss) | _head(params)
        else:
            found, history = fit(
                model, params, rows, loss, replace(schedule, steps=steps),
                seed=seed, method=method, groups=groups,
                checkpoint=checkpoint and checkpoint.with_stem(f"{checkpoint.stem}-{stage}"),
                watch=_watch(progress, "tuning again" if stage else "tuning", steps),
            )  # fmt: skip
            stopped |= history.stopped
        head = _head(found)
        found = {site: own for site, own in found.items() if site not in head}
        each = [method.finished(task_params(found, t), now.adapted.sites) for t in range(rows.num_tasks)]
        after = each[0][0]
        if after == method:
            return Trained(model, found | head, stopped)
        model = replace(model, adapted=attach(now.adapted.backbone, after, checkpoint=now.adapted.checkpoint))
        params = stack_params([own for _, own in each]) | head
        if not method.refit:
            return Trained(model, params, stopped)
        stage, steps = stage + 1, _scaled(steps, method.refit)


def _head(params: Params) -> Params:
    """The class head, which readers of words do not have."""
    return {site: own for site, own in params.items() if site == "head"}


def _watch(progress: Progress, name: str, steps: int | Sequence[int]) -> Watch:
    total = steps if isinstance(steps, int) else max(steps)
    return lambda step, _, __: progress(name, step / total)


def _scaled(steps: int | Sequence[int], by: float) -> int | list[int]:
    return round(steps * by) if isinstance(steps, int) else [round(own * by) for own in steps]
