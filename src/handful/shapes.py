"""Backbones without weights: known shapes (`counts.toml`), aliases, and configurations in files."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from handful.backbone import Backbone, aliases, from_model
from handful.errors import BackboneError


@cache
def known() -> dict[str, Any]:
    """`counts.toml`."""
    return tomllib.loads((files("handful") / "counts.toml").read_text(encoding="utf-8"))


def canonical(name: str) -> str:
    """The one name of a known shape that has several."""
    return known()["shape"].get(name.lower(), {}).get("as", name)


@cache
def shape(said: str) -> Backbone:
    """A backbone without weights: a known shape, an alias, or the configuration in a folder or file.

    Raises BackboneError for an unknown name, a file that is no configuration, and an architecture without a role table.
    """
    settings = _settings(said)
    kind = settings.pop("type", None) or settings.pop("model_type", None)
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        with torch.device("meta"):
            model = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise BackboneError(
            f"The shape of {said!r} was asked for.",
            f"transformers makes no model of it: {str(error).splitlines()[0].rstrip('.')}.",
            "Give a config.json that save_pretrained wrote.",
        ) from error
    return from_model(model, id=said, fingerprint="none")


def bare(backbone: Backbone) -> Backbone:
    """The backbone without its weights."""
    if backbone.device.type == "meta":
        return backbone
    import torch

    with torch.device("meta"):
        model = type(backbone.model)(backbone.model.config)
    return from_model(model, id=backbone.id, fingerprint="none")


def _settings(said: str) -> dict[str, Any]:
    shapes = known()["shape"]
    if said.lower() in shapes:  # an alias may be one too: its package need not be there, and nothing is converted
        return {name: value for name, value in shapes[canonical(said).lower()].items() if name != "stand_in"}
    if said in aliases():
        return _read(said, Path(aliases()[said]()))
    if Path(said).exists():
        return _read(said, Path(said))
    if (file := _downloaded(said)) is not None:
        return _read(said, file)
    raise BackboneError(
        f"The shape of {said!r} was asked for.",
        f"It is no file or folder, and known are {', '.join(dict.fromkeys([*shapes, *aliases()]))}.",
        "Use one of them, or give a config.json.",
    )


def _downloaded(said: str) -> Path | None:
    """The configuration of a hub id whose weights were loaded here before: nothing is fetched for a shape."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(said, "config.json")
    except HFValidationError:  # no such id can be
        return None
    return Path(found) if isinstance(found, str) else None


def _read(said: str, path: Path) -> dict[str, Any]:
    """The configuration in a folder or file."""
    file = path / "config.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found = error
    if isinstance(found, dict) and "model_type" in found:
        return found
    reason = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else "it has no model_type"
    raise BackboneError(
        f"The shape of {said!r} was asked for.",
        f"{file} is not the configuration of a model: {reason}.",
        "Give a config.json that save_pretrained wrote.",
    )
