"""Several frozen views of a text: what the cheapest good head reads.

A sentence embedding forgets words and, where it was trained for topics, sentiment and syntax; lower layers, single
tokens and the bag of word pieces still have them. One pass over the backbone gives all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from handful.attach import Adapted, States
from handful.backbone import Backbone
from handful.cache import FeatureCache
from handful.features import frozen
from handful.forward import hidden_states
from handful.scoring import pool as pool_states
from handful.types import Batch, Params

LEXICAL = "lexical"
MARKED = "marked"
MARKED_DEPTH = 5 / 6
PRIOR, PRIOR_MARKED = "prior", "prior-marked"


@dataclass(frozen=True, eq=False)
class Tuned:
    """The backbone with parameters that were learned over other tasks; `digest` says which."""

    adapted: Adapted
    params: Params
    digest: str

    @property
    def passes(self) -> float:
        """What its states cost, in forward passes of the backbone."""
        blocks = self.adapted.backbone.model.config.num_hidden_layers
        return (blocks - self.adapted.first_block) / blocks

    def states(self, layers: Sequence[Tensor], inputs: Mapping[str, Tensor], rows: Tensor) -> States:
        """Final states of rows; what lies below all of the parameters is taken from the frozen `layers`."""
        first = self.adapted.first_block
        below = {"states": layers[first]} if first and not self.adapted.beside else {}
        return self.adapted(self.params, Batch({**inputs, **below}, rows))


@dataclass(frozen=True)
class Views:
    """The views of `names`, in their order, side by side.

    "pool:d"  states at depth d (0 the embeddings, 1 the last block), pooled as the backbone asks, of unit length
    "max:d"   their largest value over real tokens
    "end:d"   the state of the last token that is a word
    "lexical" word pieces and pairs of them that occur in the examples, by sublinear count and inverse frequency
    "marked"  for each of `marks` names the mean state of what stands from `[name]` to `[/name]`
    "prior", "prior-marked"  the last block's states by `prior`, pooled, and at marks
    """

    names: tuple[str, ...]
    marks: tuple[str, ...] = ()
    prior: Tuned | None = None

    def compute(
        self, backbone: Backbone, pool: Batch, lexicon: Lexicon | None = None, store: FeatureCache | None = None
    ) -> list[Tensor]:
        """Each view `[n, D_view]`; each distinct row passes the backbone once."""
        contextual = [name for name in self.names if name != LEXICAL]
        prior = self.prior if {PRIOR, PRIOR_MARKED} & set(contextual) else None

        def views(batch: Batch) -> Tensor:
            inputs = {n: v for n, v in batch.inputs.items() if n != "marks"}
            layers, mask = hidden_states(backbone, inputs)
            learned = prior.states(layers, inputs, batch.row_mask).hidden if prior else None
            return torch.cat([self._view(n, (layers, mask), learned, batch, backbone).float() for n in contextual], -1)

        level = f"views:{','.join(contextual)}:{','.join(self.marks)}" + (f":{prior.digest}" if prior else "")
        together = frozen(backbone, level, pool, views, store=store)
        parts = [len(self.marks) if name in (MARKED, PRIOR_MARKED) else 1 for name in contextual]
        width = together.shape[1] // sum(parts)
        sizes = [width * part for part in parts]
        found = dict(zip(contextual, together.split(sizes, dim=1), strict=True))
        if lexicon is not None:
            found[LEXICAL] = lexicon.vectors(pool, backbone).to(together)
        return [found[name] for name in self.names]

    def _view(
        self, name: str, states: tuple[list[Tensor], Tensor], learned: Tensor | None, batch: Batch, backbone: Backbone
    ) -> Tensor:
        layers, mask = states
        kind, _, depth = name.partition(":")
        if kind in (PRIOR, PRIOR_MARKED):
            assert learned is not None
            hidden = learned
        else:
            hidden = layers[round((MARKED_DEPTH if kind == MARKED else float(depth)) * (len(layers) - 1))]
        if kind in ("pool", PRIOR):
            return F.normalize(pool_states(States(hidden, mask), backbone.pooling), dim=-1)
        if kind == "max":
            return hidden.masked_fill(~mask[..., None], float("-inf")).amax(1)
        if kind == "end":
            last = mask.sum(1) - 1
            ids = batch.inputs["input_ids"].gather(1, last[:, None])[:, 0]
            special = torch.isin(ids, torch.tensor(_special(backbone), device=ids.device))
            return hidden[torch.arange(len(hidden), device=hidden.device), (last - special.long()).clamp(min=0)]
        inside = [(batch.inputs["marks"] == i + 1)[..., None].to(hidden.dtype) for i in range(len(self.marks))]
        return torch.cat([(hidden * m).sum(1) / m.sum(1).clamp(min=1) for m in inside], -1)


@dataclass(frozen=True)
class Lexicon:
    """The terms of the lexical view, `terms [V]` sorted, and their inverse document frequencies `idf [V]`."""

    terms: Tensor
    idf: Tensor

    @staticmethod
    def of(pool: Batch, backbone: Backbone) -> Lexicon:
        """All word pieces and neighbouring pairs of the rows, `idf = ln((1 + n) / (1 + df)) + 1` (as scikit-learn)."""
        rows = _rows_of_terms(pool, backbone)
        terms, df = np.unique(np.concatenate([np.unique(row) for row in rows]), return_counts=True)
        idf = np.log((1 + len(rows)) / (1 + df)) + 1
        return Lexicon(torch.from_numpy(terms), torch.from_numpy(idf).float())

    def vectors(self, pool: Batch, backbone: Backbone) -> Tensor:
        """`[n, V]`: `(1 + ln count) idf` of the known terms, unit length (zero for a row without any)."""
        terms, out = self.terms.numpy(), torch.zeros(pool.row_mask.shape[0], len(self.terms))
        for i, row in enumerate(_rows_of_terms(pool, backbone)):
            own, count = np.unique(row, return_counts=True)
            place = np.searchsorted(terms, own).clip(max=len(terms) - 1)
            known = terms[place] == own
            out[i, place[known]] = torch.from_numpy(1 + np.log(count[known])).float()
        return F.normalize(out * self.idf, dim=-1)


def _rows_of_terms(pool: Batch, backbone: Backbone) -> list[np.ndarray]:
    """Word pieces, and neighbouring pairs numbered after them (with the ends of the text), of each row."""
    special, vocabulary = _special(backbone), len(backbone.tokenizer or ())
    ids, mask = pool.inputs["input_ids"].cpu().numpy(), pool.inputs["attention_mask"].cpu().numpy().astype(bool)
    rows = []
    for own, real in zip(ids.astype(np.int64), mask, strict=True):
        pieces = own[real]
        pairs = (pieces[:-1] + 1) * vocabulary + pieces[1:]
        rows.append(np.concatenate([pieces[~np.isin(pieces, special)], pairs]))
    return rows


def _special(backbone: Backbone) -> Sequence[int]:
    assert backbone.tokenizer is not None
    return backbone.tokenizer.all_special_ids
