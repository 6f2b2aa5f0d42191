"""A fitted task on disk: safetensors and JSON, checksummed, written whole or not at all.

handful.json               what it is, for whom, how good, at what cost; sha256 of every other file and of itself
adapter_model.safetensors  the method's parameters, in PEFT's names where PEFT has the method
adapter_config.json        PEFT's configuration there, handful's own spec otherwise
head.safetensors           the class head and the constants of its features
README.md                  the model card
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from handful.backbone import Backbone
from handful.card import model_card
from handful.errors import ArtifactError, MethodError
from handful.folders import (
    MANIFEST,
    check_target,
    damaged,
    read_manifest,
    read_tensors,
    size_on_disk,
    write_folder,
    write_json,
    write_tensors,
)
from handful.methods import from_spec
from handful.peft_format import from_peft, to_peft
from handful.types import Params, Task, TaskKind, split_id

__all__ = ["MANIFEST", "Artifact", "check_target", "load", "save", "size_on_disk"]

WHAT = "fitted task"
HEADLESS = ("choices", "context", "written")
"""Kinds of features that are read in words, without a class head."""
_KEPT_AS_IS = (
    "recipe", "backbone", "fingerprint", "task", "kind", "text_pair", "template", "method", "sites", "prior",
    "features", "temperature", "estimate", "cost", "seed", "definition",
)  # fmt: skip


class Manifest(BaseModel):
    """The content of `handful.json`."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int
    recipe: str
    backbone: str
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    task: str
    kind: TaskKind
    labels: list[str] = Field(min_length=1)
    text_pair: bool
    template: str | None
    method: dict[str, Any] | None
    sites: list[dict[str, Any]]
    prior: str | None = None
    features: dict[str, Any]
    temperature: float = Field(gt=0)
    estimate: dict[str, Any] | None
    cost: dict[str, Any]
    seed: int
    definition: dict[str, Any] | None = None
    notes: list[str]
    versions: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True)
class Artifact:
    """A fitted task.

    backbone, fingerprint  what it was fitted on, by name and by content
    params                 the method's parameters by site; empty for a head alone
    method, sites          `methods.to_spec` of the method, and name, role and layer of each site
    prior                  digest of the shipped prior that `features` are of, in place of params (`priors.named`)
    head                   `weight [C, D]`, `bias [C]` and the constants of `features`; empty for tasks that end in text
    features               how rows become what the head reads (`predictor.py`)
    temperature            divides the scores before they become probabilities
    estimate               `Estimate.to_dict()`: what cross-validation says about accuracy
    definition             the task definition that its rows were read through (`definitions.Definition`), as JSON
    """

    recipe: str
    backbone: str
    fingerprint: str
    labels: tuple[str, ...]
    features: dict[str, Any]
    head: dict[str, Tensor]
    params: Params = field(default_factory=dict)
    method: dict[str, Any] | None = None
    sites: list[dict[str, Any]] = field(default_factory=list)
    prior: str | None = None
    task: str = "task"
    kind: TaskKind = "classification"
    text_pair: bool = False
    template: str | None = None
    temperature: float = 1.0
    estimate: dict[str, Any] | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    definition: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(task: Task, backbone: Backbone, **rest: Any) -> Artifact:
        """An artifact with what `task` and `backbone` say filled in."""
        return Artifact(
            backbone=backbone.id,
            fingerprint=backbone.fingerprint,
            labels=tuple(task.labels),
            task=task.name,
            kind=task.kind,
            text_pair=task.examples[0].text_pair is not None,
            template=task.template,
            **rest,
        )

    def check_backbone(self, backbone: Backbone) -> None:
        """ArtifactError unless `backbone` has the weights that this task was fitted on."""
        if backbone.fingerprint != self.fingerprint:
            raise ArtifactError(
                f"The task {self.task!r} was to run on the backbone {backbone.id!r}.",
                f"It was fitted on {self.backbone!r} (weights {self.fingerprint[:12]}), and these weights are "
                f"{backbone.fingerprint[:12]}.",
                f"Load {self.backbone!r}, or fit the task again on {backbone.id!r}.",
            )


def save(artifact: Artifact, folder: str | os.PathLike[str]) -> Path:
    """Writes an artifact to `folder`, whole or not at all (`folders.write_folder`); returns the folder."""
    content = {name: getattr(artifact, name) for name in _KEPT_AS_IS}
    content |= {"labels": list(artifact.labels), "notes": list(artifact.notes)}

    def write(temporary: Path) -> None:
        write_tensors(artifact.head, temporary / "head.safetensors")
        if artifact.method is not None:
            config, tensors = to_peft(artifact.method, artifact.params, artifact.sites, split_id(artifact.backbone)[0])
            write_tensors(tensors, temporary / "adapter_model.safetensors")
            write_json(config, temporary / "adapter_config.json")
        (temporary / "README.md").write_text(model_card(artifact), encoding="utf-8")

    return write_folder(folder, WHAT, content, write)


def load(folder: str | os.PathLike[str]) -> Artifact:
    """Reads an artifact; ArtifactError says which check failed: presence, schema, checksums, shapes or finiteness."""
    path = Path(folder)
    content = read_manifest(path, WHAT, "handful fit --out")
    if content.get("kind") == "prior":
        raise ArtifactError(
            f"A fitted task was to be read from {path}.", "It holds a prior, which tasks start from.",
            "Fit a task with it: `handful fit DATA --prior DIR --out TASK`.",
        )  # fmt: skip
    try:
        manifest = Manifest(**content)
    except ValidationError as error:
        found = f"{MANIFEST} is not what it should be ({str(error).splitlines()[0]})"
        raise damaged(path, WHAT, found) from error
    head = read_tensors(path / "head.safetensors", WHAT)
    params: Params = {}
    if manifest.method is not None:
        try:
            from_spec(manifest.method)
            tensors = read_tensors(path / "adapter_model.safetensors", WHAT)
            params = from_peft(manifest.method, tensors, manifest.sites)
        except (MethodError, KeyError) as error:
            raise damaged(path, WHAT, f"its method cannot be made here ({error})") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in head.items()}
    if (
        manifest.features["kind"] not in HEADLESS
        and [shapes.get(name, ())[:1] for name in ("weight", "bias")] != [(len(manifest.labels),)] * 2
    ):
        raise damaged(path, WHAT, f"its head has shapes {shapes} for {len(manifest.labels)} labels")
    kept = manifest.model_dump(exclude={"schema_version", "files", "versions", "labels", "notes"})
    return Artifact(**kept, labels=tuple(manifest.labels), notes=tuple(manifest.notes), head=head, params=params)
