"""A fitted task on disk: safetensors and JSON, checksummed, written whole or not at all.

handful.json               what it is, for whom, how good, at what cost; sha256 of every other file and of itself
adapter_model.safetensors  the method's parameters, in PEFT's names where PEFT has the method
adapter_config.json        PEFT's configuration there, handful's own spec otherwise
head.safetensors           the class head and the constants of its features
README.md                  the model card
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from handful.backbone import Backbone
from handful.card import model_card
from handful.errors import ArtifactError, MethodError
from handful.methods import from_spec
from handful.peft_format import from_peft, to_peft
from handful.types import Params, Task, TaskKind, split_id

SCHEMA = 1
MANIFEST = "handful.json"
_KEPT_AS_IS = (
    "recipe", "backbone", "fingerprint", "task", "kind", "text_pair", "template", "method", "sites", "features",
    "temperature", "estimate", "cost", "seed",
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
    features: dict[str, Any]
    temperature: float = Field(gt=0)
    estimate: dict[str, Any] | None
    cost: dict[str, Any]
    seed: int
    notes: list[str]
    versions: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True)
class Artifact:
    """A fitted task.

    backbone, fingerprint  what it was fitted on, by name and by content
    params                 the method's parameters by site; empty for a head alone
    method, sites          `methods.to_spec` of the method, and name, role and layer of each site
    head                   `weight [C, D]`, `bias [C]` and the constants of `features`
    features               how rows become what the head reads (`predictor.py`)
    temperature            divides the scores before they become probabilities
    estimate               `Estimate.to_dict()`: what cross-validation says about accuracy
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
    task: str = "task"
    kind: TaskKind = "classification"
    text_pair: bool = False
    template: str | None = None
    temperature: float = 1.0
    estimate: dict[str, Any] | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
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
    """Writes an artifact to `folder`, through a temporary sibling that is renamed; returns the folder.

    ArtifactError, with an older artifact intact, if the folder holds something else or cannot be written.
    """
    check_target(Path(folder))
    target = Path(folder).resolve()  # what a link points to is replaced, not the link
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(artifact, temporary)
        _swap(temporary, target)
    except OSError as error:
        raise ArtifactError(
            f"The fitted task was to be saved in {target}.",
            f"The system says: {error.strerror or error}. Nothing was changed there.",
            "Free some space or choose another folder.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Path(folder)


def check_target(target: Path) -> None:
    """ArtifactError if `target` cannot be made, or exists and is not an artifact that may be replaced."""
    asked = f"The fitted task was to be saved in {target}."
    if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(asked, "It exists and holds no fitted task.", "Choose a new folder, or empty this one.")
    parent = next(parent for parent in target.resolve().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        why = "may not be written to" if parent.is_dir() else "is a file"
        raise ArtifactError(asked, f"{parent} {why}.", "Choose another folder.")


def load(folder: str | os.PathLike[str]) -> Artifact:
    """Reads an artifact; ArtifactError says which check failed: presence, schema, checksums, shapes or finiteness."""
    path = Path(folder)
    _restore(path.resolve())
    manifest = _manifest(path)
    for name, expected in manifest.files.items():
        try:
            found = hashlib.sha256((path / name).read_bytes()).hexdigest()
        except OSError as error:
            raise _damaged(path, f"its file {name} cannot be read ({error.strerror})") from error
        if found != expected:
            raise _damaged(path, f"the checksum of {name} does not match: the file was changed or cut short")
    head = _tensors(path / "head.safetensors")
    params: Params = {}
    if manifest.method is not None:
        try:
            from_spec(manifest.method)
            params = from_peft(manifest.method, _tensors(path / "adapter_model.safetensors"), manifest.sites)
        except (MethodError, KeyError) as error:
            raise _damaged(path, f"its method cannot be made here ({error})") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in head.items()}
    if [shapes.get(name, ())[:1] for name in ("weight", "bias")] != [(len(manifest.labels),)] * 2:
        raise _damaged(path, f"its head has shapes {shapes} for {len(manifest.labels)} labels")
    for name, tensor in [*head.items(), *((f"{s} {n}", p) for s, own in params.items() for n, p in own.items())]:
        if not torch.isfinite(tensor).all():
            raise _damaged(path, f"the tensor {name} holds values that are not finite")
    kept = manifest.model_dump(exclude={"schema_version", "files", "versions", "labels", "notes"})
    return Artifact(**kept, labels=tuple(manifest.labels), notes=tuple(manifest.notes), head=head, params=params)


def size_on_disk(folder: str | os.PathLike[str]) -> int:
    """Bytes of all files of an artifact."""
    return sum(file.stat().st_size for file in Path(folder).iterdir())


def _write(artifact: Artifact, folder: Path) -> None:
    _save_tensors(artifact.head, folder / "head.safetensors")
    if artifact.method is not None:
        config, tensors = to_peft(artifact.method, artifact.params, artifact.sites, split_id(artifact.backbone)[0])
        _save_tensors(tensors, folder / "adapter_model.safetensors")
        _dump(config, folder / "adapter_config.json")
    (folder / "README.md").write_text(model_card(artifact), encoding="utf-8")
    manifest = Manifest(
        schema_version=SCHEMA,
        versions={name: version(name) for name in ("handful", "torch", "transformers")},
        files={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())},
        labels=list(artifact.labels),
        notes=list(artifact.notes),
        **{name: getattr(artifact, name) for name in _KEPT_AS_IS},
    ).model_dump()
    _dump(manifest | {"sha256": _own_digest(manifest)}, folder / MANIFEST)
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _swap(temporary: Path, target: Path) -> None:
    _restore(target)
    old = _aside(target)
    if target.exists():
        target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        _restore(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _aside(target: Path) -> Path:
    """Where an artifact is while a new one takes its place."""
    return target.parent / f".{target.name}.old"


def _restore(target: Path) -> None:
    """Puts back what a crash between the two renames left aside, and clears away what one after them left."""
    old = _aside(target)
    if old.exists() and target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(target)


def _manifest(path: Path) -> Manifest:
    if not (path / MANIFEST).is_file():
        raise ArtifactError(
            f"A fitted task was to be read from {path}.",
            f"There is no {MANIFEST}." if path.is_dir() else "There is no such folder.",
            "Give the folder that `handful fit --out` wrote.",
        )
    try:
        text = (path / MANIFEST).read_bytes().decode()
        content = json.loads(text)
        whole, written = text == _json(content), content.pop("sha256", None)
        if content.get("schema_version", SCHEMA) > SCHEMA:
            raise ArtifactError(
                f"A fitted task was to be read from {path}.",
                f"Its schema is {content['schema_version']}, which a newer handful writes; this one reads {SCHEMA}.",
                "Upgrade handful.",
            )
        if not whole or written != _own_digest(content):
            raise _damaged(path, f"the checksum of {MANIFEST} does not match: the file was changed")
        return Manifest(**content)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise _damaged(path, f"{MANIFEST} is not what it should be ({str(error).splitlines()[0]})") from error


def _own_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise _damaged(file.parent, f"{file.name} cannot be read as safetensors ({error})") from error


def _save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    file.write_bytes(to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def _dump(content: Mapping[str, Any], file: Path) -> None:
    file.write_text(_json(content), encoding="utf-8")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _damaged(path: Path, found: str) -> ArtifactError:
    return ArtifactError(
        f"A fitted task was to be read from {path}.",
        f"It is damaged: {found}.",
        "Take it from a backup, or fit the task again.",
    )
