"""Tasks that are tuned with their folds: encoded together, judged by what the folds' models say, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from handful.attach import Adapted
from handful.batches import lengths
from handful.costs import count_flops, learning
from handful.crossval import FINAL, Member, Plan, judge
from handful.estimate import Estimate
from handful.fit import evaluate
from handful.noise import Noise
from handful.scoring import word_scores
from handful.tagestimate import estimate_tags, tag_temperature
from handful.types import Batch, Params, map_params


class Scorer(Protocol):
    """A model of params with a head, on a backbone with a method."""

    @property
    def adapted(self) -> Adapted | None: ...
    def __call__(self, params: Params, batch: Batch, noise: Noise | None = None) -> Tensor: ...


def out_of_fold(
    model: Scorer, params: Params, plan: Plan, members: Sequence[Member], pool: Batch
) -> tuple[list[Member], Tensor]:
    """The members that leave folds out, and their scores of those: what `Plan.gather` takes. `params` are of all."""
    folds = [i for i, (_, held) in enumerate(members) if held != FINAL]
    asked = [members[i] for i in folds]
    if not folds:
        return asked, torch.empty(0, 0, *pool.inputs["word"].shape[1:], 0) if "word" in pool.inputs else torch.empty(0)
    own = map_params(lambda p: p[folds], params)
    return asked, evaluate(model, own, plan.held_out(pool, asked))


def judged(plan: Plan, t: int, scores: np.ndarray, rows: Batch, *, seed: int) -> tuple[float, Estimate]:
    """Temperature and estimate of a task from its out-of-fold scores `[n, C]`, or of tokens `[n, S, C]`."""
    if plan.tasks[t].kind == "tagging":
        return _judged_tags(plan, t, scores, rows, seed)
    verdict = judge(plan, t, scores[None, None], [], seed=seed)
    return verdict.temperature, verdict.estimate


def _judged_tags(plan: Plan, t: int, scores: np.ndarray, rows: Batch, seed: int) -> tuple[float, Estimate]:
    """The same from scores of tokens, read word by word."""
    task, held = plan.tasks[t], plan.fold_of_row(t) >= 0
    truth = [example.label or () for example in task.examples]
    word = rows.inputs["word"][plan.offsets[t] :][: len(truth)].cpu()
    words = word_scores(torch.from_numpy(scores), word, max(map(len, truth))).numpy()
    heat = tag_temperature(words[held], [truth[i] for i in np.flatnonzero(held)], task.labels)
    return heat, estimate_tags(words, truth, task.labels, held, len(plan.folds[t]), seed=seed)


def tuning_cost(
    model: Scorer, params: Params, pool: Batch, start: int, rows: int, batch_size: int, steps: int
) -> dict[str, Any]:
    """FLOPs of a query of mean length and, from one step on rows of that length, of the final model's training.

    Of a task whose `rows` begin at `start` in `pool`, trained for `steps` with at most `batch_size` rows each.
    """
    tokens = max(1, round(float(lengths(pool)[start : start + rows].double().mean())))
    ids = torch.zeros(1, tokens, dtype=torch.long, device=pool.row_mask.device)
    row = Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.ones(1, dtype=torch.bool))
    assert model.adapted is not None
    rate = model.adapted.method.rate
    tree, leaves = learning(params, lambda site, name: site == "head" or rate(name) > 0)
    query = count_flops(lambda: model(params, row))
    step = count_flops(lambda: torch.autograd.grad(model(tree, row).sum(), leaves, allow_unused=True))
    head = sum(p.numel() for p in params["head"].values())
    trained = sum(leaf.numel() for leaf in leaves)
    return {
        "training_flops": step * min(batch_size, rows) * steps,
        "query_flops": query,
        "query_tokens": tokens,
        "training_rows": rows,
        "trained_parameters": trained,
        "method_parameters": trained - head,
        "backbone_parameters": model.adapted.backbone.num_parameters,
    }
