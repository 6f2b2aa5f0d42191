"""What a method is: a value with its roles and two functions, written for one task as its paper writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from handful.types import Params, Site

Role = str


class Base(Protocol):
    """The frozen layer that a method is put around. Calling it runs the layer as it was.

    weight      `[d_out, d_in]` of a linear layer (a fused or transposed one is shown this way too), else its `weight`
    bias        `[d_out]` or None
    normalized  for norms: the normalised input before scale and shift, so that `base(x) = normalized(x) * w + b`
    mask        `[..., B, S]`, True at real tokens, for methods that mix tokens
    dropout     dropout whose mask depends on the task's own seed, step and site, and on nothing else in the batch
    uniform     numbers in [0, 1) of the task for this step, site and `name`, in the shape in which `apply` sees a
                parameter of `shape`; None where nothing is random (evaluation)
    """

    mask: Tensor

    @property
    def weight(self) -> Tensor: ...
    @property
    def bias(self) -> Tensor | None: ...
    def __call__(self, x: Any) -> Any: ...
    def normalized(self, x: Tensor) -> Tensor: ...
    def dropout(self, x: Tensor, p: float) -> Tensor: ...
    def uniform(self, name: str, *shape: int) -> Tensor | None: ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of every method: a frozen dataclass with `roles`, `init` and `apply`.

    `apply` sees `x` as `[..., N, d_in]` with a matrix parameter `[a, b]` as `[..., a, b]` and a vector `[d]` as
    `[..., 1, d]`, where `...` is empty for one task and `T` for a stack: write products with `@`, `.mT`, `*` and
    `einsum("...", ...)` and both are served by the same lines. Integer tensors are data: they are kept and shown to
    `apply`, but not trained and not counted.

    Few methods need more than `covers`, `init`, `apply` and `shared`: the hooks below them are about training.
    """

    source: ClassVar[str] = ""
    """Authors, year, arXiv number, and the section or equation."""
    first: ClassVar[Literal["train", "fisher"]] = "train"
    """What `finished` is given: trained parameters, or the diagonal Fisher information of the fresh ones."""
    refit: ClassVar[float] = 0.0
    """How long what `finished` answers is trained after that, as a multiple of the steps before."""

    roles: frozenset[Role] = frozenset()
    """Where the method acts."""

    def __str__(self) -> str:
        """The method with the options that are not its defaults."""
        said = [
            f"{f.name}={getattr(self, f.name)}" for f in fields(self) if f.init and getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(said)})"

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh parameters of one task at one site, such that `apply` changes nothing yet."""
        raise NotImplementedError

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        """The tuned layer, around the frozen one."""
        raise NotImplementedError

    @property
    def causal(self) -> bool:
        """Whether no token of a decoder is changed by one that follows it."""
        return True

    def covers(self, site: Site) -> bool:
        """Whether the method acts at `site`; by its role unless a method says otherwise."""
        return site.role in self.roles

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters held once for all sites; `apply` finds them beside the site's own."""
        return {}

    def rate(self, name: str) -> float:
        """The learning rate of the parameter `name` as a multiple of the schedule's; 0 keeps it as it starts."""
        return 1.0

    def decays(self, name: str) -> bool:
        """Whether weight decay, if any, acts on the parameter `name`: not on what rests elsewhere than at zero."""
        return True

    def tied(self, name: str) -> bool:
        """Whether tasks that are trained together hold the parameter `name` in common, and all teach it."""
        return False

    def penalty(self, params: Params) -> Tensor | float:
        """`[T]`, added to the losses of tasks with params `[T, ...]`."""
        return 0.0

    def finished(self, params: Params, sites: Sequence[Site]) -> tuple[Method, Params]:
        """What is kept of one task's params `[...]` after training, and the method that reads it."""
        return self, params
