"""What decides a result, as content hashes that are computed without importing torch or reading weights into memory."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from handful import priors
from handful.backbone import aliases
from handful.errors import BackboneError
from handful.folders import MANIFEST
from handful.notes import remembered
from handful.pools import digest_of
from handful.recipes import home, parse, written
from handful.types import split_id

DECIDING = ("torch", "transformers", "tokenizers", "scikit-learn", "numpy")
"""Packages whose version is part of a result's key."""
_WEIGHTS = (".safetensors", ".bin", ".json", ".txt", ".model")


def cell_key(pool: str, recipe: str, backbone: str, shots: int, seed: int, machine: str) -> str:
    """The key of a cell from the digests of its parts; `machine` is `machine_digest`."""
    return digest_of(pool, recipe, backbone, shots, seed, machine)


def machine_digest(dtype: str, device: str) -> str:
    """Number format, kind of device and the versions of the packages that compute."""
    return digest_of(dtype, device.partition(":")[0], versions())


@cache
def versions() -> dict[str, str]:
    """The deciding packages' versions."""
    return {package: _version(package) for package in DECIDING}


@cache
def recipe_digest(said: str) -> str:
    """A recipe's options and the source of all code that it runs: its imports, followed through its own package.

    Drawing and measuring belong to it, and every family, since which one runs is known only with the backbone.
    """
    name, options = parse(said)
    starts = [*home(said), "handful.work", "handful.pools"]
    families = find_spec("handful.families")
    assert families is not None
    assert families.submodule_search_locations
    tables = [f"handful.families.{path.stem}" for path in Path(families.submodule_search_locations[0]).glob("*.py")]
    sources = {module: _source(module) for module in closure([*starts, *tables])}
    held = [Path(value) / MANIFEST for value in options.values() if isinstance(value, str)]
    held += priors.manifests() if "handful.priors" in sources else []
    kept = [_file_digest(file) for file in held if file.is_file()]  # priors, wherever they lie
    return digest_of(written(name, options), sorted(sources.items()), *kept)


def closure(modules: Iterable[str]) -> set[str]:
    """Modules and all that they import, now or later, from packages that the given ones belong to, or `handful`."""
    todo, seen = list(modules), set[str]()
    roots = {name.partition(".")[0] for name in todo} | {"handful"}
    while todo:
        name = todo.pop()
        if name in seen or name == "handful" or name.partition(".")[0] not in roots or _file(name) is None:
            continue  # the package itself only looks names up
        seen.add(name)
        todo += _imports(name)
    return seen


@cache
def backbone_digest(name: str) -> str:
    """What a backbone's files hold; of one on the hub its name and commit. BackboneError if it cannot be had."""
    base, kind = split_id(name)
    if kind:
        return digest_of(backbone_digest(base), kind)
    source = aliases()[name]() if name in aliases() else name
    folder = Path(source).expanduser()
    if folder.is_dir():
        files = sorted(file for file in folder.rglob("*") if file.suffix in _WEIGHTS and file.is_file())
        return digest_of([(str(file.relative_to(folder)), _file_digest(file)) for file in files])
    from huggingface_hub import hf_hub_download

    try:
        config = Path(hf_hub_download(source, "config.json"))
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"The backbone {name!r} was asked for.",
            f"It is no alias ({', '.join(aliases())}), no folder, and the hub says: {str(error).splitlines()[0]}",
            "Check the spelling and the network, or give a local folder written by save_pretrained.",
        ) from error
    return digest_of(source, config.parent.name)  # the folder of a snapshot is called by its commit


def _file_digest(file: Path) -> str:
    """sha256 of a file; of a large one remembered by its size and time of change."""

    def read() -> str:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    stat = file.stat()
    if stat.st_size <= 1 << 24:
        return read()
    return remembered("files", digest_of(str(file.resolve()), stat.st_size, stat.st_mtime_ns), read)


@cache
def _imports(name: str) -> list[str]:
    """Dotted names in a module's import statements, wherever they stand; a name may be a module or something in one."""
    file = _file(name)
    assert file is not None
    return [found for node in ast.walk(ast.parse(file.read_bytes())) for found in _imported(node, name, file)]


def _imported(node: ast.AST, name: str, file: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*parts, *([node.module] if node.module else [])])
        yield origin
        yield from (f"{origin}.{alias.name}" for alias in node.names)


@cache
def _file(name: str) -> Path | None:
    """The source of a module, None where there is no such module; nothing is imported."""
    top, *rest = name.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    if not spec.submodule_search_locations:
        return None if rest else Path(spec.origin)
    path = Path(spec.submodule_search_locations[0]).joinpath(*rest)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _source(name: str) -> str:
    file = _file(name)
    assert file is not None
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
