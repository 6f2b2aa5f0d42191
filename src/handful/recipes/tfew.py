"""T-Few: (IA)^3, three losses over a row's choices, and one set of hyperparameters for every task.

Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning"
(arXiv 2205.05638), sections 3 and 4.1. Where the backbone is T0 and the prior (IA)^3 pretrained on T0's mixture, it is
the paper's recipe; elsewhere it is the same recipe on another backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handful.artifact import Artifact
from handful.attach import attach
from handful.backbone import Backbone
from handful.cache import FeatureCache
from handful.checkpoint import digest
from handful.choice_losses import summed
from handful.choices import NOTHING
from handful.chooser import Chooser, Ranker
from handful.costs import measured, peak_memory
from handful.crossval import FINAL, Plan, seeds_of
from handful.fit import Schedule
from handful.folded import judged, out_of_fold
from handful.methods import method as method_named
from handful.methods import to_spec
from handful.methods.base import Method
from handful.optim import OptimizerName
from handful.prior import Prior, opened
from handful.progress import Progress, silent
from handful.stages import train
from handful.types import Batch, Task, cast_params, stack_params, task_params
from handful.vocabulary import vocabulary
from handful.worded import Worded, as_split, check_ranked, shown_sizes, templates_of, wording_cost

WARMUP = 0.06
"""Share of the steps with rising rate."""


def tfew(
    tasks: Sequence[Task],
    backbone: Backbone,
    *,
    method: Method | str | None = None,
    prior: Prior | str | Path | None = None,
    losses: str = "lm+ul+ln",
    steps: int = 1000,
    batch_size: int = 8,
    lr: float = 3e-3,
    optimizer: OptimizerName = "adafactor-scaled",
    length: int = 256,
    num_folds: int = 0,
    seed: int | Sequence[int] = 0,
    store: FeatureCache | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> list[Artifact]:
    """Tunes `method` so that the right choice's words become the most probable ones; nothing is chosen for a task.

    The defaults are the paper's, and so is the lack of an estimate: it holds no row out. With `num_folds` accuracy is
    estimated, at as many times the cost. `losses` joins those to be summed of "lm" (language modelling), "ul"
    (unlikelihood) and "ln" (length-normalised). The method is (IA)^3, or the one of a `prior`, where it then starts,
    and any other fits too. Prompts with their choices are cut to `length` tokens by their template's rule. Every row is
    seen in all of its task's templates, in a seeded order; the first of them is the one that the fitted task asks in.
    Of a generation task the first answer of each row that is right is learned, and answers are written greedily.
    """
    if num_folds:  # what is written freely is right or wrong in no one way
        check_ranked(tasks)
    seeds, loss = seeds_of(seed, len(tasks)), summed(losses)
    chosen = method_named(method) if isinstance(method, str) else method
    known = opened(prior, backbone, chosen) if prior is not None else None
    value = known.method if known else chosen or method_named("ia3")
    key = digest([to_spec(value), losses, backbone.fingerprint, backbone.dtype])
    with measured() as watch:
        adapted = attach(backbone, value)
        model = Chooser(adapted, vocabulary(backbone))
        worded = Worded.of(tasks, backbone, limit=min(length, backbone.max_length))
        plan = Plan.of([as_split(task) for task in worded.tasks], worded.labels, num_folds, seed=seeds)
        members = plan.members()
        learned = cast_params(known.params, device=backbone.device) if known else {}
        starts = {own: adapted.init(own) | learned for own in dict.fromkeys(seeds)}
        trained = train(
            model, stack_params([starts[seeds[t]] for t, _ in members]),
            lambda model: worded.training(plan.training(model.prepared(worded.rows, store), members)), loss,
            Schedule(steps=steps, lr=lr, batch_size=batch_size, optimizer=optimizer, warmup=WARMUP),
            seed=[seeds[t] for t, _ in members], progress=progress, groups=range(len(members)),
            checkpoint=checkpoint / f"{key[:16]}.safetensors" if checkpoint else None,
        )  # fmt: skip
        pool = trained.model.prepared(worded.rows, store)
        asked, scores = out_of_fold(Ranker(trained.adapted, model.words), trained.params, plan, members, pool)
    artifacts = []
    for t, task in enumerate(worded.tasks):
        heat, said = judged(plan, t, plan.gather(asked, scores, t), worded.rows, seed=seeds[t])
        member = members.index((t, FINAL))
        final = task_params(trained.params, member)
        notes = [f"training stopped: {trained.stopped[member]}"] if member in trained.stopped else []
        own = range(plan.offsets[t], plan.offsets[t] + len(task.examples))
        cost = wording_cost(trained.model, final, loss, pool, own, steps=steps, batch_size=batch_size)
        artifacts.append(
            Artifact.of(
                task,
                backbone,
                recipe="tfew",
                method=to_spec(trained.adapted.method),
                sites=trained.adapted.site_table(),
                params=final,
                features={
                    "templates": [template.to_dict() for template in templates_of(task)],
                    "length": min(length, backbone.max_length),
                    **_answered(task, pool, own),
                },
                head={},
                temperature=heat,
                estimate=said.to_dict() if num_folds else None,
                cost=cost
                | shown_sizes(pool, own, worded.labels[t])
                | {"seconds": round(watch.seconds / len(tasks), 3), "peak_memory_bytes": peak_memory(backbone.device)},
                seed=seeds[t],
                notes=(
                    *notes,
                    *([] if num_folds else ["no row was held out: tfew:num_folds=4 estimates the accuracy"]),
                ),
            )
        )
    return artifacts


def _answered(task: Task, pool: Batch, own: range) -> dict[str, Any]:
    """How a fitted task answers: by ranking choices, or in at most twice as many tokens as answers had in training."""
    if task.kind != "generation":
        return {"kind": "choices"}
    longest = int((pool.inputs["targets"][own.start : own.stop] != NOTHING).sum(-1).max())
    return {"kind": "written", "most": 2 * longest}
