"""Fitting one linear head on frozen views, for every task at once, with everything chosen by cross-validation.

A feature set weights the views. For each set a head is fitted; sets are mixed by their out-of-fold likelihood, and
since a sum of linear heads is a linear head, one weight matrix is all that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handful.artifact import Artifact
from handful.backbone import Backbone
from handful.batches import lengths
from handful.cache import FeatureCache
from handful.costs import backbone_flops, head_flops, measured, peak_memory
from handful.crossval import Plan, Verdict, judge, seeds_of
from handful.errors import RequestError
from handful.heads import Rotated, Sets, choices, cross_validate, final_heads
from handful.methods import to_spec
from handful.prior import Prior
from handful.priors import is_shipped
from handful.progress import Progress, silent
from handful.prompts import check_classes, encode, mark_names, targets
from handful.types import Task
from handful.views import LEXICAL, MARKED, PRIOR_MARKED, Lexicon, Tuned, Views


@dataclass(frozen=True)
class Spec:
    """What there is to choose from.

    sets       weights of the views in each feature set, the best liked first
    marked     share of the view of marked spans, where every text marks the same ones; 0 never looks for them
    cs         strengths of regularisation (scikit-learn's `C`), the best liked first
    stops      numbers of steps, the best liked first; 0 is the prototype head that training starts from
    num_folds  at most so many folds
    """

    sets: Sequence[Mapping[str, float]]
    marked: float = 0.0
    cs: Sequence[float] = (10.0,)
    stops: Sequence[int] = (100,)
    num_folds: int = 5


def fit_view_heads(
    tasks: Sequence[Task],
    backbone: Backbone,
    spec: Spec,
    *,
    recipe: str,
    prior: Prior | None = None,
    seed: int | Sequence[int] = 0,
    store: FeatureCache | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> list[Artifact]:
    """Fits tasks of one kind at once; a task's result does not depend on the others. `seed`, one for all or
    one for each, decides the folds. `prior` is what the views "prior" and "prior-marked" are of; an artifact holds it,
    or its digest if it is a shipped one.

    `checkpoint` is a folder to keep progress in and to continue from.
    """
    if tasks[0].kind == "tagging":
        raise RequestError(
            f"The tagging task {tasks[0].name} was to be fitted by the recipe {recipe}.",
            "It reads a text as a whole, and has no answer for each word.", "Use the recipe lora, or another method's.",
        )  # fmt: skip
    check_classes(tasks, recipe)
    seeds, tuned = seeds_of(seed, len(tasks)), prior.on(backbone) if prior else None
    with measured() as watch:
        inputs = []
        for task in tasks:
            inputs.append(_Inputs(task, backbone, spec, tuned, store))
            progress("reading the backbone", len(inputs) / len(tasks))
        plan = Plan.of(tasks, [targets(task) for task in tasks], spec.num_folds, seed=seeds)
        rotated = [[Rotated.of(own.features(j)) for own in inputs] for j in range(len(spec.sets))]
        sets, last = Sets.of(rotated), max(*spec.stops, 1)
        found = cross_validate(
            plan, sets, spec.cs, spec.stops,
            watch=lambda step, _, __: progress("cross-validation", step / last),
            checkpoint=checkpoint / "crossval.safetensors" if checkpoint else None,
        )  # fmt: skip
        verdicts = [judge(plan, t, scores, inner, seed=seeds[t]) for t, (scores, inner) in enumerate(found)]
        chosen = [choices(spec.cs, spec.stops)[verdict.mixture.choice] for verdict in verdicts]
        final = final_heads(
            plan, sets, chosen, checkpoint=checkpoint / "final.safetensors" if checkpoint else None
        )["head"]  # fmt: skip
        progress("the final head", 1.0)
    artifacts = []
    for t, (task, own, verdict) in enumerate(zip(tasks, inputs, verdicts, strict=True)):
        heads, classes = [], len(task.labels)
        for j, rotation in enumerate(rotated):
            member = j * len(tasks) + t
            heads.append((rotation[t].back(final["weight"][member, :classes]), final["bias"][member, :classes]))
        c, steps = chosen[t]
        trained = sum(of == t for of, _ in plan.nested()) * len(spec.cs) * max(spec.stops) + steps
        artifacts.append(
            Artifact.of(
                task,
                backbone,
                recipe=recipe,
                features={"kind": "views", "views": list(own.views.names), "marks": list(own.views.marks)},
                **_held(prior),
                head=own.merged(heads, verdict.mixture.weights.tolist()) | own.constants(),
                temperature=verdict.temperature,
                estimate=verdict.estimate.to_dict(),
                cost=own.cost(classes, trained * len(spec.sets))
                | {"seconds": round(watch.seconds / len(tasks), 3), "peak_memory_bytes": peak_memory(backbone.device)},
                seed=seeds[t],
                notes=(_note(c, steps, verdict),),
            )
        )
    return artifacts


class _Inputs:
    """One task's rows: views, centred and brought to mean square length one, and their weights in each feature set."""

    def __init__(
        self, task: Task, backbone: Backbone, spec: Spec, prior: Tuned | None, store: FeatureCache | None
    ) -> None:
        self.backbone = backbone
        marks = mark_names(task.examples, task.template) if spec.marked else ()
        names = (MARKED, PRIOR_MARKED) if prior else (MARKED,)
        share = spec.marked if marks else 0.0
        at_marks = {name: share / len(names) for name in names} if marks else {}
        self.sets = [{n: (1 - share) * w for n, w in own.items()} | at_marks for own in spec.sets]
        self.views = Views(tuple(dict.fromkeys(name for own in self.sets for name in own)), marks, prior)
        self.pool = encode(backbone, task.examples, template=task.template, marks=marks)
        self.lexicon = Lexicon.of(self.pool, backbone) if LEXICAL in self.views.names else None
        raw = self.views.compute(backbone, self.pool, self.lexicon, store)
        self.centres = [x.mean(0) for x in raw]
        spread = [(x - c).square().sum(1).mean().sqrt() for x, c in zip(raw, self.centres, strict=True)]
        self.scales = [1 / s if s > 1e-6 else torch.zeros_like(s) for s in spread]
        self.scaled = [(x - c) * s for x, c, s in zip(raw, self.centres, self.scales, strict=True)]

    def features(self, j: int) -> Tensor:
        """Feature set j, `[n, D]`: its views, each of mean square length `weight`."""
        return torch.cat([self.root(name, j) * x for name, x in zip(self.views.names, self.scaled, strict=True)], -1)

    def root(self, name: str, j: int) -> float:
        return self.sets[j].get(name, 0.0) ** 0.5

    def merged(self, heads: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
        """The weighted sum of the sets' heads `(weight [C, D], bias [C])`, as one head on the views as they are."""
        sizes = [c.shape[0] for c in self.centres]
        blocks = [torch.zeros(heads[0][0].shape[0], size, device=heads[0][0].device) for size in sizes]
        bias = torch.zeros_like(heads[0][1])
        for j, ((weight, own), share) in enumerate(zip(heads, weights, strict=True)):
            bias = bias + share * own
            for v, part in enumerate(weight.split(sizes, dim=1)):
                block = share * self.root(self.views.names[v], j) * self.scales[v] * part
                blocks[v] = blocks[v] + block
                bias = bias - block @ self.centres[v]
        return {"weight": torch.cat(blocks, dim=1), "bias": bias}

    def constants(self) -> dict[str, Tensor]:
        return {"terms": self.lexicon.terms, "idf": self.lexicon.idf} if self.lexicon else {}

    def cost(self, classes: int, steps: int) -> dict[str, Any]:
        """FLOPs of the fit (one pass over the backbone and `steps` head steps) and of a query of mean length."""
        tokens = float(lengths(self.pool).double().mean())
        rows, width = self.scaled[0].shape[0], sum(x.shape[1] for x in self.scaled)
        forward = backbone_flops(self.backbone, round(tokens)) * (
            1 + (self.views.prior.passes if self.views.prior else 0)
        )
        return {
            "training_flops": forward * rows + steps * head_flops(rows, rows, classes),
            "query_flops": forward + 2 * classes * width,
            "query_tokens": round(tokens, 1),
            "training_rows": rows,
            "trained_parameters": classes * (width + 1),
            "backbone_parameters": self.backbone.num_parameters,
        }


def _held(prior: Prior | None) -> dict[str, Any]:
    """A prior in an artifact: by its digest where every handful has it."""
    if prior is None:
        return {}
    if is_shipped(prior):
        return {"prior": prior.digest}
    return {"method": to_spec(prior.method), "sites": list(prior.sites), "params": prior.params}


def _note(c: float, steps: int, verdict: Verdict) -> str:
    shares = verdict.mixture.weights / verdict.mixture.weights.sum()
    mixed = f", feature sets mixed {' '.join(f'{share:.2f}' for share in shares)}" if len(shares) > 1 else ""
    return f"chosen by cross-validation: C = {c:g}, {steps} steps{mixed}"
