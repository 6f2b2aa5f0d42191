"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): learned vectors in front of the input embeddings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from handful.methods.base import Base, Method
from handful.types import Params, Site


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Method):
    """`[P; E(x)]` with `P [num_tokens, D]`, put in after the word look-up and before positions are added.

    Starts from the embeddings of random vocabulary entries, so it is not the identity. Parameters: `num_tokens * D`.
    The virtual positions are dropped from the output.
    """

    source: ClassVar[str] = "Lester et al. 2021, arXiv 2104.08691, section 2"

    num_tokens: int = 20
    roles: frozenset[str] = frozenset({"embeddings"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        _some(num_tokens=self.num_tokens)
        embedding: nn.Embedding = site.extra["embedding"]
        rows = torch.randint(0, embedding.num_embeddings, (self.num_tokens,), generator=generator)
        return {"prompt": embedding(rows.to(embedding.weight.device)).detach().float().clone()}

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return _in_front(params["prompt"], base(x))


@dataclass(frozen=True, kw_only=True)
class PromptMLP(Method):
    """Prompt tuning that learns through `P = W_2 tanh(W_1 V + b_1) + b_2` and keeps `P` only.

    `V [num_tokens, D]` starts at N(0, 1), `W_1 [width, D]` and `W_2 [D, width]` as torch's linear layers.
    Parameters: `num_tokens * D + (2 D + 1) * width + D`; kept are `num_tokens * D`, those of a `PromptTuning`.
    """

    source: ClassVar[str] = "Sung et al. 2022, arXiv 2112.06825, section 3 and the released code"

    num_tokens: int = 20
    width: int = 800
    roles: frozenset[str] = frozenset({"embeddings"})

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        _some(num_tokens=self.num_tokens, width=self.width)

        def uniform(fan_in: int, *shape: int) -> Tensor:
            return torch.empty(*shape).uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)

        d, m = site.d_out, self.width
        return {
            "V": torch.empty(self.num_tokens, d).normal_(generator=generator),
            "W1": uniform(d, m, d),
            "b1": uniform(d, m),
            "W2": uniform(m, d, m),
            "b2": uniform(m, d),
        }

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        return _in_front(self._prompt(params), base(x))

    def finished(self, params: Params, sites: Sequence[Site]) -> tuple[Method, Params]:
        kept = {site.name: {"prompt": self._prompt(params[site.name])} for site in sites}
        return PromptTuning(num_tokens=self.num_tokens, roles=self.roles), kept

    def _prompt(self, params: dict[str, Tensor]) -> Tensor:
        return torch.tanh(params["V"] @ params["W1"].mT + params["b1"]) @ params["W2"].mT + params["b2"]


def _in_front(prompt: Tensor, embedded: Tensor) -> Tensor:
    """`[..., q, D]` in front of every row of `[..., B, S, D]`."""
    prompt = prompt.unsqueeze(-3)
    return torch.cat([prompt.expand(*embedded.shape[:-2], -1, -1).to(embedded), embedded], dim=-2)


def _some(**options: int) -> None:
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")
