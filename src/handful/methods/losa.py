"""LoSA (Mercea et al. 2024, arXiv 2402.02887): low-rank mixing of channels and tokens beside the frozen backbone."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.errors import MethodError
from handful.methods.base import Base, Method
from handful.side import Layers, chosen
from handful.types import Site


@dataclass(frozen=True, kw_only=True)
class LoSA(Method):
    """LoSA: a side network of low-rank mixers that refine the backbone's states, over channels and over tokens.

    `y_0 = z_0`, `y_i = y_{i-1} + g_i(y_{i-1} + z_i)` for each block `i` in `layers`, whose output is `z_i`, with
    `c = GELU(x A_c) B_c`, `x' = x + c`, `t = (GELU(x'^T A_t) B_t)^T` and `g(x) = c + t`; `A_t`, `B_t^T` are
    `[num_tokens, r]`. `B_c` and `B_t` are zero at the start. The answer is `h_L + y_L - z_0`, so that the start is the
    backbone (the residual wiring and `h_L` are our choices: the paper's text does not fix them).

    Token mixing gives each position its own weights: token j of a row is its j-th real token, padding takes no part,
    and rows of more than `num_tokens` tokens are refused. It looks ahead in decoders too. Parameters of `n` blocks:
    `n (2 d r + 2 num_tokens r)`.
    """

    source: ClassVar[str] = "Mercea, Gritsenko, Schmid & Arnab 2024, arXiv 2402.02887, section 3"

    rank: int = 8
    num_tokens: int = 197
    layers: Layers = None
    roles: frozenset[str] = frozenset({"hidden_states"})

    @property
    def causal(self) -> bool:
        return False

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        n, d, r, tokens = len(chosen(self.layers, site)), site.d_in, self.rank, self.num_tokens
        if not 1 <= r <= d:
            raise ValueError(f"rank={r}, where 1 to {d} fits")
        if tokens < 1:
            raise ValueError(f"num_tokens={tokens}, where 1 and more fit")
        return {
            "A_c": torch.empty(n, d, r).normal_(0, 1 / math.sqrt(d), generator=generator),
            "B_c": torch.zeros(n, r, d),
            "A_t": torch.empty(n, tokens, r).normal_(0, 1 / math.sqrt(tokens), generator=generator),
            "B_t": torch.zeros(n, r, tokens),
        }

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        # x: the embeddings' and each block's states, L + 1 tensors [..., B, S, D]
        rows, tokens = x[0].shape[-3:-1]
        place = self._places(base.mask, tokens)

        def mixer(name: str, i: int) -> Tensor:
            """`[..., B, S, r]`: the weights of each row's tokens, zero at padding."""
            per_token = params[name][..., i, :, :] if name == "A_t" else params[name][..., i, :, :].mT
            found = per_token[..., None, :, :].take_along_dim(place[..., None], -2)
            return found.masked_fill(~base.mask[..., None], 0)

        own = torch.zeros_like(x[0]).flatten(-3, -2)  # y_i - z_0
        for i, block in enumerate(chosen(self.layers, site)):
            h = own + (x[0] + x[block + 1]).flatten(-3, -2)
            c = F.gelu(h @ params["A_c"][..., i, :, :]) @ params["B_c"][..., i, :, :]
            mixed = F.gelu(mixer("A_t", i).mT @ (h + c).unflatten(-2, (rows, tokens)))  # [..., B, r, D]
            own = own + c + (mixer("B_t", i) @ mixed).flatten(-3, -2)
        return base(x) + own.unflatten(-2, (rows, tokens))

    def _places(self, mask: Tensor, tokens: int) -> Tensor:
        """How many real tokens stand before each one, `[..., B, S]`. MethodError for a row of too many."""
        if tokens > self.num_tokens and (longest := int(mask.sum(-1).max())) > self.num_tokens:
            raise MethodError(
                f"LoSA was asked for rows of up to {longest} tokens.",
                f"It mixes tokens with weights for num_tokens={self.num_tokens} positions.",
                f"Give num_tokens={longest} or more before training, or shorter inputs.",
            )
        return (mask.long().cumsum(-1) - 1).clamp(0, self.num_tokens - 1)
