"""A primed backbone on disk: the difference that priming made to the weights of another one.

handful.json         which backbone, how it was primed, checksums
delta.safetensors    what is added to its weights, by their names
README.md            the model card
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

WHAT = "primed backbone"
KIND = "primed"


@dataclass(frozen=True)
class Primed:
    """What is added to the weights of `base`, whose weights have the fingerprint `before`; `told` is its history."""

    base: str
    before: str
    delta: Mapping[str, Tensor]
    told: Mapping[str, Any] = field(default_factory=dict)

    def into(self, model: PreTrainedModel, fingerprint: str) -> str:
        """Adds the difference to a model in place, and returns the new fingerprint. BackboneError for other weights."""
        import torch

        known = dict(model.float().named_parameters())
        unknown = [name for name in self.delta if name not in known]
        if fingerprint != self.before or unknown:
            found = f"are {fingerprint[:12]}" if fingerprint != self.before else f"have no {unknown[0]}"
            raise BackboneError(
                f"A {WHAT} was asked for.",
                f"It changes {self.base!r} (weights {self.before[:12]}), and the weights of that name {found}.",
                "Get the backbone that it was made of, or prime again.",
            )
        with torch.no_grad():
            for name, change in self.delta.items():
                known[name].add_(change.to(known[name]))
        return self.fingerprint

    @property
    def fingerprint(self) -> str:
        """Of the weights with the difference."""
        from handful.fingerprints import weights_fingerprint

        return hashlib.sha256(f"{self.before}+{weights_fingerprint(self.delta.items())}".encode()).hexdigest()


def is_primed(folder: str | os.PathLike[str]) -> bool:
    """Whether this is a folder of handful's with a difference of weights in it."""
    return (Path(folder) / "delta.safetensors").is_file()


def read_primed(folder: str | os.PathLike[str]) -> Primed:
    """Reads what `write_primed` wrote; ArtifactError says which check failed."""
    from handful.folders import damaged, read_manifest, read_tensors

    path = Path(folder)
    content = read_manifest(path, WHAT, "handful prime --out")
    if content.get("kind") != KIND or not {"base", "before", "told"} <= set(content):
        raise damaged(path, WHAT, "handful.json describes something else")
    return Primed(content["base"], content["before"], read_tensors(path / "delta.safetensors", WHAT), content["told"])


def write_primed(primed: Primed, folder: str | os.PathLike[str]) -> Path:
    """Writes a primed backbone, whole or not at all; returns the folder."""
    from handful.folders import write_folder, write_tensors

    content = {"kind": KIND, "base": primed.base, "before": primed.before, "told": dict(primed.told)}

    def write(temporary: Path) -> None:
        write_tensors(primed.delta, temporary / "delta.safetensors")
        (temporary / "README.md").write_text(_card(primed), encoding="utf-8")

    return write_folder(folder, WHAT, content, write)


def _card(primed: Primed) -> str:
    size = sum(change.numel() for change in primed.delta.values())
    lines = ["---", "library_name: handful", f"base_model: {primed.base}", "tags: [few-shot, peft, priming]", "---", ""]
    lines += [f"# {primed.base}, primed", "", f"A difference to {size:,} weights of `{primed.base}` (weights"]
    lines += [f"`{primed.before[:12]}`), made so that a few parameters tuned on it later do more.", ""]
    lines += [*(f"- {name}: {value}" for name, value in primed.told.items() if not isinstance(value, (list, dict))), ""]
    return "\n".join([*lines, "## Use", "", "```", "handful fit DATA --backbone DIR --out TASK", "```", ""])
