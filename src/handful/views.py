"""Several frozen views of a text, scaled and put side by side: what the cheapest good head reads.

A sentence embedding alone forgets words and, where it was trained for topics, sentiment and syntax; lower layers and
the bag of word pieces still have them. Each view is brought to length `sqrt(weight)`, so that the inner product of
two texts is the weighted sum of the views' cosines (a sum of kernels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from handful.attach import States
from handful.backbone import Backbone
from handful.cache import FeatureCache
from handful.features import frozen
from handful.forward import hidden_states
from handful.scoring import pool as pool_states
from handful.types import Batch

LEXICAL = "lexical"
MARKED = "marked"


@dataclass(frozen=True)
class Views:
    """view name -> weight; weights need not sum to one.

    "pool:d"  states of the block at depth d (0 the embeddings, 1 the last block), pooled as the backbone asks
    "max:d"   their largest value over real tokens
    "end:d"   the state of the last token before the closing special one
    "lexical" word pieces and pairs of them that occur in the examples, by sublinear count and inverse frequency
    "marked"  mean states, at two thirds of the depth, of what stands between `[name]` and `[/name]`, name by name
    """

    weights: Mapping[str, float]

    def to_spec(self) -> dict[str, Any]:
        return {"kind": "views", "weights": dict(self.weights)}

    @property
    def contextual(self) -> tuple[str, ...]:
        """The views that need the backbone."""
        return tuple(name for name in self.weights if name != LEXICAL)

    def compute(self, backbone: Backbone, pool: Batch, store: FeatureCache | None = None) -> dict[str, Tensor]:
        """Each contextual view `[n, D_view]`, unit length, from one pass over the backbone for each distinct row."""
        names = self.contextual
        marks = int(pool.inputs["marks"].max()) if "marks" in pool.inputs else 0
        names = tuple(name for name in names if name != MARKED or marks)
        level = f"views:{','.join(names)}:{marks}"
        sizes: list[int] = []

        def views(batch: Batch) -> Tensor:
            states = hidden_states(backbone, {n: v for n, v in batch.inputs.items() if n != "marks"})
            parts = [_view(name, states, batch, backbone.pooling, marks) for name in names]
            return torch.cat([F.normalize(part.float(), dim=-1) for part in parts], -1)

        together = frozen(backbone, level, pool, views, store=store)
        width = together.shape[1] // (len(names) + (marks - 1 if MARKED in names else 0))
        sizes = [width * (marks if name == MARKED else 1) for name in names]
        return dict(zip(names, together.split(sizes, dim=1), strict=True))


def _view(name: str, states: tuple[list[Tensor], Tensor], batch: Batch, pooling: str, marks: int) -> Tensor:
    layers, mask = states
    if name == MARKED:
        hidden = layers[round(2 / 3 * (len(layers) - 1))]
        inside = [(batch.inputs["marks"] == mark)[..., None].to(hidden.dtype) for mark in range(1, marks + 1)]
        means = [(hidden * m).sum(1) / m.sum(1).clamp(min=1) for m in inside]
        return torch.cat([F.normalize(mean, dim=-1) for mean in means], -1)
    kind, depth = name.split(":")
    hidden = layers[round(float(depth) * (len(layers) - 1))]
    if kind == "pool":
        return pool_states(States(hidden, mask), pooling)
    if kind == "max":
        return hidden.masked_fill(~mask[..., None], float("-inf")).amax(1)
    last = (mask.sum(1) - 2).clamp(min=0)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


@dataclass(frozen=True)
class Lexicon:
    """The terms of the lexical view, `terms [V]` sorted, and their inverse document frequencies `idf [V]`."""

    terms: Tensor
    idf: Tensor

    @staticmethod
    def of(pool: Batch, special: Sequence[int], vocabulary: int) -> Lexicon:
        """All word pieces and neighbouring pairs of the rows, `idf = ln((1 + n) / (1 + df)) + 1` (as scikit-learn)."""
        rows = _rows_of_terms(pool, special, vocabulary)
        terms, df = np.unique(np.concatenate([np.unique(row) for row in rows]), return_counts=True)
        idf = np.log((1 + len(rows)) / (1 + df)) + 1
        return Lexicon(torch.from_numpy(terms), torch.from_numpy(idf).float())

    def vectors(self, pool: Batch, special: Sequence[int], vocabulary: int) -> Tensor:
        """`[n, V]`: `(1 + ln count) idf` of the known terms, unit length (zero for a row without any)."""
        terms, out = self.terms.numpy(), torch.zeros(pool.row_mask.shape[0], len(self.terms))
        for i, row in enumerate(_rows_of_terms(pool, special, vocabulary)):
            own, count = np.unique(row, return_counts=True)
            place = np.searchsorted(terms, own).clip(max=len(terms) - 1)
            known = terms[place] == own
            out[i, place[known]] = torch.from_numpy(1 + np.log(count[known])).float()
        return F.normalize(out * self.idf, dim=-1)


def _rows_of_terms(pool: Batch, special: Sequence[int], vocabulary: int) -> list[np.ndarray]:
    """Word pieces, and pairs numbered after them, of each row, without special tokens."""
    ids, mask = pool.inputs["input_ids"].cpu().numpy(), pool.inputs["attention_mask"].cpu().numpy().astype(bool)
    rows = []
    for own, real in zip(ids, mask, strict=True):
        pieces = own[real]
        pieces = pieces[~np.isin(pieces, special)].astype(np.int64)
        rows.append(np.concatenate([pieces, (pieces[:-1] + 1) * vocabulary + pieces[1:]]))
    return rows


def featurize(
    backbone: Backbone, views: Views, pool: Batch, lexicon: Lexicon | None, store: FeatureCache | None = None
) -> Tensor:
    """What a head reads, `[n, D]`: the views side by side, each of length `sqrt(weight)`."""
    parts = [views.weights[name] ** 0.5 * x for name, x in views.compute(backbone, pool, store).items()]
    if lexicon is not None:
        own = lexicon.vectors(pool, *special_pieces(backbone)).to(parts[0])
        parts.append(views.weights[LEXICAL] ** 0.5 * own)
    return torch.cat(parts, dim=-1)


def special_pieces(backbone: Backbone) -> tuple[Sequence[int], int]:
    """Ids that are no words, and the size of the vocabulary."""
    assert backbone.tokenizer is not None
    return backbone.tokenizer.all_special_ids, len(backbone.tokenizer)
