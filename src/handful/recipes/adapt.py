"""Adapting from a prior as it was meta-trained: its inner loop, its learned rates, and heads that start as they did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from handful import generator
from handful.artifact import Artifact
from handful.backbone import Backbone
from handful.batches import encode_tasks
from handful.cache import FeatureCache
from handful.costs import measured, peak_memory
from handful.crossval import FINAL, Plan, seeds_of
from handful.errors import RequestError
from handful.folded import judged, out_of_fold, tuning_cost
from handful.losses import LOSSES
from handful.meta import of_method
from handful.metatrain import reader
from handful.methods import to_spec
from handful.outer import adapted_params
from handful.prior import Prior, opened
from handful.progress import Progress, silent
from handful.prompts import check_classes
from handful.types import Task, cast_params, task_params


def adapt(
    tasks: Sequence[Task],
    backbone: Backbone,
    *,
    prior: Prior | str | Path | None = None,
    steps: int | None = None,
    num_folds: int = 4,
    seed: int | Sequence[int] = 0,
    store: FeatureCache | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> list[Artifact]:
    """Takes a prior's own inner steps on each task, of one kind, and on its folds, all at once.

    `steps` is as many as meta-training took if not given. Nothing is drawn: `seed` decides the folds alone. It is
    quick, so no progress is kept in `checkpoint`. RequestError without a prior, or for a head of other classes.
    """
    if prior is None:
        raise RequestError(
            "The recipe adapt was asked for.", "No prior was given: it has no steps of its own.",
            "Give one with --prior, or use lora.",
        )  # fmt: skip
    check_classes(tasks, "adapt")
    known, seeds, kind = opened(prior, backbone), seeds_of(seed, len(tasks)), tasks[0].kind
    if (algorithm := known.algorithm) is None:
        raise RequestError(
            f"The recipe adapt was asked for with the prior {known.name!r}.",
            "It was pretrained, not meta-trained: it has no steps of its own.", "Use tfew.",
        )  # fmt: skip
    learned = cast_params(known.learned, device=backbone.device)
    steps = algorithm.inner.steps if steps is None else steps
    _check_head(tasks, known)
    with measured() as watch:
        tuned = known.on(backbone)
        base = reader(tuned.adapted, algorithm, kind)
        model, loss = generator.applied(base, learned), LOSSES[kind]
        rows, labels = encode_tasks(tasks, backbone)
        plan = Plan.of(tasks, labels, num_folds, seed=seeds)
        members, pool = plan.members(), base.prepared(rows, store)
        sites = {site.name: site for site in tuned.adapted.sites}
        params = adapted_params(algorithm, model, learned, plan.training(pool, members), loss, sites=sites, steps=steps)
        progress("adapting", 1.0)
        asked, scores = out_of_fold(model, params, plan, members, pool)
    made = {f"generator.{name}": p for name, p in learned.get("generator", {}).items()}
    features = {"kind": "tokens" if kind == "tagging" else "pooled", "pooling": base.pooling, "scale": base.scale}
    artifacts = []
    for t, task in enumerate(tasks):
        heat, said = judged(plan, t, plan.gather(asked, scores, t), rows, seed=seeds[t])
        final = task_params(params, members.index((t, FINAL)))
        head = {name: p[: len(task.labels)] for name, p in final.pop("head").items()}
        own = of_method(final)
        size = len(task.examples)
        artifacts.append(
            Artifact.of(
                task,
                backbone,
                recipe="adapt",
                method=to_spec(known.method),
                sites=tuned.adapted.site_table(),
                params=own,
                features=features,
                head=head | made,
                temperature=heat,
                estimate=said.to_dict(),
                cost=tuning_cost(model, own | {"head": head}, pool, plan.offsets[t], size, size, steps)
                | {"seconds": round(watch.seconds / len(tasks), 3), "peak_memory_bytes": peak_memory(backbone.device)},
                seed=seeds[t],
                notes=(f"{steps} inner steps from the prior {known.name}",),
            )
        )
    return artifacts


def _check_head(tasks: Sequence[Task], prior: Prior) -> None:
    learned = prior.algorithm is not None and prior.algorithm.head == "learned"
    classes = len(prior.learned["head"]["bias"]) if learned else None
    if wrong := [task for task in tasks if classes is not None and len(task.labels) != classes]:
        raise RequestError(
            f"The task {wrong[0].name!r} was to be adapted to from the prior {prior.name!r}.",
            f"It has {len(wrong[0].labels)} classes, and the head that was learned has {classes}.",
            "Use a prior whose heads start at class means or zero, or lora with --prior.",
        )
