"""Log-probabilities of the tokens of choices, and scores of choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from handful.attach import Adapted
from handful.choice_losses import mean_logp, sum_logp
from handful.choices import NOTHING
from handful.errors import MethodError
from handful.packing import apart
from handful.scoring import prepared
from handful.types import Batch, Params
from handful.vocabulary import Vocabulary

if TYPE_CHECKING:
    from handful.cache import FeatureCache
    from handful.noise import Noise


@dataclass(frozen=True)
class Chooser:
    """`[T?, B, C, L]`: the log-probability of each token of each choice, -inf where there is none.

    Rows are those of `choices.encode_choices`. Each state is read once, however many choices go on from it. A method
    beside the backbone is given each choice in a row of its own; MethodError for one that looks ahead.
    """

    adapted: Adapted
    words: Vocabulary

    def __post_init__(self) -> None:
        if not self.adapted.method.causal:
            raise MethodError(
                f"{self.adapted.method} was to score words.", "It lets a token see those that follow it.",
                "Use another method: what is to be foretold must not be seen.",
            )  # fmt: skip

    def prepared(self, rows: Batch, store: FeatureCache | None = None) -> Batch:
        """As `scoring.prepared`; rows that are taken `apart` have nothing that could be kept."""
        return rows if self.adapted.beside else prepared(self.adapted, rows, store)

    def __call__(self, params: Params, batch: Batch, noise: Noise | None = None, second_order: bool = False) -> Tensor:
        rows = apart(batch) if self.adapted.beside else batch
        hidden = self.adapted(params, rows, noise=noise, second_order=second_order).hidden
        found = read(self.words, hidden, rows.inputs["source"], rows.inputs["targets"])
        return found.reshape(batch.inputs["targets"].shape)


@dataclass(frozen=True)
class Ranker(Chooser):
    """Scores `[T?, B, C]` of choices, -inf for those that a row does not have.

    The mean log-probability of their tokens (T-Few's rank classification), or the sum where not `normalised`.
    """

    normalised: bool = True

    def __call__(self, params: Params, batch: Batch, noise: Noise | None = None, second_order: bool = False) -> Tensor:
        logp = Chooser.__call__(self, params, batch, noise, second_order)
        return mean_logp(logp) if self.normalised else sum_logp(logp)


def read(words: Vocabulary, hidden: Tensor, source: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities `[..., B, C, L]` of tokens `targets`, by the states of `hidden [..., B, S, D]` at `source`."""
    rows, (size, width) = source.shape[:-2].numel(), hidden.shape[-2:]
    real = targets.flatten() != NOTHING
    place = (torch.arange(rows, device=source.device)[:, None] * size + source.reshape(rows, -1)).flatten()[real]
    distinct, which = place.unique(return_inverse=True)
    logits = words(hidden.reshape(-1, width)[distinct])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    found = logits[which, targets.flatten()[real]] - logits.logsumexp(-1)[which]
    return found.new_full(targets.shape, float("-inf")).masked_scatter(targets != NOTHING, found)
