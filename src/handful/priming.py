"""Priming: meta-learning a backbone so that tuning a few parameters on it later does more.

The inner loop tunes a method's parameters and the head alone, as the later fit will; the outer loop learns from the
query loss all of the backbone that `methods.full` covers, and where the method and the head start. Source: Gheini et
al. 2023 (arXiv 2205.12453). No code of the authors is published: what their paper leaves open are options here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from handful.attach import attach
from handful.backbone import Backbone
from handful.merge import merge
from handful.meta import Algorithm, of_method
from handful.metatasks import Source
from handful.metatrain import Course, MetaTrained, learn
from handful.methods import Method, union
from handful.methods.full import DenseDelta
from handful.primed import Primed
from handful.prior import Prior
from handful.progress import Progress, silent
from handful.types import Episode, Params

LATER = ("*/[1-9]*", "head/*")
"""What is tuned later: the parts of the union after the backbone's own, and the head."""
SLOWER = 0.02
"""The outer rate of the backbone's weights, as a multiple of the others'."""


@dataclass(frozen=True)
class Priming:
    """What priming has found: the changed backbone, and where the method and its head start on it."""

    primed: Primed
    start: Params
    found: MetaTrained

    def prior(self, name: str, backbone: str, method: Method, course: Course, **rest: Any) -> Prior:
        """The start as a prior for the primed backbone, which is called `backbone`."""
        adapted = attach(self.found.adapted.backbone, method)
        return Prior(
            name=name, backbone=backbone, fingerprint=self.primed.fingerprint, method=method,
            algorithm=self.found.algorithm, learned=self.start, course=course.to_dict(), step=self.found.step,
            sites=adapted.site_table(),
            curve=[asdict(look) for look in self.found.curve], **rest,
        )  # fmt: skip


def prime(
    source: Source,
    backbone: Backbone,
    method: Method,
    algorithm: Algorithm,
    course: Course,
    *,
    validation: Sequence[Episode] = (),
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Priming:
    """Primes `backbone` for `method` over episodes of `source`.

    Where `algorithm` adapts everything (`inner.names` is `("*",)`) it is narrowed to what is tuned later; give
    `("*", "*")` for ordinary MAML of all weights, and no inner steps for multi-task training: the arms to compare with.
    """
    names = LATER if algorithm.inner.names == ("*",) else algorithm.inner.names
    narrowed = replace(algorithm, inner=replace(algorithm.inner, names=names))  # type: ignore[type-var]
    slower = replace(course, scales=(*course.scales, ("*/0.*", SLOWER)))
    found = learn(
        source, backbone, union(DenseDelta(), method), narrowed, slower,
        validation=validation, seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    own = of_method(found.learned)
    delta = {site: part for site, params in own.items() if (part := _part(params, "0."))}
    weights = merge(attach(backbone, DenseDelta()), delta)
    before = dict(backbone.model.named_parameters())
    change = {name: (value - before[name].to(value)).cpu() for name, value in weights.items()}
    told = {"outer steps": found.step, "tasks of each": course.tasks, "seed": seed, "algorithm": repr(narrowed)}
    start = {site: part for site, params in own.items() if (part := _rest(params))}
    kept = {site: params for site, params in found.learned.items() if site == "head"}
    return Priming(Primed(backbone.id, backbone.fingerprint, change, told), start | kept, found)


def _part(params: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): p for name, p in params.items() if name.startswith(prefix)}


def _rest(params: dict[str, Any]) -> dict[str, Any]:
    """The method's own parameters; those of a single one without the number that the union gave it."""
    rest = {name: p for name, p in params.items() if not name.startswith("0.")}
    several = any(not name.startswith("1.") for name in rest)
    if not several:
        return _part(rest, "1.")
    return {f"{int(number) - 1}.{name}": p for key, p in rest.items() for number, _, name in [key.partition(".")]}
