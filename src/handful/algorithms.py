"""Meta-learning algorithms by name: `fomaml`, `maml++:steps=3`, `meta-adapters:steps=5`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from handful.errors import RequestError
from handful.implicit import IMaml
from handful.inner import Inner
from handful.meta import Algorithm, Maml, Reptile
from handful.options import read_options

HEAD = ("head/*",)
ALGORITHMS: Mapping[str, tuple[Algorithm, str]] = {
    "protonet": (Maml(Inner(steps=0)), "class means, no inner steps (Snell et al. 2017)"),
    "protomaml": (Maml(Inner(steps=3)), "first-order steps from class means (Triantafillou et al. 2020)"),
    "fomaml": (Maml(Inner(steps=3), "zeros"), "first-order MAML (Finn et al. 2017)"),
    "maml": (Maml(Inner(steps=2), "zeros", second_order=True), "gradients through the inner steps (Finn et al. 2017)"),
    "anil": (Maml(Inner(steps=5, names=HEAD), "zeros", second_order=True), "only heads adapt (Raghu et al. 2020)"),
    "reptile": (Reptile(Inner(steps=5)), "towards where adaptation leads (Nichol et al. 2018)"),
    "meta-sgd": (Maml(Inner(steps=1, rates="element"), "zeros", second_order=True), "a rate each (Li et al. 2017)"),
    "maml++": (
        Maml(Inner(steps=3, rates="tensor"), "zeros", second_order=True, second_order_from=0.3, multi_step=True),
        "learned rates of tensors and steps, losses of all steps (Antoniou et al. 2019)",
    ),
    "imaml": (IMaml(), "the implicit gradient of a solved inner problem (Rajeswaran et al. 2019)"),
    "cavia": (
        Maml(Inner(steps=2, names=("*/prompt", *HEAD)), "zeros", ("*", "!*/prompt"), second_order=True),
        "contexts adapt, all else is shared (Zintgraf et al. 2019)",
    ),
    "leopard": (
        Maml(Inner(steps=7, lr=1e-2, rates="layer", clip=1.0), "generated"),
        "generated heads, learned rates of blocks (Bansal et al. 2020)",
    ),
    "meta-adapters": (
        Maml(Inner(steps=7, lr=1e-2, rates="layer", clip=1.0, names=("*", "!*/lower_*", "!*/upper_*")), "generated"),
        "only the adapters between the meta-adapters adapt (Bansal et al. 2022)",
    ),
}
"""Name -> the algorithm and what it is. Steps and rates are starting points, not published values."""


def algorithm(said: str) -> Algorithm:
    """The algorithm called `said`; options follow, as in `fomaml:steps=5:lr=0.05:inner=*/B,head/*`.

    RequestError for what is not known.
    """
    name, *parts = said.split(":")
    asked = f"The meta-learning algorithm {said!r} was asked for."
    if name not in ALGORITHMS:
        raise RequestError(asked, f"Known are {', '.join(ALGORITHMS)}.", "Use one of them.")
    options = read_options(parts, asked, "fomaml:steps=5:lr=0.05")
    value, _ = ALGORITHMS[name]
    own = [f.name for f in fields(value) if f.name != "inner"]  # type: ignore[arg-type]
    loop = {"inner" if f.name == "names" else f.name: f.name for f in fields(Inner)}
    changed: dict[str, Any] = {}
    within: dict[str, Any] = {}
    for key, given in options.items():
        if key in loop:
            within[loop[key]] = tuple(str(given).split(",")) if key == "inner" else given
        elif key in own:
            changed[key] = tuple(str(given).split(",")) if key == "outer" else given
        else:
            raise RequestError(
                asked, f"{name} has no option {key!r}; it has {', '.join([*loop, *own])}.", "Correct it."
            )
    _check(asked, within | changed)
    return replace(value, inner=replace(value.inner, **within), **changed)  # type: ignore[type-var]


_CHOICES = {
    "rates": ("given", "layer", "tensor", "element"), "head": ("learned", "zeros", "prototype", "generated")
}  # fmt: skip


def _check(asked: str, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if key in _CHOICES and value not in _CHOICES[key]:
            raise RequestError(asked, f"{key} is {value!r}.", f"Use one of {', '.join(_CHOICES[key])}.")
        if key in ("steps", "solver_steps") and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise RequestError(asked, f"{key} is {value!r}.", "Give a whole number, 0 or more.")
        if key in ("lr", "clip", "strength") and not (isinstance(value, (int, float)) and value > 0):
            raise RequestError(asked, f"{key} is {value!r}.", "Give a number above 0.")


_KINDS: Mapping[str, type[Maml] | type[Reptile] | type[IMaml]] = {"maml": Maml, "reptile": Reptile, "imaml": IMaml}


def to_spec(value: Algorithm) -> dict[str, Any]:
    """An algorithm as JSON."""
    kind = next(name for name, known in _KINDS.items() if type(value) is known)
    return {"kind": kind, **_lists(asdict(value))}  # type: ignore[call-overload]


def from_spec(spec: Mapping[str, Any]) -> Algorithm:
    """The algorithm that `to_spec` described; KeyError or TypeError for what is none."""
    options = _tuples(dict(spec))
    kind = _KINDS[options.pop("kind")]
    return kind(**options | {"inner": Inner(**options["inner"])})


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
