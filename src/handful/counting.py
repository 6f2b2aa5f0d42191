"""How many parameters a method trains on a backbone: from shapes alone, nothing is downloaded or allocated.

`counts.toml` beside this file has the published counts that ours are checked with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from handful.attach import Adapted, attach
from handful.backbone import Backbone
from handful.errors import HandfulError, MethodError
from handful.methods import Method, OnLayers, OverTasks, Union, methods, union
from handful.methods import method as method_called
from handful.methods.fish import FishMask
from handful.methods.full import size_of
from handful.methods.sparse import SparseDelta, kept
from handful.methods.variants import Inner
from handful.recipes import parse
from handful.shapes import bare, canonical, known, shape
from handful.sites import all_places
from handful.types import LINEARS, NORMS, Params

DEFAULT = "minilm"
SETS = {"linears": LINEARS, "norms": NORMS}
"""Names that `roles=` may give in place of a list."""
_JOIN = re.compile(r"\+(?=[A-Za-z])")


@dataclass(frozen=True)
class Count:
    """`trainable` parameters of a task without a head, and `total`, those of the frozen backbone.

    kept  what is left of the trained ones afterwards, where that is another number: of a pruned or generated method
    """

    trainable: int
    total: int
    kept: int | None = None

    @property
    def share(self) -> float:
        return self.trainable / self.total

    def to_dict(self) -> dict[str, float]:
        found = {"trainable": self.trainable, "total": self.total, "share": self.share}
        return found if self.kept is None else {**found, "kept": self.kept}


def count(backbone: Backbone, method: Method, *, tasks: int = 1) -> Count:
    """What `tasks` tasks train together: what they hold in common once, the rest for each.

    Parameters are drawn on torch's meta device, where they have a shape and no memory. Raises MethodError where the
    method does not fit the backbone.
    """
    frozen = bare(backbone)
    whole = attach(frozen, method)
    parts = [attach(frozen, part) for part in method.methods] if isinstance(method, Union) else [whole]
    each = [_count_one(part, tasks) for part in parts]
    trained, left = (sum(numbers) for numbers in zip(*each, strict=True))
    return Count(trained, backbone.num_parameters, left if left != trained else None)


def _count_one(adapted: Adapted, tasks: int) -> tuple[int, int]:
    """What is trained, and what is left of it."""
    core = method = adapted.method
    while isinstance(core, Inner):
        core = core.method
    if (fraction := getattr(core, "fraction", None)) is not None:  # which weights are kept depends on their values
        with _aloud(adapted):
            left = tasks * kept(fraction, sum(map(size_of, adapted.sites)))
        if isinstance(core, SparseDelta | FishMask):
            return left, left
        return _numel(method, _fresh(adapted), tasks), left
    params = _fresh(adapted)
    with _aloud(adapted):
        after, remains = method.finished(params, adapted.sites)
    trained = _numel(method, params, tasks)
    return trained, trained if after == method else _numel(after, remains, tasks)


def _numel(method: Method, params: Params, tasks: int) -> int:
    return sum(
        p.numel() * (1 if method.tied(name) else tasks)
        for own in params.values()
        for name, p in own.items()
        if p.is_floating_point() and method.rate(name)
    )


def _fresh(adapted: Adapted) -> Params:
    with _aloud(adapted):
        return adapted.init(0)


@contextmanager
def _aloud(adapted: Adapted) -> Iterator[None]:
    """Tensors made within take no memory; what goes wrong with a method's options is a MethodError."""
    import torch

    try:
        with torch.device("meta"):
            yield
    except (TypeError, ValueError, AttributeError) as error:
        raise MethodError(
            f"{adapted.method} was asked for on {adapted.backbone.id}.", f"It says: {error}.",
            "Change the method's options to fit.",
        ) from error  # fmt: skip


@cache
def count_said(backbone: str, said: str, *, tasks: int = 1) -> Count:
    """`count` of what `shape` and `method_said` make of two names. MethodError for a role or `tied` name not there."""
    frozen, method = shape(backbone), method_said(said)
    _check_names(frozen, said)
    return count(frozen, method, tasks=tasks)


# -- methods -----------------------------------------------------------------------------------------------------------


def method_said(said: str) -> Method:
    """A method and its options as in "lora:rank=4:alpha=1"; several are joined by a plus: "lora:rank=4+layernorm".

    Three options suit every method. `roles`: where it acts, with commas, or one of `SETS`. `start` and `stop`: only
    blocks from `start` up to before `stop`, negative ones counted from the top. `tied`: parameters that tasks hold in
    common, with commas. Raises MethodError for what is not known.
    """
    parts = [_one(part) for part in _JOIN.split(said)]
    return parts[0] if len(parts) == 1 else union(*parts)


def _one(said: str) -> Method:
    name, options = _parsed(said)
    blocks = {key: options.pop(key) for key in ("start", "stop") if key in options}
    tied = _names(options.pop("tied")) if "tied" in options else None
    if "roles" in options:
        options["roles"] = frozenset[str]().union(*(SETS.get(role, {role}) for role in _names(options["roles"])))
    if name in methods():
        _check_options(said, name, options)
    made = method_called(name, **options)
    made = made if tied is None else OverTasks(method=made, names=tied)
    if any(not isinstance(block, int) for block in blocks.values()):
        raise MethodError(f"The method {said!r} was asked for.", "start and stop are whole numbers.", "Correct them.")
    return OnLayers(method=made, **blocks) if blocks else made


def _parsed(said: str) -> tuple[str, dict[str, Any]]:
    try:
        return parse(said)
    except HandfulError as error:
        raise MethodError(f"The method {said!r} was asked for.", error.found, error.todo) from error


def _names(said: object) -> frozenset[str]:
    """`"a,b"` or `["a", "b"]`."""
    return frozenset(said.split(",") if isinstance(said, str) else said)  # type: ignore[arg-type]


def _check_options(said: str, name: str, options: Mapping[str, object]) -> None:
    """MethodError for an option that the method does not have, or that is of another kind than its default."""
    kind: Any = methods()[name]
    known, hints = {f.name: f.default for f in fields(kind) if f.init}, get_type_hints(kind)
    for key, value in options.items():
        if key not in known:
            found = f"{name} has no option {key!r}; it has {', '.join(sorted({*known, 'start', 'stop', 'tied'}))}."
        elif type(known[key]) in (int, float) and type(value) not in (int, type(known[key])):
            found = f"{key} is a {'whole ' if type(known[key]) is int else ''}number, and {value!r} is none."
        elif isinstance(known[key], bool) and not isinstance(value, bool):
            found = f"{key} is true or false, and {value!r} is neither."
        elif get_origin(hints[key]) is Literal and value not in get_args(hints[key]):
            found = f"{key} is one of {', '.join(map(str, get_args(hints[key])))}, and {value!r} is none of them."
        else:
            continue
        raise MethodError(f"The method {said!r} was asked for.", found, "Correct the option, or leave it out.")


def _check_names(backbone: Backbone, said: str) -> None:
    """MethodError for a role or a tied parameter that was asked for by name and is not there."""
    for part in _JOIN.split(said):
        options = _parsed(part)[1]
        missing, what, there = _names(options.get("roles", ())) - set(SETS), "place of the role", set[str]()
        if missing:
            there = {place.site.role for place in all_places(backbone)}
            missing -= there
        if not missing and "tied" in options:
            there = {name for own in _fresh(attach(backbone, _one(part))).values() for name in own}
            missing, what = _names(options["tied"]) - there, "parameter"
        if missing:
            raise MethodError(
                f"The method {part!r} was asked for on {backbone.id}, of the family {backbone.family.name!r}.",
                f"There is no {what} {' or '.join(sorted(missing))}; there is {', '.join(sorted(there))}.",
                f"Choose of these{'' if what == 'parameter' else ', or a set: ' + ', '.join(SETS)}.",
            )


# -- published counts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A row of a group of `counts.toml`, which says what its fields mean."""

    what: str
    backbone: str
    spec: str = ""
    once: str = ""
    tasks: int = 1
    extra: int = 0
    extra_is: str = ""
    measure: str = "trained"
    count: int | None = None
    printed: str | list[str] = ""
    of: str = ""
    why: str = ""
    missing: str = ""

    def found(self) -> Count:
        """What is counted here, and what a share of it is taken of."""
        frozen = shape(self.backbone)
        total = frozen.num_parameters
        if self.measure == "backbone":
            return Count(total + self.extra, total)
        if self.measure == "tensors":
            return Count(sum(1 for _ in frozen.model.parameters()) + self.extra, total)
        if self.measure == "fraction":
            fraction = method_said(self.spec).fraction  # type: ignore[attr-defined]
            return Count(kept(fraction, total + self.extra), total + self.extra)
        added = self.extra + (count_said(self.backbone, self.spec, tasks=self.tasks).trainable if self.spec else 0)
        once = count_said(self.backbone, self.once).trainable if self.once else 0
        return Count(added + once, total + (added if self.of == "all" else 0))

    @property
    def figures(self) -> list[str]:
        return [self.printed] if isinstance(self.printed, str) and self.printed else list(self.printed)


def checks() -> dict[str, list[Check]]:
    """Source -> its rows, for all groups."""
    rows: dict[str, list[Check]] = {}
    for group in known()["group"]:
        rows.setdefault(group["source"], []).extend(Check(**row) for row in group["rows"])
    return rows


def published(backbone: str, said: str) -> list[str]:
    """What papers print for a method on a backbone, each with its source."""
    method, asked, found = method_said(said), canonical(backbone), list[str]()
    for source, rows in checks().items():
        for row in rows:
            plain = row.measure == "trained" and row.spec and not row.once and row.tasks == 1 and not row.extra
            if plain and row.figures and canonical(row.backbone) == asked and _same(method, row.spec):
                found.append(f"{', '.join(row.figures)} ({source.partition(';')[0]})")
    return found


def _same(method: Method, said: str) -> bool:
    try:
        return method_said(said) == method
    except MethodError:  # a row of a method that is not installed
        return False
