"""Folders that are written whole or not at all: tensors and JSON, checksummed. Fitted tasks and priors are such.

handful.json holds what the folder is, the sha256 of every other file, and its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
MANIFEST = "handful.json"


def write_folder(
    folder: str | os.PathLike[str], what: str, content: Mapping[str, Any], write: Callable[[Path], None]
) -> Path:
    """Writes a folder with a manifest of `content`, through a temporary sibling that is renamed; returns the folder.

    `write` puts the other files into the folder that it is given. ArtifactError, with an older folder intact, if the
    folder holds something else or cannot be written; `what` is how it calls what was to be saved.
    """
    check_target(Path(folder), what)

    def sealed(temporary: Path) -> None:
        write(temporary)
        _seal(content, temporary)

    return replace_folder(folder, what, sealed)


def replace_folder(folder: str | os.PathLike[str], what: str, write: Callable[[Path], None]) -> Path:
    """As `write_folder`, without a manifest and whatever the folder holds now: the caller has checked that."""
    target = Path(folder).resolve()  # what a link points to is replaced, not the link
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        for file in (own for own in temporary.rglob("*") if own.is_file()):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        _swap(temporary, target)
    except OSError as error:
        raise ArtifactError(
            f"The {what} was to be saved in {target}.",
            f"The system says: {error.strerror or error}. Nothing was changed there.",
            "Free some space or choose another folder.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Path(folder)


def check_target(target: Path, what: str = "fitted task") -> None:
    """ArtifactError if `target` cannot be made, or exists and is not a folder of this kind that may be replaced."""
    asked = f"The {what} was to be saved in {target}."
    if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(asked, f"It exists and holds no {what}.", "Choose a new folder, or empty this one.")
    parent = next(parent for parent in target.resolve().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        why = "may not be written to" if parent.is_dir() else "is a file"
        raise ArtifactError(asked, f"{parent} {why}.", "Choose another folder.")


def read_manifest(folder: Path, what: str, written_by: str) -> dict[str, Any]:
    """The content of a folder's manifest after every checksum was found right; ArtifactError says which one was not."""
    _restore(folder.resolve())
    asked = f"A {what} was to be read from {folder}."
    if not (folder / MANIFEST).is_file():
        found = f"There is no {MANIFEST}." if folder.is_dir() else "There is no such folder."
        raise ArtifactError(asked, found, f"Give the folder that `{written_by}` wrote.")
    try:
        text = (folder / MANIFEST).read_bytes().decode()
        content = json.loads(text)
        whole, written = text == _json(content), content.pop("sha256", None)
        schema = content.get("schema_version", SCHEMA)
        if schema > SCHEMA:
            newer = f"Its schema is {schema}, which a newer handful writes; this one reads {SCHEMA}."
            raise ArtifactError(asked, newer, "Upgrade handful.")
        if not whole or written != _own_digest(content):
            raise damaged(folder, what, f"the checksum of {MANIFEST} does not match: the file was changed")
        files = dict(content["files"])
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise damaged(folder, what, f"{MANIFEST} is not what it should be ({str(error).splitlines()[0]})") from error
    for name, expected in files.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise damaged(folder, what, f"its file {name} cannot be read ({error.strerror})") from error
        if found != expected:
            raise damaged(folder, what, f"the checksum of {name} does not match: the file was changed or cut short")
    return content


def read_tensors(file: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a file; ArtifactError where they cannot be read or are not finite."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise damaged(file.parent, what, f"{file.name} cannot be read as safetensors ({error})") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise damaged(file.parent, what, f"the tensor {name} holds values that are not finite")
    return tensors


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    from safetensors.torch import save as to_bytes

    file.write_bytes(to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def write_json(content: Mapping[str, Any], file: Path) -> None:
    file.write_text(_json(content), encoding="utf-8")


def size_on_disk(folder: str | os.PathLike[str]) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in Path(folder).iterdir())


def damaged(folder: Path, what: str, found: str) -> ArtifactError:
    """What to raise for a folder that is not as it was written."""
    return ArtifactError(
        f"A {what} was to be read from {folder}.", f"It is damaged: {found}.",
        "Take it from a backup, or make it again.",
    )  # fmt: skip


def _seal(content: Mapping[str, Any], folder: Path) -> None:
    """Writes the manifest of the files that are there."""
    manifest = {
        "schema_version": SCHEMA,
        **content,
        "versions": {name: version(name) for name in ("handful", "torch", "transformers")},
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())},
    }
    write_json(manifest | {"sha256": _own_digest(manifest)}, folder / MANIFEST)


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
    """Where a folder is while a new one takes its place."""
    return target.parent / f".{target.name}.old"


def _restore(target: Path) -> None:
    """Puts back what a crash between the two renames left aside, and clears away what one after them left."""
    old = _aside(target)
    if old.exists() and target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(target)


def _own_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
