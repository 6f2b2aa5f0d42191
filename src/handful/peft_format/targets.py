"""Which layers a PEFT folder is for: modules by PEFT's rules, as handful's places, and the method that covers them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import Any

from torch import nn

from handful.backbone import Backbone
from handful.methods import Method, OnLayers, method, union
from handful.peft_format.base import Config, damaged, refused
from handful.sites import Place, all_places, is_transposed
from handful.types import Site


def stem_of(modules: Iterable[str], backbone: Backbone) -> str:
    """What the folder's model has before the backbone's own names: "bert." of a BERT with a head on top."""
    names = {name for name, _ in backbone.model.named_modules()}
    stems = ("", f"{backbone.model.base_model_prefix}.")
    modules = sorted(modules)
    for stem in stems:
        if all(module.startswith(stem) and module.removeprefix(stem) in names for module in modules):
            return stem
    lost = next(m for m in modules if not any(m.startswith(s) and m.removeprefix(s) in names for s in stems))
    raise damaged(
        f"It changes {lost}, and the backbone {backbone.id!r} has no such module.",
        "Load the backbone that it was trained on.",
    )


def check_targets(config: Config, modules: Collection[str], stem: str, backbone: Backbone) -> None:
    """ArtifactError unless the tensors are for the very modules that the configuration names."""
    norms = config["peft_type"] == "LN_TUNING"
    every = {
        stem + name
        for name, module in backbone.model.named_modules()
        if _is_norm(module) == norms and (norms or isinstance(module, nn.Linear) or is_transposed(module))
    }
    named = {name for name in every | set(modules) if _targeted(config, name, name in every)}
    for found, what in ((named - set(modules), "has no tensors for"), (set(modules) - named, "does not name")):
        if found:
            raise damaged(f"It {what} {min(found)}, by its configuration and its tensors ({len(found)} such modules).")


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.ndim == 1


def _targeted(config: Config, name: str, linear: bool) -> bool:
    """PEFT's rule (`check_target_module_exists`)."""
    out, kept, wanted = (config.get(key) or () for key in ("exclude_modules", "modules_to_save", "target_modules"))
    if re.fullmatch(out, name) if isinstance(out, str) else _ends(name, out):
        return False
    if any(re.match(rf"(^|.*\.){module}($|\..*)", name) for module in kept):
        return False
    if isinstance(wanted, str):
        return linear if wanted.lower() == "all-linear" else re.fullmatch(wanted, name) is not None
    if name in wanted or not _ends(name, wanted):
        return name in wanted
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    rules = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(\d+)\."]
    found = (re.match(rule, name) for rule in rules)
    index = next((int(match[1]) for match in found if match), None)
    return index in ([layers] if isinstance(layers, int) else layers)


def _ends(name: str, ends: Iterable[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def places_of(modules: Iterable[str], backbone: Backbone) -> dict[str, list[Place]]:
    """module -> its place, or the places of its parts in order. MethodError for one that has none, or another use."""
    found: dict[str, list[Place]] = {}
    for place in all_places(backbone):
        name, _, part = place.site.name.partition("#")
        if place.kind == "slice" or (place.kind == "layer" and not part):
            found.setdefault(name, []).append(place)
    for module in modules:
        places = found.get(module, [])
        if not places or len(places) != (places[0].part.parts if places[0].part else 1):
            raise refused(f"It changes {module}, which has no role in the family {backbone.family.name!r}.")
        if places[0].entry is not None:
            raise refused(f"It changes {module}, which the backbone also applies to relative positions; handful not.")
        found[module] = sorted(places, key=lambda place: place.part.index if place.part else 0)
    return found


def compose(name: str, chosen: Mapping[str, Config], backbone: Backbone) -> Method:
    """The method `name` at the sites `chosen`, with the options of each. MethodError where roles and blocks cannot say.

    The default roles where they are the same; else a method for each set of options, on a range of blocks where it is
    not on all, and several as a union.
    """
    every = [p.site for p in all_places(backbone) if p.kind in ("layer", "slice")]
    parts: list[Method] = []
    distinct = _distinct(chosen.values())
    plain = method(name, **distinct[0])
    if len(distinct) == 1 and {site.name for site in every if plain.covers(site)} == set(chosen):
        return plain
    for options in distinct:
        sites = [site for site in every if chosen.get(site.name) == options]
        by_layers: dict[frozenset[int] | None, set[str]] = {}
        for role in sorted({site.role for site in sites}):
            own = [site for site in sites if site.role == role]
            whole = len(own) == sum(site.role == role for site in every)
            by_layers.setdefault(None if whole else frozenset(site.layer for site in own), set()).add(role)
        for layers, roles in by_layers.items():
            part = method(name, roles=frozenset(roles), **options)
            parts += [part] if layers is None else [OnLayers(method=part, start=a, stop=b) for a, b in _runs(layers)]
    result = parts[0] if len(parts) == 1 else union(*parts)
    _check_covered(result, chosen, every)
    return result


def _check_covered(result: Method, chosen: Collection[str], every: Iterable[Site]) -> None:
    for site in every:
        if result.covers(site) != (site.name in chosen):
            what = "leaves out" if site.name not in chosen else "changes"
            raise refused(
                f"It {what} {site.name} ({site.role}), and not what has the same role in another stack: handful's "
                "methods choose by role and block.",
            )


def _distinct(options: Iterable[Config]) -> list[Config]:
    found: list[Config] = []
    for each in options:
        if each not in found:
            found.append(each)
    return found


def _runs(layers: Collection[int]) -> list[tuple[int, int]]:
    """Ranges `(start, stop)` of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for _, group in groupby(enumerate(sorted(layers)), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in group]
        runs.append((numbers[0], numbers[-1] + 1))
    return runs


def piece_of(whole: Method, site: Site) -> str:
    """What a union puts before the names of the parameters at a site."""
    parts: tuple[Any, ...] = getattr(whole, "methods", ())
    return next((f"{i}." for i, part in enumerate(parts) if part.covers(site)), "")
