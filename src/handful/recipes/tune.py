"""Tuning any method with a class or tag head, all tasks and their folds in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from handful.artifact import Artifact
from handful.attach import attach
from handful.backbone import Backbone
from handful.batches import TOKEN_BUDGET, Rows, encode_tasks
from handful.cache import FeatureCache
from handful.checkpoint import digest
from handful.costs import measured, peak_memory
from handful.crossval import FINAL, Member, Plan, seeds_of
from handful.fit import Schedule, evaluate
from handful.folded import judged, out_of_fold, tuning_cost
from handful.losses import LOSSES
from handful.methods import to_spec
from handful.methods.base import Method
from handful.methods.lora import LoRA
from handful.methods.variants import OnLayers
from handful.prior import Prior, opened
from handful.progress import Progress, silent
from handful.prompts import check_classes
from handful.scoring import SCALE, Classifier, Tagger
from handful.stages import train
from handful.types import Batch, Params, Task, cast_params, stack_params, task_params

RATES = {
    "ia3": 2e-2, "bitfit": 5e-3, "layernorm": 5e-3, "prompt": 1e-2, "prefix": 1e-2, "full": 1e-4,
    "magnitude_pruning": 1e-4, "diff_pruning": 1e-4, "ssf": 5e-3, "vera": 1e-2, "said": 1e-2, "apt": 5e-4,
}  # fmt: skip
"""AdamW's rate where it is not 2e-3; from the training sets of docs/results.md."""
STEPS = 60
PROTOTYPE_ROWS = 256


def tune(
    tasks: Sequence[Task],
    backbone: Backbone,
    *,
    method: Method | None = None,
    prior: Prior | str | Path | None = None,
    start: int = 0,
    steps: int = STEPS,
    lr: float | None = None,
    batch_size: int = 16,
    num_folds: int = 4,
    together: bool = False,
    seed: int | Sequence[int] = 0,
    store: FeatureCache | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> list[Artifact]:
    """Tunes `method` (LoRA by default, or a prior's) and a prototype-initialised head, tasks of one kind at once.

    Nothing is chosen by cross-validation, so its folds estimate the accuracy of exactly what is handed over. `seed`,
    one for all tasks or one for each, decides folds, initial parameters, order and dropout. Without folds
    (`num_folds` 0) the fit costs a fraction and claims nothing: no estimate, no calibration. With `start` only blocks
    from there on are tuned (from the top if negative), and what lies below is computed once. A method that ties
    parameters (HyperFormer, `OverTasks`) does so over these tasks only if they are to be learned `together`: otherwise
    a task's result is the one that it would have alone. With a `prior`, a folder or a `Prior`, parameters start where
    it says.
    """
    check_classes(tasks, to_spec(method)["name"] if method else "tune")
    seeds = seeds_of(seed, len(tasks))
    asked = OnLayers(method=method, start=start) if method and start else method
    known = opened(prior, backbone, asked) if prior is not None else None
    method = method or (known.method if known else LoRA())
    name = to_spec(method)["name"]
    lr = RATES.get(name, 2e-3) if lr is None else lr
    spec = to_spec(method := OnLayers(method=method, start=start) if start else method)
    key = digest([spec, backbone.fingerprint, backbone.dtype])  # a checkpoint is of this model
    with measured() as watch:
        adapted = attach(backbone, method)
        tagging = tasks[0].kind == "tagging"
        model = (Tagger if tagging else Classifier)(adapted, backbone.pooling, SCALE)
        rows, labels = encode_tasks(tasks, backbone)
        plan = Plan.of(tasks, labels, num_folds, seed=seeds)
        members = plan.members()
        learned = cast_params(known.params, device=backbone.device) if known else {}
        starts = {own: _from(adapted.init(own), learned) for own in dict.fromkeys(seeds)}
        params = stack_params([starts[seeds[t]] for t, _ in members])
        params["head"] = _prototypes(model, params, plan.training(model.prepared(rows, store), members))
        progress("reading the backbone", 1.0)
        trained = train(
            model, params, lambda model: plan.training(model.prepared(rows, store), members), LOSSES[tasks[0].kind],
            Schedule(steps=steps, lr=lr, batch_size=batch_size, warmup=0.1, weight_decay=0.01),
            seed=[seeds[t] for t, _ in members], progress=progress,
            groups=_groups(members) if together else range(len(members)),
            checkpoint=checkpoint / f"{key[:16]}.safetensors" if checkpoint else None,
        )  # fmt: skip
        model, adapted = trained.model, trained.adapted
        pool = model.prepared(rows, store)
        asked, scores = out_of_fold(model, trained.params, plan, members, pool)
    artifacts = []
    for t, task in enumerate(tasks):
        heat, said = judged(plan, t, plan.gather(asked, scores, t), rows, seed=seeds[t])
        member = members.index((t, FINAL))
        final = task_params(trained.params, member)
        head = {name: p[: len(task.labels)] for name, p in final.pop("head").items()}
        notes = [f"training stopped: {trained.stopped[member]}"] if member in trained.stopped else []
        artifacts.append(
            Artifact.of(
                task,
                backbone,
                recipe=f"tune:{name}",
                method=to_spec(adapted.method),
                sites=adapted.site_table(),
                params=final,
                features={"kind": "tokens" if tagging else "pooled", "pooling": backbone.pooling, "scale": SCALE},
                head=head,
                temperature=heat,
                estimate=said.to_dict(),
                cost=tuning_cost(
                    model, final | {"head": head}, pool, plan.offsets[t], len(task.examples), batch_size, steps
                )
                | {"seconds": round(watch.seconds / len(tasks), 3), "peak_memory_bytes": peak_memory(backbone.device)},
                seed=seeds[t],
                notes=tuple(notes),
            )
        )
    return artifacts


def _from(fresh: Params, learned: Params) -> Params:
    """Fresh params with what was meta-learned of them in its place."""
    return {site: own | learned.get(site, {}) for site, own in fresh.items()}


def _groups(members: Sequence[Member]) -> list[int]:
    """Tasks share what a method ties with those that are without the same folds, the final ones with each other."""
    kinds = list(dict.fromkeys(held for _, held in members))
    return [kinds.index(held) for _, held in members]


def _prototypes(model: Classifier, params: Params, rows: Rows) -> dict[str, Tensor]:
    """Each member's head from the class prototypes of its own rows; of tags, from its first `PROTOTYPE_ROWS`."""
    if rows.tagged:  # the states of every token of all rows may not fit into memory
        first = slice(PROTOTYPE_ROWS)
        rows = replace(rows, index=rows.index[:, first], labels=rows.labels[:, first])
    features = evaluate(model.features, params, rows, budget=TOKEN_BUDGET)
    batch = Batch({}, rows.index >= 0, rows.labels)
    return model.prototypes(features, batch, rows.class_mask.shape[1])
