"""Recipes: one readable function each, from tasks to fitted tasks. Plug-ins: entry point group `handful.recipes`.

A recipe is called as `recipe(tasks, backbone, seed=..., store=..., checkpoint=..., progress=...)` with tasks of one
kind and returns an `Artifact` for each. The name of a method is a recipe too: `tune` with that method.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from handful.errors import RequestError
from handful.methods import method, methods

_BUILT_IN = ("default", "probe", "prototypes", "tune")


@cache
def recipes() -> dict[str, Callable[..., Any]]:
    """Name -> recipe, the built-in ones first, then plug-ins."""
    built_in = {name: getattr(import_module(f"{__name__}.{name}"), name) for name in _BUILT_IN}
    return built_in | {point.name: point.load() for point in entry_points(group="handful.recipes")}


def recipe(name: str) -> Callable[..., Any]:
    """The recipe called `name`, or `tune` with the method of that name. RequestError names the known ones."""
    name = name.removeprefix("tune:")  # as artifacts call it
    if name in recipes():
        return recipes()[name]
    if name in methods():
        return partial(recipes()["tune"], method=method(name))
    raise RequestError(
        f"The recipe {name!r} was asked for.",
        f"Known are {', '.join(recipes())}, and the methods {', '.join(methods())}.",
        "Use one of them.",
    )
