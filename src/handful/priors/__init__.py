"""The priors that ship with the package: a folder each, as `handful meta-train --out` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful.errors import ArtifactError
from handful.folders import MANIFEST

if TYPE_CHECKING:
    from handful.prior import Prior


def shipped(fingerprint: str) -> Prior | None:
    """The prior for a backbone of these weights, if there is one."""
    return next((_read(folder) for folder, said in _known().items() if said["fingerprint"] == fingerprint), None)


def named(digest: str) -> Prior:
    """The shipped prior of this `Prior.digest`. ArtifactError where this handful ships another."""
    found = [_read(folder) for folder in _known()]
    for prior in found:
        if prior.digest == digest:
            return prior
    there = ", ".join(f"{prior.name} ({prior.digest[:12]})" for prior in found)
    raise ArtifactError(
        f"A task that was fitted with the shipped prior {digest[:12]} was to be used.",
        f"This handful ships {there or 'no prior'}.", "Install the handful that fitted it, or fit the task again.",
    )  # fmt: skip


def is_shipped(prior: Prior) -> bool:
    """Whether a fitted task may name a prior in place of holding it."""
    own = shipped(prior.fingerprint)
    return own is not None and own.digest == prior.digest


def manifests() -> list[Path]:
    """The files that say, by their checksums, what is shipped."""
    return sorted(Path(__file__).parent.glob(f"*/{MANIFEST}"))


@cache
def _known() -> Mapping[Path, Mapping[str, Any]]:
    return {file.parent: json.loads(file.read_text(encoding="utf-8")) for file in manifests()}


@cache
def _read(folder: Path) -> Prior:
    from handful.prior import load_prior

    return load_prior(folder)
