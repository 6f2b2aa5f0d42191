"""Fitting linear heads on frozen views, for every task at once, with everything chosen by cross-validation.

One pass over the frozen backbone, then the heads of all folds and candidates in one batch. The candidate and the number
of steps are those of least out-of-fold log-loss; the accuracy that is reported uses, for each fold, the choice that the
other folds made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from handful.artifact import Artifact
from handful.backbone import Backbone
from handful.batches import lengths
from handful.cache import FeatureCache
from handful.costs import backbone_flops, head_flops, measured, peak_memory
from handful.crossval import Plan, judge
from handful.heads import Candidate, Rotated, choices, cross_validate, final_heads, pool_of, unrotate
from handful.progress import Progress, silent
from handful.prompts import encode, mark_names, targets
from handful.types import Task
from handful.views import LEXICAL, MARKED, Lexicon, Views, featurize, special_pieces


@dataclass(frozen=True)
class Spec:
    """What there is to choose from.

    weights    of the views; "marked" is left out for a task whose texts do not all mark the same spans
    cs         strengths of regularisation (scikit-learn's `C`), the best liked first
    stops      numbers of steps, the best liked first; 0 is the prototype head that training starts from
    num_folds  at most so many folds
    """

    weights: Mapping[str, float]
    cs: Sequence[float] = (10.0,)
    stops: Sequence[int] = (150,)
    num_folds: int = 8


def fit_view_heads(
    tasks: Sequence[Task],
    backbone: Backbone,
    spec: Spec,
    *,
    recipe: str,
    seed: int = 0,
    store: FeatureCache | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> list[Artifact]:
    """Fits tasks of one kind at once; a task's result does not depend on the others. `seed` decides the folds.

    `checkpoint` is a folder to keep progress in and to continue from.
    """
    with measured() as watch:
        inputs = []
        for task in tasks:
            inputs.append(_Inputs(task, backbone, spec.weights, store))
            progress("reading the backbone", len(inputs) / len(tasks))
        plan = Plan.of(tasks, [targets(task) for task in tasks], spec.num_folds, seed=seed)
        rotated = [Rotated.of(own.features) for own in inputs]
        pool, starts = pool_of([rotated])
        candidates, last = [Candidate(0, c) for c in spec.cs], max(*spec.stops, 1)
        found = cross_validate(
            plan, pool, starts, candidates, spec.stops,
            watch=lambda step, _, __: progress("cross-validation", step / last),
            checkpoint=checkpoint / "crossval.safetensors" if checkpoint else None,
        )  # fmt: skip
        verdicts = [judge(plan, t, scores, seed=seed) for t, scores in enumerate(found)]
        chosen = [choices(candidates, spec.stops)[verdict.choice] for verdict in verdicts]
        heads = final_heads(plan, pool, starts, chosen)
        progress("the final head", 1.0)
    return [
        Artifact.of(
            task,
            backbone,
            recipe=recipe,
            features=own.spec(),
            head=unrotate(head, rotation) | own.constants(),
            temperature=verdict.temperature,
            estimate=verdict.estimate.to_dict(),
            cost=own.cost(head, len(plan.folds[t]) * len(candidates) * max(spec.stops) + steps)
            | {"seconds": round(watch.seconds / len(tasks), 3), "peak_memory_bytes": peak_memory(backbone.device)},
            seed=seed,
            notes=(f"chosen by cross-validation: C = {candidate.c:g}, {steps} steps",),
        )
        for t, (task, own, head, rotation, verdict, (candidate, steps)) in enumerate(
            zip(tasks, inputs, heads, rotated, verdicts, chosen, strict=True)
        )
    ]


class _Inputs:
    """One task's rows as the head sees them."""

    def __init__(
        self, task: Task, backbone: Backbone, weights: Mapping[str, float], store: FeatureCache | None
    ) -> None:
        self.backbone = backbone
        self.marks = mark_names(task.examples, task.template) if MARKED in weights else ()
        self.views = Views({name: w for name, w in weights.items() if name != MARKED or self.marks})
        self.pool = encode(backbone, task.examples, template=task.template, marks=self.marks)
        self.lexicon = Lexicon.of(self.pool, *special_pieces(backbone)) if LEXICAL in weights else None
        self.features = featurize(backbone, self.views, self.pool, self.lexicon, store)

    def spec(self) -> dict[str, Any]:
        return {"kind": "views", "weights": dict(self.views.weights), "marks": list(self.marks)}

    def constants(self) -> dict[str, Tensor]:
        return {"terms": self.lexicon.terms, "idf": self.lexicon.idf} if self.lexicon else {}

    def cost(self, head: dict[str, Tensor], steps: int) -> dict[str, Any]:
        """FLOPs of the fit (one pass over the backbone and `steps` head steps) and of a query of mean length."""
        tokens = lengths(self.pool).double()
        rows, classes = self.features.shape[0], head["weight"].shape[0]
        query = backbone_flops(self.backbone, round(float(tokens.mean()))) + 2 * classes * self.features.shape[1]
        training = backbone_flops(self.backbone, round(float(tokens.mean()))) * rows
        return {
            "training_flops": training + steps * head_flops(rows, head["weight"].shape[1], classes),
            "query_flops": query,
            "query_tokens": round(float(tokens.mean()), 1),
            "trained_parameters": classes * (self.features.shape[1] + 1),
            "backbone_parameters": self.backbone.num_parameters,
        }
