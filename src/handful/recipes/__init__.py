"""Recipes: one readable function each, from tasks to fitted tasks. Plug-ins: entry point group `handful.recipes`.

A recipe is called as `recipe(tasks, backbone, seed=..., store=..., checkpoint=..., progress=...)` with tasks of one
kind and one seed for all or one for each, and returns an `Artifact` for each. The name of a method is a recipe too:
`tune` with that method. A recipe that is no parameter-efficient one, a peer to compare with, may return other objects
with `scores(examples) -> Scores`, `estimate` and `cost` in place of artifacts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

from handful.errors import RequestError
from handful.methods import home as method_home
from handful.methods import method, methods
from handful.options import read_options

CALLED_WITH = frozenset({"seed", "store", "checkpoint", "progress"})
"""What every recipe is called with; not options of it."""
_BUILT_IN = ("default", "probe", "prototypes", "tune", "adapt", "tfew", "icl")


@cache
def recipes() -> dict[str, Callable[..., Any]]:
    """Name -> recipe, the built-in ones first, then plug-ins."""
    built_in = {name: getattr(import_module(f"{__name__}.{name}"), name) for name in _BUILT_IN}
    return built_in | {point.name: point.load() for point in entry_points(group="handful.recipes")}


def recipe(said: str, **more: Any) -> Callable[..., Any]:
    """The recipe called `said`, or `tune` with the method of that name; options follow, as in "lora:rank=4:steps=100".

    Options go to the method where it has them, to the recipe otherwise; `more` are options that are not written out.
    RequestError for what is not known.
    """
    name, options = parse(said)
    options |= more
    if name in recipes():
        run = recipes()[name]
    elif name in methods():
        kind = methods()[name]
        own = {key: options.pop(key) for key in list(options) if key in signature(kind).parameters}
        run = partial(recipes()["tune"], method=method(name, **own))
    else:
        raise RequestError(
            f"The recipe {name!r} was asked for.",
            f"Known are {', '.join(recipes())}, and the methods {', '.join(methods())}.",
            "Use one of them.",
        )
    known = signature(run, eval_str=False).parameters
    takes = {key for key, p in known.items() if p.kind is p.KEYWORD_ONLY} - CALLED_WITH
    if unknown := [key for key in options if key not in takes]:
        raise RequestError(
            f"The recipe {said!r} was asked for.",
            f"{name} has no option {unknown[0]!r}; it has {', '.join(sorted(takes)) or 'none'}.",
            "Correct the option, or leave it out.",
        )
    return partial(run, **options) if options else run


def parse(said: str) -> tuple[str, dict[str, Any]]:
    """`"lora:rank=4:lr=1e-3"` -> `("lora", {"rank": 4, "lr": 0.001})`; a value is read as JSON where it can be."""
    name, *parts = said.removeprefix("tune:").split(":")  # as artifacts call it
    return name, read_options(parts, f"The recipe {said!r} was asked for.", "lora:rank=4:steps=100")


def written(name: str, options: Mapping[str, Any]) -> str:
    """The one way to write a recipe with its options; `parse` reads it back."""
    return ":".join([name, *(f"{key}={json.dumps(value)}" for key, value in sorted(options.items()))])


def home(said: str) -> list[str]:
    """The modules that a recipe's code starts in, found without importing them. RequestError for an unknown one."""
    name, _ = parse(said)
    if name in _BUILT_IN:
        return [f"{__name__}.{name}"]
    if point := next(iter(entry_points(group="handful.recipes", name=name)), None):
        return [point.module]
    return [f"{__name__}.tune", method_home(name)]
