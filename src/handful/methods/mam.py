"""The mix-and-match adapter (He et al. 2022, arXiv 2110.04366): a prefix and a scaled parallel adapter together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from handful.methods.base import Method
from handful.methods.bottleneck import Activation, ParallelAdapter
from handful.methods.combine import Union
from handful.methods.prefix import PrefixTuning
from handful.types import Params, Site


@dataclass(frozen=True, kw_only=True)
class MAM(Union):
    """`num_tokens` keys and values in front of every attention, and `FFN(x) + scale A(x)` of inner width `width`.

    Not the identity at the start, since the prefix is not. Parameters: those of a `PrefixTuning` and those of a
    `ParallelAdapter`, whose options have the same names here.
    """

    source: ClassVar[str] = "He et al. 2022, arXiv 2110.04366, section 4.6"

    num_tokens: int = 30
    std: float = 0.02
    width: int = 512
    activation: Activation = "relu"
    scale: float = 4.0
    learned_scale: bool = False
    dropout: float = 0.0
    methods: tuple[Method, ...] = field(init=False)

    def __post_init__(self) -> None:
        adapter = ParallelAdapter(
            width=self.width, activation=self.activation, scale=self.scale, learned_scale=self.learned_scale,
            dropout=self.dropout,
        )  # fmt: skip
        object.__setattr__(self, "methods", (PrefixTuning(num_tokens=self.num_tokens, std=self.std), adapter))
        super().__post_init__()

    def finished(self, params: Params, sites: Sequence[Site]) -> tuple[Method, Params]:
        return self, params
