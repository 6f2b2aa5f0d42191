"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): learned vectors in front of the input embeddings."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handful.methods.base import Base, Method
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Method):
    """`[P; E(x)]` with `P [num_tokens, D]`, put in after the word look-up and before positions are added.

    Starts from the embeddings of random vocabulary entries, so it is not the identity. Parameters: `num_tokens * D`.
    The virtual positions are dropped from the output.
    """

    num_tokens: int = 20
    roles: frozenset[str] = frozenset({"embeddings"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        embedding: nn.Embedding = site.extra["embedding"]
        rows = torch.randint(0, embedding.num_embeddings, (self.num_tokens,), generator=generator)
        return {"prompt": embedding(rows.to(embedding.weight.device)).detach().float().clone()}

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        embedded = base(x)  # [..., B, S, D]
        prompt = params["prompt"].unsqueeze(-3)
        return torch.cat([prompt.expand(*embedded.shape[:-2], -1, -1).to(embedded), embedded], dim=-2)
