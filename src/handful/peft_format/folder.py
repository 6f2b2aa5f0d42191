"""PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from handful.attach import Adapted, attach
from handful.backbone import Backbone, aliases
from handful.errors import HandfulWarning, RequestError
from handful.methods import Method, from_spec, method, to_spec
from handful.peft_format.base import PREFIX, Config, Form, Layer, LayerForm, Tensors, damaged, refused
from handful.peft_format.kinds import FORMS, by_name, innermost, kind_of
from handful.peft_format.targets import check_targets, compose, piece_of, places_of, stem_of
from handful.sites import Place, is_transposed
from handful.types import Params, cast_params, split_id

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def save_peft(adapted: Adapted, params: Params, folder: str | os.PathLike[str]) -> Path:
    """Writes the params of one task as a folder for `peft.PeftModel.from_pretrained`, and returns the folder.

    MethodError names what PEFT cannot hold; ArtifactError a folder that cannot be written.
    """
    path = Path(folder)
    try:
        config, tensors = _exported(adapted, params)
        if path.exists() and not (path / CONFIG).is_file() and (not path.is_dir() or any(path.iterdir())):
            raise damaged("It exists and is no folder of PEFT's.", "Choose a new folder, or empty this one.")
        path.mkdir(parents=True, exist_ok=True)
        _replace(path / TENSORS, to_bytes({name: p.detach().cpu().contiguous() for name, p in tensors.items()}))
        _replace(path / CONFIG, (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise _said(damaged(f"The system says: {error.strerror or error}.", "Choose another folder."), path) from error
    except RequestError as error:
        asked = f"{type(adapted.method).__name__} on {adapted.backbone.id!r} was to be saved for PEFT in {path}."
        raise type(error)(asked, error.found, error.todo) from error
    return path


def base_name(backbone: Backbone) -> str:
    """What transformers loads a backbone's whole weights by: the folder of an alias, "x" of the quantised "x@int8"."""
    name, _ = split_id(backbone.id)
    return aliases()[name]() if name in aliases() else name


def _exported(adapted: Adapted, params: Params) -> tuple[Config, dict[str, Tensor]]:
    spec, layers = to_spec(adapted.method), [_layer(place) for place in adapted.places]
    form = kind_of(spec, layers)
    if isinstance(form, str):
        raise refused(f"{form}.", "Save it as an artifact (`handful.artifact.save`), which holds every method.")
    position = next((place.site.name for place in adapted.places if place.entry is not None), None)
    if position is not None:
        raise refused(f"{position} also serves relative positions, which handful leaves as they were and PEFT not.")
    _check_like(adapted, params)
    return form.write(innermost(spec)["options"], params, layers, base_name(adapted.backbone))


def load_peft(
    folder: str | os.PathLike[str], backbone: Backbone, *, leave: Collection[str] = ()
) -> tuple[Method, Params]:
    """The method and the params in a folder that `peft` wrote, for `attach(backbone, method)`.

    `leave` names trained modules (`modules_to_save`, a classifier mostly) to do without. MethodError names what handful
    cannot hold; ArtifactError what is damaged or belongs to another backbone. A prefix brings a warning: `peft` counts
    the positions of real tokens from `num_virtual_tokens`, so give its batches `position_ids` that do.
    """
    path = Path(folder)
    try:
        config, tensors = _read(path)
        if config.get("peft_type") is None and "handful_method" in config:
            found = from_spec(config["handful_method"])
            params = by_name(tensors, (site.name for site in attach(backbone, found).sites))
        else:
            found, params = _imported(config, tensors, backbone, leave)
        adapted = attach(backbone, found)
        _check_like(adapted, params)
    except RequestError as error:
        raise _said(error, path) from error
    dtype = torch.promote_types(backbone.dtype, torch.float32)
    return found, cast_params(params, device=backbone.device, dtype=dtype)


def _imported(config: Config, tensors: Tensors, backbone: Backbone, leave: Collection[str]) -> tuple[Method, Params]:
    form = _form(config)
    form.check(config)
    saved: Sequence[str] = config.get("modules_to_save") or ()
    kept = {key: name for key in tensors for name in saved if _within(key, name)}
    for name in sorted(set(kept.values()) - set(leave)):
        raise refused(
            f"It holds a whole trained module (modules_to_save: {name}), which is no part of a method.",
            f"Give leave=({name!r},) to do without it and fit a head here, or use it with peft.",
        )
    tensors = {key: tensor for key, tensor in tensors.items() if key not in kept}
    if isinstance(form, LayerForm):
        return _around_layers(form, config, tensors, backbone)
    if "prompt_embeddings" not in tensors:
        raise damaged("It has no tensor prompt_embeddings.")
    found = method(form.method, num_tokens=config["num_virtual_tokens"])
    places = attach(backbone, found).places
    if form.method == "prefix":
        warnings.warn(
            "peft counts the positions of real tokens behind a prefix from num_virtual_tokens, handful from 0: give "
            "batches position_ids that do, for peft's answers",
            HandfulWarning, stacklevel=3,
        )  # fmt: skip
    return found, form.read(tensors, [_layer(place) for place in places])


def _around_layers(form: LayerForm, config: Config, tensors: Tensors, backbone: Backbone) -> tuple[Method, Params]:
    by_module = form.by_module(tensors)
    stem = stem_of(by_module, backbone)
    check_targets(config, by_module, stem, backbone)
    places = places_of([module.removeprefix(stem) for module in by_module], backbone)
    options: dict[str, Config] = {}
    own: list[tuple[Layer, dict[str, Tensor]]] = []
    for module, found in by_module.items():
        here = places[module.removeprefix(stem)]
        whole = [found] if here[0].part is None else form.split(found, len(here))
        if whole is None:
            raise refused(f"It changes the fused layer {module}, and handful's {form.method} each part of it alone.")
        for place, part in zip(here, whole, strict=True):
            layer = _layer(place)
            lost = [name for name in form.suffixes if name not in part and (name != "db" or place.site.has_bias)]
            if lost:
                raise damaged(f"It has no {form.suffixes[lost[0]]} for {module}.")
            options[layer.name] = form.options(config, module, part, layer)
            own.append((layer, {name: form.shown(name, tensor, layer) for name, tensor in part.items()}))
    result = compose(form.method, options, backbone)
    sites = {place.site.name: place.site for each in places.values() for place in each}
    params: Params = {}
    for layer, each in own:
        piece = piece_of(result, sites[layer.name])
        params[layer.name] = {f"{piece}{name}": p for name, p in each.items()}
    pieces = sorted({piece_of(result, sites[name]) for name in options})
    held = form.shared(config, tensors, [layer for layer, _ in own])
    shared = {f"{piece}{name}": p for piece in pieces for name, p in held.items()}
    return result, params | ({"shared": shared} if shared else {})


def _form(config: Config) -> Form:
    kind = config.get("peft_type")
    name = "dora" if kind == "LORA" and config.get("use_dora") else None
    found = [form for form in FORMS.values() if form.peft_type == kind and name in (None, form.method)]
    if not found:
        known = sorted({form.peft_type for form in FORMS.values()})
        raise refused(f"Its peft_type is {kind!r}; handful reads {', '.join(known)}.")
    return found[0]


def _layer(place: Place) -> Layer:
    site = place.site
    if place.kind not in ("layer", "slice"):
        return Layer(site.name, site.role)
    return Layer(site.name, site.role, place.weight.detach(), place.bias, is_transposed(place.module))


def _check_like(adapted: Adapted, params: Params) -> None:
    """ArtifactError unless `params` have the names and shapes of fresh ones and are finite."""
    fresh = adapted.init(0)
    asked = {(site, name): p for site, own in fresh.items() for name, p in own.items()}
    found = {(site, name): p for site, own in params.items() if site != "head" for name, p in own.items()}
    for site, name in asked.keys() ^ found.keys():
        raise damaged(f"The parameter {name} of {site} is {'missing' if (site, name) in asked else 'not known'}.")
    for (site, name), p in found.items():
        like = asked[site, name]
        if like.is_floating_point() and p.shape != like.shape:
            raise damaged(f"{name} of {site} has the shape {tuple(p.shape)}, not {tuple(like.shape)}.")
        if not torch.isfinite(p).all():
            raise damaged(f"{name} of {site} holds values that are not finite.")


def _read(path: Path) -> tuple[Config, dict[str, Tensor]]:
    if not (path / CONFIG).is_file():
        raise damaged(f"There is no {CONFIG} in it.", "Give a folder that peft's save_pretrained wrote.")
    if not (path / TENSORS).is_file():
        todo = "Save it again with peft's save_pretrained(..., safe_serialization=True)."
        raise damaged(f"There is no {TENSORS} in it; weights in other files are not read.", todo)
    try:
        config: Any = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(path / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(f"It cannot be read ({str(error).splitlines()[0]}).") from error
    if not isinstance(config, dict):
        raise damaged(f"{CONFIG} is no JSON object.")
    return config, tensors


def _within(key: str, module: str) -> bool:
    return re.match(rf"(^|.*\.){module}($|\..*)", key.removeprefix(PREFIX)) is not None


def _said(error: RequestError, path: Path) -> RequestError:
    return type(error)(f"The PEFT folder {path} was asked for.", error.found, error.todo)


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
