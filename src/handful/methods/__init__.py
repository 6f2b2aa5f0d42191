"""The shelf of methods: one small file each. Plug-ins use the entry point group `handful.methods`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from handful.errors import MethodError
from handful.methods.base import Method
from handful.methods.combine import Union, union
from handful.methods.variants import OnLayers, OverTasks

_BUILT_IN = {
    "lora": "lora.LoRA",
    "dora": "dora.DoRA",
    "vera": "vera.VeRA",
    "ia3": "ia3.IA3",
    "ssf": "ssf.SSF",
    "houlsby": "bottleneck.Houlsby",
    "pfeiffer": "bottleneck.Pfeiffer",
    "parallel": "bottleneck.ParallelAdapter",
    "compacter": "kronecker.Compacter",
    "compacter++": "kronecker.CompacterPlusPlus",
    "phm": "kronecker.PHMAdapter",
    "lowrank": "lowrank_adapter.LowRankAdapter",
    "bitfit": "bitfit.BitFit",
    "layernorm": "layernorm.LayerNormTuning",
    "prompt": "prompt.PromptTuning",
    "prompt_mlp": "prompt.PromptMLP",
    "prefix": "prefix.PrefixTuning",
    "prefix_mlp": "prefix.PrefixMLP",
    "mam": "mam.MAM",
    "hyperformer": "hyperformer.HyperFormer",
    "hyperformer++": "hyperformer.HyperFormerPP",
    "meta_adapter": "meta_adapter.MetaAdapter",
    "ladder": "ladder.LadderSide",
    "last": "last.LAST",
    "losa": "losa.LoSA",
    "apt": "apt.APT",
    "full": "full.DenseDelta",
    "sparse": "sparse.SparseDelta",
    "magnitude_pruning": "sparse.MagnitudePruning",
    "diff_pruning": "diff_pruning.DiffPruning",
    "fish": "fish.FishMask",
    "said": "said.IntrinsicSAID",
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
        raise _unknown(name, known)
    try:
        return known[name](**options)
    except TypeError as error:
        raise MethodError(f"The method {name!r} was asked for with {options}.", f"It says: {error}.") from error


def home(name: str) -> str:
    """The module of the method called `name`, found without importing it. MethodError names the known ones."""
    if name in _BUILT_IN:
        return f"{__name__}.{_BUILT_IN[name].split('.')[0]}"
    points = entry_points(group="handful.methods")
    if name in points.names:
        return points[name].module
    raise _unknown(name, [*_BUILT_IN, *points.names])


def to_spec(value: Method) -> dict[str, Any]:
    """A method as JSON: its name and options; combined ones nest. MethodError for one that is not registered."""
    names = {id(known): name for name, known in (methods() | _COMBINED).items()}
    name = names.get(id(type(value)))
    if name is None:
        raise MethodError(
            f"{type(value).__name__} was to be written to disk.",
            "It is not registered, so nobody could read it back.",
            f"Register MODULE:{type(value).__name__} in its package's entry point group handful.methods.",
        )
    return {"name": name, "options": {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.init}}


def from_spec(spec: dict[str, Any]) -> Method:
    """The method that `to_spec` described."""
    options = {key: _rich(value) for key, value in spec["options"].items()}
    if spec["name"] in _COMBINED:
        return _COMBINED[spec["name"]](**options)
    return method(spec["name"], **options)


def _unknown(name: str, known: Iterable[str]) -> MethodError:
    return MethodError(
        f"The method {name!r} was asked for.",
        f"Known are {', '.join(known)}.",
        "Use one of them, or install the package that brings it (entry point group handful.methods).",
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Method):
        return to_spec(value)
    if isinstance(value, frozenset):
        return {"set": sorted(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        return frozenset(value["set"]) if "set" in value else from_spec(value)
    return tuple(_rich(item) for item in value) if isinstance(value, list) else value


_COMBINED: dict[str, Callable[..., Method]] = {"union": Union, "on_layers": OnLayers, "over_tasks": OverTasks}

__all__ = ["Method", "OnLayers", "OverTasks", "Union", "from_spec", "method", "methods", "to_spec", "union"]
