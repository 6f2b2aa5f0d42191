"""The shelf of methods: one small file each. Plug-ins use the entry point group `handful.methods`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from handful.errors import MethodError
from handful.methods.base import Method

_BUILT_IN = {
    "lora": "lora.LoRA",
    "ia3": "ia3.IA3",
    "houlsby": "bottleneck.Houlsby",
    "pfeiffer": "bottleneck.Pfeiffer",
    "parallel": "bottleneck.ParallelAdapter",
    "kronecker": "kronecker.KroneckerAdapter",
    "bitfit": "bitfit.BitFit",
    "layernorm": "layernorm.LayerNormTuning",
    "prompt": "prompt.PromptTuning",
    "prefix": "prefix.PrefixTuning",
    "ladder": "ladder.LadderSide",
}


@cache
def methods() -> dict[str, Callable[..., Method]]:
    """Name -> the method's class, the built-in shelf first, then plug-ins."""
    found: dict[str, Callable[..., Method]] = {}
    for name, target in _BUILT_IN.items():
        module, attribute = target.split(".")
        found[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found | {point.name: point.load() for point in entry_points(group="handful.methods")}


def method(name: str, **options: object) -> Method:
    """The method called `name` with its options; MethodError names the known ones."""
    known = methods()
    if name not in known:
        raise MethodError(
            f"The method {name!r} was asked for.",
            f"Known are {', '.join(known)}.",
            "Use one of them, or install the package that brings it (entry point group handful.methods).",
        )
    try:
        return known[name](**options)
    except TypeError as error:
        raise MethodError(f"The method {name!r} was asked for with {options}.", f"It says: {error}.") from error


__all__ = ["Method", "method", "methods"]
