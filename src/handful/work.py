"""Running cells: fit and test, all cells of a recipe on a backbone in batches of tasks."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from handful.cells import Outcome
from handful.errors import HandfulError, RunError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from handful.backbone import Backbone
    from handful.types import Episode, Task

BATCH_ROWS = 1024
"""At most so many examples of all tasks in one fit: what bounds its memory."""
BINS = 10


@dataclass(frozen=True)
class Item:
    """A cell with its data: what it learns from and is asked, which measure is its score, what was warned of."""

    key: str
    episode: Episode
    seed: int
    metric: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """Cells that one process runs together; it holds all that they need, so that it can be sent to another machine."""

    recipe: str
    backbone: str
    items: Sequence[Item]
    dtype: str | None = None
    device: str = "cpu"


def run(job: Job) -> list[Outcome]:
    """What becomes of each cell of a job. Cells that fail in a batch are run alone, so only the guilty ones fail."""
    from handful.backbone import shared

    try:
        backbone = shared(job.backbone, dtype=job.dtype, device=job.device)
    except Exception as error:
        return [_failed(item, error) for item in job.items]
    return [outcome for items in batches(job.items) for outcome in _run(job.recipe, backbone, items)]


def batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Cells of one kind of task, single texts or pairs, at most `BATCH_ROWS` examples together."""
    kinds: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        support = item.episode.support
        kinds.setdefault((support.kind, support.examples[0].text_pair is None), []).append(item)
    for same in kinds.values():
        batch: list[Item] = []
        rows = 0
        for item in same:
            size = len(item.episode.support.examples)
            if batch and rows + size > BATCH_ROWS:
                yield batch
                batch, rows = [], 0
            batch.append(item)
            rows += size
        yield batch


def _run(said: str, backbone: Backbone, items: Sequence[Item]) -> list[Outcome]:
    from handful.costs import measured
    from handful.recipes import recipe

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with measured() as watch:
                tasks = [item.episode.support for item in items]
                fitted = recipe(said)(tasks, backbone, seed=[item.seed for item in items])
        except Exception as error:
            if len(items) == 1:
                return [_failed(items[0], error)]
            return [outcome for item in items for outcome in _run(said, backbone, [item])]
    notes = said_in(caught)
    cost = {"fit_seconds": watch.seconds / len(items), "fit_cpu_seconds": watch.cpu_seconds / len(items)}
    return [_tested(item, own, backbone, cost, notes) for item, own in zip(items, fitted, strict=True)]


def _tested(
    item: Item, fitted: Any, backbone: Backbone, cost: Mapping[str, float], notes: tuple[str, ...]
) -> Outcome:  # fmt: skip
    from handful.artifact import Artifact
    from handful.costs import measured
    from handful.features import memory
    from handful.predictor import Predictor
    from handful.prompts import targets
    from handful.worded import numbered, right

    support, query = item.episode.support, item.episode.query
    try:
        with measured() as watch:
            if isinstance(fitted, Artifact):
                scores = Predictor(fitted, backbone).scores(query.examples, memory())
            else:
                scores = fitted.scores(query.examples)
        sound = scores.logits.isfinite()  # of rows with choices of their own some have fewer than others
        if not bool(sound.any(-1).all() if support.kind == "choice" else sound.all()):
            raise RunError("Its answers were to be measured.", "Some scores are not finite numbers.")
        shares = scores.probabilities(support.kind).double().cpu().numpy()
        if support.kind == "tagging":
            found = measure_tags(shares, query, support)
        elif support.kind == "choice":
            found = measure(shares, right(query).numpy(), numbered(query))
        else:
            labels = targets(replace(query, labels=support.labels, kind=support.kind)).numpy()
            found = measure(shares, labels, support)
        if item.metric not in found:
            raise RunError(f"Its score was to be {item.metric!r}.", f"Measured are {', '.join(found)}.")
    except Exception as error:
        return _failed(item, error)
    own = {name: value for name, value in fitted.cost.items() if name != "seconds" and value is not None}
    if isinstance(fitted, Artifact):
        own.setdefault("bytes", sum(p.nbytes for part in (fitted.head, *fitted.params.values()) for p in part.values()))
        notes = (*fitted.notes, *notes)
    claimed = (fitted.estimate or {}).get("entity_f1" if support.kind == "tagging" else "accuracy")
    return Outcome(
        key=item.key,
        score=found[item.metric],
        measures=found,
        estimate=claimed if claimed and claimed["value"] is not None else None,
        cost={**own, **cost, "query_seconds": watch.seconds},
        notes=(*item.notes, *notes),
    )


def measure(shares: NDArray[np.float64], labels: NDArray[np.int64], task: Task) -> dict[str, Any]:
    """`Outcome.measures` of probabilities `[n, C]` and labels `[n]`, or 0/1 `[n, C]` of a multi-label task."""
    import numpy as np

    from handful.estimate import ece, macro_f1

    several, n, classes = labels.ndim == 2, len(labels), len(task.labels)
    guess = (shares >= 0.5).astype(np.int64) if several else shares.argmax(-1)
    truth = labels if several else (labels[:, None] == np.arange(classes)).astype(np.int64)
    correct = (guess == labels).all(-1) if several else guess == labels
    confidence, hit = (shares.ravel(), labels.ravel() == 1) if several else (shares.max(-1), correct)
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    told = np.clip(np.where(truth == 1, shares, 1 - shares if several else 1.0), 1e-12, 1.0)
    bins = [np.bincount(place, weights, BINS) for weights in (np.ones(len(place)), confidence, hit.astype(float))]
    return {
        "n": n,
        "accuracy": float(correct.mean()),
        "macro_f1": macro_f1(labels, guess, classes),
        "log_loss": float(-np.log(told).mean(-1).mean() if several else -np.log(told).sum(-1).mean()),
        "brier": float(np.square(shares - truth).sum(-1).mean()),
        "ece": ece(shares, labels),
        "reliability": [[int(n), round(float(c), 6), int(h)] for n, c, h in zip(*bins, strict=True)],
        **({} if several else _confused(labels, guess, task)),
    }


def measure_tags(shares: NDArray[np.float64], query: Task, task: Task) -> dict[str, Any]:
    """`Outcome.measures` of probabilities `[n, W, C]` of words: those of entities, and of words as `measure` has them.

    `macro_f1` is over entity types.
    """
    from dataclasses import asdict

    from handful.tagestimate import words_of
    from handful.tagging import entity_f1, read_tags

    truth = [example.label or () for example in query.examples]
    guess = read_tags(shares.argmax(-1).tolist(), [len(tags) for tags in truth], task.labels)
    micro, of_type = entity_f1(truth, guess)
    real, index = words_of(truth, task.labels)
    words = measure(shares[:, : real.shape[1]][real], index, task)
    macro = sum(own.f1 for own in of_type.values()) / max(len(of_type), 1)
    named = {"entity_f1": micro.f1, "precision": micro.precision, "recall": micro.recall, "macro_f1": macro}
    return words | named | {"entities": micro.support, "types": {kind: asdict(own) for kind, own in of_type.items()}}


def _confused(labels: NDArray[np.int64], guess: NDArray[np.int64], task: Task) -> dict[str, Any]:
    import numpy as np

    classes = len(task.labels)
    table = np.bincount(labels * classes + guess, minlength=classes * classes).reshape(classes, classes)
    hits, true, said, n = np.trace(table), table.sum(1), table.sum(0), table.sum()
    spread = float(n**2 - np.square(said).sum()) * float(n**2 - np.square(true).sum())
    last = 2 * table[-1, -1] / max(true[-1] + said[-1], 1)
    counts = [[int(t), int(g), int(table[t, g])] for t, g in np.argwhere(table)]
    return {
        "f1": float(last),
        "matthews": float(hits * n - true @ said) / spread**0.5 if spread else 0.0,
        "confusion": {"labels": list(task.labels), "counts": counts},
    }


def said_in(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """What was warned of, each thing once."""
    return tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))


def _failed(item: Item, error: Exception) -> Outcome:
    said = str(error) if isinstance(error, HandfulError) else f"{type(error).__name__}: {error}"
    return Outcome(key=item.key, error=said, trace="".join(traceback.format_exception(error)))
