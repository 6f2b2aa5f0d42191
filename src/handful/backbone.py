"""Loading a frozen backbone: a hub id, a local folder or an alias, through transformers' Auto classes."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful.errors import BackboneError
from handful.families import Family, families, num_positions
from handful.families import family_of as table_of
from handful.fingerprints import cached_fingerprint, complete, weights_fingerprint
from handful.packaged import PACKAGED, locate, quiet
from handful.primed import is_primed, read_primed
from handful.types import split_id

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from handful.sharding import Shards


@dataclass(frozen=True)
class Backbone:
    """A frozen, shared, pretrained transformer.

    id           what it was loaded by, and how the weights of its blocks are held: "minilm@int8"
    model        in evaluation mode, no parameter asks for a gradient
    tokenizer    None for backbones that read no text
    family       its role table
    fingerprint  sha256 of the weights' names, shapes, types and bytes; of quantised ones another
    pooling      "mean", "first" or "last": how states `[B, S, D]` become one vector `[B, D]`
    max_length   tokens that a text is cut to
    shards       of a backbone that is spread over ranks (`sharding.py`), what ties its parts together
    """

    id: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    family: Family
    fingerprint: str
    pooling: str
    max_length: int
    shards: Shards | None = field(default=None, repr=False, compare=False)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def __deepcopy__(self, memo: object) -> Backbone:
        return self  # frozen and shared: a copied estimator keeps the one that it was given

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def num_parameters(self) -> int:
        packed = sum(getattr(module, "packed", 0) for module in self.model.modules())
        return sum(parameter.numel() for parameter in self.model.parameters()) + packed


@cache
def shared(
    id: str,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    attention: str | None = None,
    shard: bool = False,
) -> Backbone:
    """`load`, once for each set of arguments in a process: backbones are frozen, so all may use the same one."""
    return load(id, dtype=dtype, device=device, attention=attention)


@cache
def aliases() -> dict[str, Callable[[], str]]:
    """Short name -> a function that gives the hub id or folder. Plug-ins: entry point group `handful.backbones`."""
    built_in = {name: partial(locate, name) for name in PACKAGED}
    return built_in | {point.name: point.load() for point in entry_points(group="handful.backbones")}


def base_of(id: str) -> str:
    """What a backbone is known by, without how its weights are held, and without what priming changed in them."""
    name, _ = split_id(id)
    return read_primed(name).base if is_primed(name) else name


def source_of(id: str) -> str:
    """The hub id or folder that a backbone's weights are read from, whatever was changed in them afterwards."""
    base = base_of(id)
    return aliases()[base]() if base in aliases() else base


def load(
    id: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    attention: str | None = None,
    shard: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Load a frozen backbone.

    `dtype` ("float32", "bfloat16", ...) defaults to float32; `attention` is transformers' `attn_implementation`;
    `shard` spreads the weights over the ranks that `distributed.start()` has joined, a block at a time;
    `quantize` holds the weights of the blocks in fewer bits, and `load("minilm@int8")` says the same.
    Remote code is never run. Raises BackboneError when the backbone cannot be had or has no role table.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    name, kind = (os.fspath(id), quantize) if quantize else split_id(os.fspath(id))
    if kind:
        from handful.quantize import check

        check(kind, shard=shard)
    primed = read_primed(name) if is_primed(name) else None
    base = primed.base if primed else name
    source = source_of(base)
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with quiet():
            model, told = AutoModel.from_pretrained(
                source, trust_remote_code=False, dtype="auto", output_loading_info=True, **options
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_found(base, error) from error
    missing = sorted(told["missing_keys"])
    if lacking := missing if family_of(model).pooling == "pooler" else complete(model, missing):
        raise _not_found(base, OSError(f"its files lack {len(lacking)} weights, {lacking[0]} first"))
    tokenizer = None
    if _reads_text(config.model_type):
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise _not_found(base, error) from error
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes one out of nothing
            raise _not_found(base, OSError("its tokenizer's files are missing"))
    print_ = cached_fingerprint(Path(source), model)
    if primed:
        print_ = primed.into(model, print_)
    target = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype or torch.float32
    try:
        if not isinstance(target, torch.dtype):
            raise TypeError(f"{dtype} is no number format")
        if not shard:
            torch.empty(0, device=device)  # moved in fewer bits, layer by layer
            model = model.to(device="cpu" if kind else device, dtype=target)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise BackboneError(
            f"The backbone {name!r} was asked for in {dtype or 'float32'} on {device}.",
            f"torch says: {str(error).splitlines()[0].rstrip('.:')}.",
            "Use a --dtype such as bfloat16 and a --device such as cuda, where there is one.",
        ) from error  # fmt: skip
    backbone = from_model(model, tokenizer, id=name, folder=source, fingerprint=print_)
    backbone = quantized(backbone, kind, device) if kind else backbone
    return sharded(backbone, target, device) if shard else backbone


def from_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    id: str = "",
    folder: str = "",
    fingerprint: str | None = None,
) -> Backbone:
    """A backbone from a model that is already in memory; it is frozen and put in evaluation mode."""
    model.requires_grad_(False).eval()
    family = family_of(model)
    settings = _sentence_settings(Path(folder)) if folder else {}
    limit = int(settings.get("max_seq_length") or _position_limit(model, tokenizer))
    return Backbone(
        id=id or model.config.model_type,
        model=model,
        tokenizer=tokenizer,
        family=family,
        fingerprint=fingerprint or weights_fingerprint(model.state_dict().items()),
        pooling=settings.get("pooling", family.pooling),
        max_length=limit,
    )


def sharded(backbone: Backbone, dtype: torch.dtype | None = None, device: Any = None) -> Backbone:
    """The backbone with its model spread over all ranks, in place. RequestError where there is but one."""
    from handful.sharding import shard

    shards = shard(backbone.model, backbone.family, dtype or backbone.dtype, device or backbone.device)
    return replace(backbone, shards=shards)


def quantized(backbone: Backbone, kind: str, device: Any = None) -> Backbone:
    """The backbone with the weights of its blocks held as `kind`, in place. BackboneError where that cannot be."""
    from handful.quantize import quantize

    quantize(backbone.model, backbone.family, kind, device or backbone.device)
    print_ = hashlib.sha256(f"{backbone.fingerprint}@{kind}".encode()).hexdigest()
    return replace(backbone, id=f"{backbone.id}@{kind}", fingerprint=print_)


def family_of(model: nn.Module) -> Family:
    """The role table of a model; BackboneError lists its linear layers and shows the table to write."""
    model_type: str = model.config.model_type  # type: ignore[union-attr, assignment]
    if model_type in families():
        return table_of(model.config)
    from torch import nn

    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    raise BackboneError(
        f"A backbone of architecture {model_type!r} was asked for.",
        f"No family has a role table for it. Its linear layers: {', '.join(linears[:40])}.",
        "Write one and register it under the entry point group handful.families:\n"
        f'    FAMILY = Family("{model_type}", ("{model_type}",), stacks=(Stack("encoder", blocks="PATH.TO.BLOCKS",\n'
        '        roles={"attention.query": "PATH.IN.BLOCK", "ffn.in": "...", "ffn.out": "..."}),))',
    )


def _not_found(name: str, error: Exception) -> BackboneError:
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0") else ""
    path = name.startswith((".", "/", "~")) and not os.path.exists(name)
    reason = "there is no such folder" if path else str(error).splitlines()[0].rstrip(".")
    return BackboneError(
        f"The backbone {name!r} was asked for.",
        f"It is no alias ({', '.join(aliases())}), and loading it as a folder or hub id failed{offline}: {reason}.",
        "Check the spelling and the network, or give a local folder written by save_pretrained.",
    )


def _reads_text(model_type: str) -> bool:
    """Whether a model of this type is given tokens, and so has a tokenizer."""
    family = families().get(model_type)
    return family is not None and family.reads_text


def _sentence_settings(folder: Path) -> dict[str, Any]:
    """Pooling and length that a sentence-transformers folder asks for, if it is one."""
    settings: dict[str, Any] = {}
    pooling, length = folder / "1_Pooling" / "config.json", folder / "sentence_bert_config.json"
    if pooling.is_file():
        asked = json.loads(pooling.read_text())
        names = {"pooling_mode_cls_token": "first", "pooling_mode_lasttoken": "last"}
        settings["pooling"] = next((ours for theirs, ours in names.items() if asked.get(theirs)), "mean")
    if length.is_file():
        settings["max_seq_length"] = json.loads(length.read_text()).get("max_seq_length")
    return settings


def _position_limit(model: nn.Module, tokenizer: Any) -> int:
    return int(min(num_positions(model.config) or 512, getattr(tokenizer, "model_max_length", None) or 512, 512))
