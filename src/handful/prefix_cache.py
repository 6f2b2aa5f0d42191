"""Scores of rows by the frozen backbone, what all their prompts begin with being computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.backbone import Backbone
from handful.batches import TOKEN_BUDGET
from handful.choice_losses import mean_logp, sum_logp
from handful.choices import Spoken, together
from handful.chooser import read
from handful.families import text_config
from handful.forward import run_backbone
from handful.packing import ANSWER, bias, positions, sees
from handful.types import Batch
from handful.vocabulary import Vocabulary

LEAST = 32
"""Tokens that prompts must have in common for their keys and values to be kept."""
TOGETHER = 1024
"""Tokens after a kept beginning that share a pass: attention between them is quadratic."""


@torch.no_grad()
def frozen_scores(backbone: Backbone, words: Vocabulary, rows: Sequence[Spoken], *, normalised: bool = True) -> Tensor:
    """Scores `[n, C]` of each row's choices, -inf where it has none: the mean or the sum of their log-probabilities.

    A decoder computes what all prompts begin with once, and keeps its keys and values.
    """
    most = max(len(row.choices) for row in rows)
    first = beginning(backbone, rows)
    each = _after(backbone, words, rows, first) if first else _whole(backbone, words, rows)
    found = [(places, mean_logp(logp) if normalised else sum_logp(logp)) for places, logp in each]
    order = torch.tensor([place for places, _ in found for place in places], device=backbone.device)
    wide = [F.pad(scores, (0, most - scores.shape[1]), value=float("-inf")) for _, scores in found]
    return torch.cat(wide)[order.argsort()]


def beginning(backbone: Backbone, rows: Sequence[Spoken]) -> int:
    """How many first tokens of all prompts are computed once; none where there is little, or attention is local."""
    config = text_config(backbone.model.config)
    local = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if backbone.family.architecture != "decoder" or len(rows) < 2 or local or getattr(config, "sliding_window", None):
        return 0
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*(row.prompt for row in rows), strict=False))
    common = min(
        sum(1 for _ in alike), min(len(row.prompt) for row in rows) - 1
    )  # an answer follows a token of its own
    return common if common >= LEAST else 0


def _whole(backbone: Backbone, words: Vocabulary, rows: Sequence[Spoken]) -> Iterator[tuple[list[int], Tensor]]:
    for places in _groups(rows, 0, 2 * TOKEN_BUDGET):
        batch = together(backbone, [rows[i] for i in places])
        hidden, _ = run_backbone(backbone, batch.inputs)
        yield places, read(words, hidden, batch.inputs["source"], batch.inputs["targets"])


def _after(
    backbone: Backbone, words: Vocabulary, rows: Sequence[Spoken], first: int
) -> Iterator[tuple[list[int], Tensor]]:
    """The rows of a group stand in one row, each after the common beginning and blind to the others."""
    model: Any = backbone.model
    start = torch.tensor([rows[0].prompt[:first]], device=backbone.device)
    kept = model(input_ids=start, use_cache=True).past_key_values
    for places in _groups(rows, first, TOGETHER):
        own = [Spoken(rows[i].prompt[first:], rows[i].choices) for i in places]
        batch = together(backbone, own)
        real = batch.inputs["attention_mask"].bool()
        ids, place = batch.inputs["input_ids"][real], positions(batch.inputs[ANSWER])[real] + first
        hidden = model(
            input_ids=ids[None], position_ids=place[None], past_key_values=kept, use_cache=True,
            attention_mask=_bias(batch, real, first, backbone.dtype),
        ).last_hidden_state  # fmt: skip
        kept.crop(-len(ids))
        spread = hidden.new_zeros(*real.shape, hidden.shape[-1]).masked_scatter(real[..., None], hidden[0])
        yield places, read(words, spread, batch.inputs["source"], batch.inputs["targets"])


def _bias(batch: Batch, real: Tensor, first: int, dtype: torch.dtype) -> Tensor:
    """What is added to scores of attention `[1, 1, N, first + N]` of the N real tokens of all rows, end to end."""
    allowed = torch.block_diag(*sees(batch.inputs[ANSWER], real).unbind())[real.flatten()][:, real.flatten()]
    allowed = F.pad(allowed.bool(), (first, 0), value=True)
    return bias(allowed, dtype)[None, None]


def _groups(rows: Sequence[Spoken], first: int, budget: int) -> Iterator[list[int]]:
    """Places of rows, the longest together, by about `budget` tokens after their first ones."""
    size = [len(row.prompt) - first + sum(map(len, row.choices)) for row in rows]
    group: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -size[i]):
        if group and size[group[0]] * (len(group) + 1) > budget:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
