"""Folders that the `adapters` library wrote, read as handful's methods: bottleneck adapters and Compacter.

`x` is what a sub-layer was given, `h` what it answers, `norm` the norm after their sum, which pre-norm blocks lack (and
there the library's parallel adapter reads `x` before the sub-layer's own norm). Its switches say where `A` is:

    norm(x + h + A(h))            `Houlsby`, `Compacter` at `.out`   the default
    norm(x + h + A(norm(x + h)))  `Pfeiffer`, `Compacter` at `.add`  `original_ln_before`; also its Compacter++
    norm(x + h) + A(norm(x + h))  `Houlsby`, `Compacter` at `.norm`  that, but not `original_ln_after`; AdapterPlus
    norm(x + h + A(x))            `ParallelAdapter`                  `is_parallel`, post-norm only

A learned scaling is taken into the last matrix, a factored rule is multiplied out. What acts in training alone
(dropout, stochastic depth, initialisation, `learn_phm`) and a prediction head stay behind.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from handful.attach import Adapted, attach
from handful.backbone import Backbone
from handful.errors import ArtifactError, MethodError, RequestError
from handful.methods import Method, OnLayers, union
from handful.methods.bottleneck import Houlsby, ParallelAdapter, Pfeiffer
from handful.methods.kronecker import Compacter
from handful.types import Params, map_params

Config = dict[str, Any]
Key = tuple[str, int, str]  # stack, block, "attention" | "cross" | "ffn"
Own = dict[str, Tensor]
_UNREADABLE = (OSError, ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)
_PLACES = {"mh_adapter": "attention", "output_adapter": "ffn", "cross_adapter": "cross"}
_TOWERS = {"text": "text_model", "vision": "vision_model"}
_MODULES = {  # BERT's outputs, T5's numbered sub-layers, and modules named by what they are
    "attention": r".*\.\d+\.(attention\.output|layer\.0|attention_adapters)",
    "cross": r"(.*\.)?decoder\.block\.\d+\.layer\.1|.*\.cross_attention_adapters",
    "ffn": r".*\.\d+\.(output|layer\.[12]|output_adapters|output\.output_adapters)",
}
_SWITCHES = ("is_parallel", "original_ln_before", "original_ln_after", "residual_before_ln")
_DEFAULTS: Config = dict(zip(_SWITCHES, (False, False, True, True), strict=True)) | {
    "non_linearity": None, "scaling": 1.0, "phm_layer": False, "phm_dim": 4, "phm_bias": True, "shared_phm_rule": True
}  # fmt: skip
_NEVER = ("architecture", "ln_before", "ln_after", "use_gating", "inv_adapter", "invertible_adapter", "shared_W_phm")
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "silu", "swish": "silu", "tanh": "tanh"}
_VERSION_1 = {"gelu": "gelu_new", "gelu_orig": "gelu"}
_LAYERS = {"adapter_down.0": "down", "adapter_up": "up"}
_ENDS = {"weight": "", "bias": "_bias", "W_left": "_s", "W_right": "_t", "W": "_B", "b": "_bias"}
_NAMES = {f"{layer}.{end}": f"{ours}{mark}" for layer, ours in _LAYERS.items() for end, mark in _ENDS.items()} | {
    f"{layer}.phm_rule{side}": f"A_{ours}{side}" for layer, ours in _LAYERS.items() for side in ("", "_left", "_right")
}


def read_folder(folder: str | Path, backbone: Backbone) -> tuple[Method, Params]:
    """The method and the parameters in a folder that `save_adapter` wrote, for `attach(backbone, method)`.

    MethodError names what no method here can do; ArtifactError what is damaged, missing or made for another backbone.
    Weights are read from safetensors, or unpickled as plain tensors and nothing else.
    """
    folder = Path(folder)
    safe, pickled = folder / "adapter.safetensors", folder / "pytorch_adapter.bin"
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(safe) if safe.exists() else torch.load(pickled, map_location="cpu", weights_only=True)
        if not isinstance(config, dict) or not all(map(torch.is_tensor, dict(tensors).values())):
            raise _damaged("Its files hold something else than a configuration and tensors.")
        if (folder / "adapter_interface.json").exists():
            raise _refused("adapter_interface.json", "adapters of a custom model sit at places of its own")
        method, params = from_adapters(config, tensors, backbone)
    except (RequestError, *_UNREADABLE) as error:
        known = error if isinstance(error, RequestError) else _damaged(f"Reading it failed: {error}")
        raise type(known)(f"The adapter in {str(folder)!r} was asked for.", known.found, known.todo) from error
    dtype = torch.promote_types(backbone.dtype, torch.float32)
    return method, map_params(lambda p: p.to(device=backbone.device, dtype=dtype), params)


def from_adapters(config: Config, tensors: Mapping[str, Tensor], backbone: Backbone) -> tuple[Method, Params]:
    """`read_folder` of what its two files hold; differentiable in `tensors`."""
    options, has = config.get("config"), backbone.model.config.model_type
    if not isinstance(options, dict) or config.get("model_type") != has:
        raise _damaged(f"It is one for {config.get('model_type')!r}, the backbone is {has!r}; or has no configuration.")
    options = _DEFAULTS | options
    for name in _NEVER:
        if options.get(name):
            raise _refused(f"{name}={options[name]!r}", "no method here has that")
    if "version" not in config:
        options["non_linearity"] = _VERSION_1.get(options["non_linearity"], options["non_linearity"])
    found, shared = _sorted(tensors, str(config.get("name")), backbone)
    of_width = _form(options, found, all(stack.post_norm for stack in backbone.family.stacks))
    everywhere = attach(backbone, of_width(width=1))
    depth, runs = max(site.num_layers for site in everywhere.sites), _runs(found, options, everywhere)
    if len(runs) > 1 and shared:
        raise _refused("shared_phm_rule=True", "blocks that differ, or have a gap between them, would have to share it")
    parts: list[Method] = [
        of_width(width=w) if (start, stop) == (0, depth) else OnLayers(method=of_width(width=w), start=start, stop=stop)
        for start, stop, w in runs
    ]
    method = union(*parts) if len(parts) > 1 else parts[0]
    return method, _params(attach(backbone, method), parts, found, shared, options)


def _sorted(tensors: Mapping[str, Tensor], name: str, backbone: Backbone) -> tuple[dict[Key, Own], Own]:
    """The tensors by site and handful's name, and those that all sites share."""
    found: dict[Key, Own] = {}
    shared: Own = {}
    for key, tensor in tensors.items():
        legacy = re.sub(r"(attention|layer)_text_(task|lang)_adapters", "adapters", key)
        path, _, own = legacy.partition(f".adapters.{name}.")
        _, is_rule, side = legacy.partition(f"shared_parameters.{name}.phm_rule")
        if is_rule:
            shared[f"A{side}"] = tensor
        elif (own == "scaling" or own in _NAMES) and (place := _place(path, backbone)):
            found.setdefault(place, {})[_NAMES.get(own, own)] = tensor
        else:
            raise _refused(f"the tensor {key!r}", "it is none of a bottleneck adapter or Compacter")
    if not found or not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise _damaged(f"It has no tensor of an adapter {name!r}, or one that is not finite.")
    for own in (shared, *found.values()):
        for left in [name for name in own if name.endswith("_left")]:
            rule = left.removesuffix("_left")
            own[rule] = own.pop(left) @ own.pop(f"{rule}_right")
    return found, shared


def _place(path: str, backbone: Backbone) -> Key | None:
    """Where the module at `path`, which holds an adapter, is."""
    stacks, names = [stack.name for stack in backbone.family.stacks], path.split(".")
    stack = next((name for name in stacks if len(stacks) == 1 or _TOWERS.get(name, name) in names), "")
    part = next((part for part, pattern in _MODULES.items() if re.fullmatch(pattern, path)), "")
    return (stack, int(next(filter(str.isdigit, names))), part) if stack and part else None


def _form(options: Config, found: dict[Key, Own], post_norm: bool) -> partial[Method]:
    """The method, but for its width."""
    parallel, *switches = (options[name] for name in _SWITCHES)
    after = ".norm" if post_norm else ".add"  # where there is no norm after the sum, this is the sum itself
    forms = {(False, True, True): ".out", (False, True, False): ".out", (True, True, True): ".add"}
    suffix = (forms | {(True, False, False): after}).get(tuple(switches))
    parts = [part for place, part in _PLACES.items() if options.get(place)]
    if parallel:
        suffix = "" if post_norm and options["original_ln_after"] else None
    if suffix is None or (suffix == ".add" and not post_norm and parts != ["ffn"]):
        asked = ", ".join(f"{name}={options.get(name)}" for name in (*_SWITCHES, *_PLACES))
        raise _refused(asked, f"{'post' if post_norm else 'pre'}-norm blocks have no such place here")
    known = _ACTIVATIONS | ({"gelu_new": "gelu_new"} if options["phm_layer"] else {})
    if (activation := options["non_linearity"]) not in known:
        raise _refused(f"non_linearity={activation!r}", f"known here are {', '.join(known)}")
    common = {"activation": known[activation], "roles": frozenset(f"{part}{suffix}" for part in parts)}
    scaling = options["scaling"]
    if not options["phm_layer"]:
        scale = 1.0 if isinstance(scaling, str) else float(scaling)
        kind = ParallelAdapter if parallel else Pfeiffer if suffix == ".add" else Houlsby
        return partial(kind, scale=scale, **common)
    if parallel or scaling != 1:
        raise _refused(f"phm_layer=True with is_parallel={parallel}, scaling={scaling!r}", "Compacter has neither")
    factor = next(iter(found.values())).get("down_s")
    kept = {"order": options["phm_dim"], "rank": None if factor is None else factor.shape[-1]}
    return partial(Compacter, **kept, shared_factors=bool(options["shared_phm_rule"]), **common)


def _runs(found: dict[Key, Own], options: Config, adapted: Adapted) -> list[tuple[int, int, int]]:
    """Start, stop and width of neighbouring blocks that are alike; those of one number must be so in all stacks."""
    runs: list[tuple[int, int, int]] = []
    for block in sorted({block for _, block, _ in found}):
        if not (stacks := {site.stack for site in adapted.sites if block < site.num_layers}):
            raise _damaged(f"It has an adapter in block {block}, which this backbone lacks.")
        own = {key: tensors for key, tensors in found.items() if key[1] == block}
        ups = [p for tensors in own.values() for name, p in tensors.items() if name in ("up", "up_s", "up_B")]
        widths = {p.shape[-1] if p.ndim < 3 else p.shape[0] * p.shape[1] for p in ups}
        if len(widths) != 1 or {stack for stack, _, _ in own} != stacks:
            asked = f"reduction_factor={options.get('reduction_factor')}, leave_out={options.get('leave_out')}"
            raise _refused(asked, f"the blocks {block} of all stacks have adapters of one width here, or none")
        width = widths.pop()
        start = runs.pop()[0] if runs and runs[-1][1:] == (block, width) else block
        runs.append((start, block + 1, width))
    return runs


def _params(adapted: Adapted, parts: Sequence[Method], found: dict[Key, Own], shared: Own, options: Config) -> Params:
    """The tensors as the method has them, checked against those that it would start with."""
    fresh = adapted.init(0)
    params: Params = {"shared": shared} if shared else {}
    for site in adapted.sites:
        own = found.pop((site.stack, site.layer, site.role.split(".")[0]), {})
        if isinstance(options["scaling"], str) and {"up", "up_bias", "scaling"} <= own.keys():
            scaling = own.pop("scaling")
            own |= {"up": own["up"] * scaling[:, None], "up_bias": own["up_bias"] * scaling}
        elif isinstance(options["scaling"], str):
            raise _damaged(f"At {site.name} it lacks the tensor of scaling={options['scaling']!r}, or what it scales.")
        number = [part.covers(site) for part in parts].index(True)
        own = {f"{number}.{name}" if len(parts) > 1 else name: p for name, p in own.items()}
        if options["phm_layer"] and not options["phm_bias"]:
            own |= {name: torch.zeros_like(p) for name, p in fresh[site.name].items() if name.endswith("_bias")}
        params[site.name] = own
    for site, own in fresh.items():
        got, expected = ({name: tuple(p.shape) for name, p in tree.items()} for tree in (params.get(site, {}), own))
        if got != expected:
            lost = "; save_adapter of a model without a head loses the shared rule" if site == "shared" else ""
            raise _damaged(f"At {site} it has {got or 'nothing'}, where this backbone has {expected}{lost}.")
    if extra := [*found, *(params.keys() - fresh.keys())]:
        raise _damaged(f"It has tensors for {extra[0]}, where this backbone or its configuration has none.")
    return params


def _refused(asked: str, reason: str) -> MethodError:
    todo = "Train an adapter without it, or use it in the adapters library."
    return MethodError(f"An adapter with {asked} was asked for.", f"It has {asked}: {reason}.", todo)


def _damaged(found: str) -> ArtifactError:
    todo = "Give what save_adapter wrote, adapter_config.json and adapter.safetensors, and the backbone that it is for."
    return ArtifactError("An adapter was asked for.", found.partition("\n")[0], todo)
