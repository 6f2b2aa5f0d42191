"""Looks at rows that are held out from a mixture, on the way of its training."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handful.backbone import Backbone
from handful.batches import Rows, stack, take_all
from handful.choice_losses import mean_logp
from handful.choices import together
from handful.chooser import Chooser
from handful.losses import Loss
from handful.mixtures import Source, spoken_rows
from handful.progress import Progress
from handful.types import Params


@dataclass(frozen=True)
class Looks:
    """Rows to look at on the way, of several tasks in their first wording, with all of their choices.

    owner   `[n]`: whose each row is
    ranked  `[n]`, False for rows with an answer, not choices: of them only the loss can be said
    """

    rows: Rows
    owner: Tensor
    ranked: Tensor
    count: int

    @staticmethod
    def of(backbone: Backbone, sources: Sequence[Source], length: int) -> Looks | None:
        if not sources:
            return None
        each = [
            spoken_rows(
                backbone, own, 0, range(own.size), length, only=own.right if own.task.kind == "generation" else None
            )
            for own in sources
        ]
        gold = torch.tensor([label for own in sources for label in own.right])
        spoken = [row for own in each for row in own]
        most = max(len(row.choices) for row in spoken)
        rows = stack(together(backbone, spoken), [range(len(spoken))], [gold], [most])
        owner = torch.arange(len(sources)).repeat_interleave(torch.tensor([own.size for own in sources]))
        ranked = torch.tensor([own.task.kind != "generation" for own in sources])[owner]
        return Looks(rows, owner, ranked, len(sources))

    @torch.no_grad()
    def __call__(self, model: Chooser, params: Params, loss: Loss) -> Tensor:
        """`[2, count]`: each task's mean loss, and its accuracy, NaN where it has none."""
        losses, hits = (torch.zeros(len(self.owner), dtype=torch.float64) for _ in range(2))
        for _, batch, columns in take_all(self.rows):
            assert batch.labels is not None
            logp, own = model(params, batch).float(), columns[0].cpu()
            losses[own] = loss(logp, batch.labels)[0].double().cpu()
            hits[own] = (mean_logp(logp).argmax(-1) == batch.labels)[0].double().cpu()
        size = torch.bincount(self.owner, minlength=self.count)
        ranked = torch.where(self.ranked, hits, math.nan)
        return torch.stack(
            [torch.zeros(self.count).double().index_add_(0, self.owner, x) / size for x in (losses, ranked)]
        )


class Watching:
    """Looks on the way, which are kept with a checkpoint, and how fast this process was."""

    def __init__(
        self, model: Chooser, looks: Looks | None, loss: Loss, *, steps: int, batch: int, every: int, progress: Progress
    ) -> None:
        self.model, self.looks, self.loss, self.progress = model, looks, loss, progress
        self.steps, self.batch, self.every = steps, batch, every
        self.memory: dict[str, Tensor] = {}
        self.began, self.taken, self.looking = time.monotonic(), 0, 0.0

    def __call__(self, step: int, params: Params, tasks: Sequence[int]) -> None:
        self.taken += 1
        if step % self.every == 0 or step == self.steps:
            self.look(step, params)
        speed, said = self.speed["rows_per_second"], ""
        if self.looks:
            loss, accuracy = (float(x.nanmean()) for x in self.memory["looks"][-1])
            said = f", held-out loss {loss:.3f}" + ("" if math.isnan(accuracy) else f", accuracy {accuracy:.1%}")
        self.progress(f"step {step}, {speed:.1f} rows/s{said}", step / self.steps)

    def look(self, step: int, params: Params) -> None:
        """One more look, after `step` steps."""
        if self.looks is None:
            return
        began = time.monotonic()
        for name, new in {"steps": torch.tensor(step), "looks": self.looks(self.model, params, self.loss)}.items():
            self.memory[name] = torch.cat([self.memory[name], new[None]]) if name in self.memory else new[None]
        if step:
            self.looking += time.monotonic() - began
        else:
            self.began = time.monotonic()

    @property
    def speed(self) -> dict[str, Any]:
        seconds = time.monotonic() - self.began - self.looking
        rate = round(self.taken * self.batch / max(1e-9, seconds), 2)
        return {"seconds": round(seconds, 1), "rows_per_second": rate, "threads": torch.get_num_threads()}

    def of_each(self, sources: Sequence[Source]) -> dict[tuple[str, str], dict[str, float]]:
        """What the first and the last look said of each source."""
        if not self.looks:
            return {}
        first, last = (self.memory["looks"][i].T.tolist() for i in (0, -1))
        names = ("validation_loss", "validation_accuracy")
        found: dict[tuple[str, str], dict[str, float]] = {}
        for source, before, after in zip(sources, first, last, strict=True):
            said = {"validation_rows": source.size} | dict(zip(names, after, strict=True))
            said |= {f"{name}_before": x for name, x in zip(names, before, strict=True)}
            found[source.spec, source.name] = {name: x for name, x in said.items() if not math.isnan(x)}
        return found

    def curve(self, own: int, losses: Tensor) -> list[dict[str, float]]:
        """Means over the tasks of the mixture, the first `own` of those looked at, and over those held out."""
        found, before = list[dict[str, float]](), 0
        if not self.looks:
            return found
        for step, look in zip(self.memory["steps"].tolist(), self.memory["looks"], strict=True):
            said = {"loss": look[0, :own].mean(), "accuracy": look[1, :own].nanmean()}
            said |= {"held_out_loss": look[0, own:].mean(), "held_out_accuracy": look[1, own:].nanmean()}
            said |= {"training_loss": losses[before:step].mean()}
            found.append({"step": step} | {name: float(x) for name, x in said.items() if not math.isnan(x)})
            before = step
        return found
