"""From hidden states to scores of rows and of tokens: pooling, linear heads and prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.attach import Adapted, States
from handful.features import frozen, frozen_bytes
from handful.types import Batch, Params

if TYPE_CHECKING:
    from handful.cache import FeatureCache
    from handful.noise import Noise

UNREAD = 10.0
"""How far the other classes are below the first where no word was read."""

SCALE = 8.0
"""Length of the pooled states that tuned heads read: an inverse temperature for their cosine scores."""

FROZEN_BYTES = 4 << 30
"""Most that the frozen states of a pool may take. They are padded to its longest row: sixty thousand short texts among
which one is long would take 22 GiB. Those of more are computed anew in each pass."""


def pool(states: States, pooling: str) -> Tensor:
    """States `[..., S, D]` -> one vector a row `[..., D]`: the "mean" of real tokens, the "first" or the "last" one."""
    if pooling == "first":
        return states.hidden[..., 0, :]
    mask = states.mask
    if pooling == "last":
        last = mask.long().cumsum(-1).argmax(-1)
        return states.hidden.gather(-2, last[..., None, None].expand(*last.shape, 1, states.hidden.shape[-1]))[
            ..., 0, :
        ]
    weight = mask.to(states.hidden.dtype)[..., None]
    return (states.hidden * weight).sum(-2) / weight.sum(-2).clamp(min=1)


def prepared(adapted: Adapted, rows: Batch, store: FeatureCache | None = None) -> Batch:
    """Rows `[n, ...]` with what no tuned parameter changes computed already, each distinct row once.

    Where that would take more than FROZEN_BYTES, the rows as they are.
    """
    if not adapted.cacheable or frozen_bytes(rows, adapted.freeze) > FROZEN_BYTES:
        return rows
    level = "beside" if adapted.beside else f"block:{adapted.first_block}"
    return rows.with_inputs(states=frozen(adapted.backbone, level, rows, adapted.freeze, store=store))


@dataclass(frozen=True)
class Classifier:
    """Scores `[T?, B, C]` of a linear class head on pooled states, scaled to length `scale` where one is given.

    `adapted` may be None for a head on features that are already pooled (`batch.inputs["features"] [T?, B, D]`).
    """

    adapted: Adapted | None
    pooling: str = "mean"
    scale: float | None = None

    def prepared(self, rows: Batch, store: FeatureCache | None = None) -> Batch:
        """As `prepared`, of what is adapted, if anything is."""
        return rows if self.adapted is None else prepared(self.adapted, rows, store)

    def vectors(self, states: States) -> Tensor:
        """What of the final states the head reads."""
        return pool(states, self.pooling)

    def features(self, params: Params, batch: Batch, noise: Noise | None = None, second_order: bool = False) -> Tensor:
        """What the head reads, `[T?, B, D]` (`[T?, B, S, D]` of tokens), in float32 or better."""
        if self.adapted is None:
            pooled = batch.inputs["features"]
        else:
            pooled = self.vectors(self.adapted(params, batch, noise=noise, second_order=second_order))
        pooled = pooled.to(torch.promote_types(pooled.dtype, torch.float32))
        return pooled if self.scale is None else self.scale * F.normalize(pooled, dim=-1)

    def __call__(self, params: Params, batch: Batch, noise: Noise | None = None, second_order: bool = False) -> Tensor:
        return self.read(params["head"], self.features(params, batch, noise, second_order), batch)

    def read(self, head: Mapping[str, Tensor], x: Tensor, batch: Batch) -> Tensor:
        """Scores `[T?, B, C]` of features `x [T?, B, D]`, or `[T?, B, S, C]` of `[T?, B, S, D]`."""
        return linear_scores(head, x, batch)

    def prototypes(self, x: Tensor, batch: Batch, num_classes: int) -> dict[str, Tensor]:
        """The head of the class means of features `x [T?, B, D]`: `weight [T?, C, D]` and `bias [T?, C]`.

        Its softmax is that of minus the squared distance (Snell et al. 2017, equation 2), of unit vectors `scale / 2`
        times that.
        """
        assert batch.labels is not None
        if self.scale is None:
            head = prototype_head(x, batch.labels, batch.row_mask, num_classes)
            return {name: 2 * p for name, p in head.items()}
        head = prototype_head(x / self.scale, batch.labels, batch.row_mask, num_classes)
        return {"weight": head["weight"], "bias": self.scale * head["bias"]}


@dataclass(frozen=True)
class Tagger(Classifier):
    """Scores `[T?, B, S, C]` of a linear head on the final state of each token, scaled as a Classifier's."""

    def vectors(self, states: States) -> Tensor:
        return states.hidden

    def prototypes(self, x: Tensor, batch: Batch, num_classes: int) -> dict[str, Tensor]:
        """The head of the tags' means over the tokens `x [T?, B, S, D]` that have one, with the tags' log-shares.

        Most words are outside of all entities; a head that does not know it begins far from where training leads.
        """
        assert batch.labels is not None
        start = 0 if batch.num_tasks is None else 1
        real = (batch.labels >= 0) & batch.row_mask[..., None]
        tokens = Batch({}, real.flatten(start), batch.labels.clamp(min=0).flatten(start))
        head = super().prototypes(x.flatten(start, -2), tokens, num_classes)
        count = (F.one_hot(batch.labels.clamp(min=0), num_classes) * real[..., None]).flatten(start, -2).sum(-2)
        share = (count + 0.5) / count.sum(-1, keepdim=True).clamp(min=1)  # whatever classes only fill up a stack
        return {"weight": head["weight"], "bias": head["bias"] + share.log()}


def word_scores(logits: Tensor, word: Tensor, num_words: int) -> Tensor:
    """Scores of words `[n, W, C]` from those of tokens `[n, S, C]`, by `word [n, S]` of `prompts.encode`.

    A word that was not read, or that a row does not have, is scored as outside of all entities (the first class).
    """
    out = torch.full((len(logits), num_words, logits.shape[-1]), -UNREAD, dtype=logits.dtype, device=logits.device)
    out[..., 0] = 0
    row, column = torch.nonzero(word, as_tuple=True)
    out[row, word[row, column] - 1] = logits[row, column]
    return out


def linear_scores(head: Mapping[str, Tensor], x: Tensor, batch: Batch) -> Tensor:
    """`weight x + bias` of rows `x [T?, B, D]`, or of tokens `[T?, B, S, D]`, with -inf for classes that are absent."""
    rows = x.flatten(0 if batch.num_tasks is None else 1, -2)
    bias = head["bias"] if batch.num_tasks is None else head["bias"].unsqueeze(-2)
    logits = (head["weight"] @ rows.mT).mT + bias  # the gradient of `x @ weight.mT` is computed 2.5 times slower
    return mask_classes(logits, batch.class_mask).reshape(*x.shape[:-1], -1)


def mask_classes(logits: Tensor, class_mask: Tensor | None) -> Tensor:
    """Logits `[T?, B, C]` with -inf outside `class_mask [T?, C]`."""
    return logits if class_mask is None else logits.masked_fill(~class_mask.unsqueeze(-2), float("-inf"))


def prototypes(x: Tensor, labels: Tensor, row_mask: Tensor, num_classes: int) -> Tensor:
    """Mean vector of each class, `[T?, C, D]`, of `x [T?, B, D]`; zero for a class without rows."""
    member = labels if labels.is_floating_point() else F.one_hot(labels, num_classes)
    member = member.to(x.dtype) * row_mask[..., None].to(x.dtype)
    return member.mT @ x / member.sum(-2).clamp(min=1)[..., None]


def prototype_head(x: Tensor, labels: Tensor, row_mask: Tensor, num_classes: int) -> dict[str, Tensor]:
    """A linear head that scores by squared distance to the class prototypes (Snell et al. 2017, equation 8).

    `-|x - c|^2 = 2 c x - |c|^2 - |x|^2`, whose last term is the same for all classes; halved, so that on vectors of
    one length it is the cosine. With several labels a row, each label's score is less that of the rows without it, so
    that zero lies between them. Returns `weight [T?, C, D]` and `bias [T?, C]`.
    """
    c = prototypes(x, labels, row_mask, num_classes)
    head = {"weight": c, "bias": -0.5 * c.square().sum(-1)}
    if labels.is_floating_point():
        other = prototypes(x, 1 - labels, row_mask, num_classes)
        head = {"weight": c - other, "bias": head["bias"] + 0.5 * other.square().sum(-1)}
    return head
