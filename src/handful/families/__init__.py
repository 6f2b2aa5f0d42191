"""Families: tables from roles to module paths. A family knows no method.

To add one, write a module with a `FAMILY` constant and list it in `_MODULES`; plug-ins use the entry point group
`handful.families`. Roles:

    attention.query|key|value|out|norm        self-attention projections and the norm beside them
    attention.query_norm|key_norm|post_norm   extra norms of some decoders
    attention.core                            the module that calls the attention function (virtual keys and values)
    cross.query|key|value|out|norm|core       the same for cross-attention
    ffn.in|gate|out|norm|post_norm            the feed-forward network (`gate` is the activated half of a gated one)
    embeddings, embeddings.norm               outside the blocks: the token table and the norm before the first block,
    embeddings.projection[.norm]              what brings narrow embeddings, features or patches to the hidden width,
    final.norm, projection                    the norm after the last block, the projection to a joint space,
    pooler, pooler.norm|in|out                the model's own pooler: one layer, or a norm and a feed-forward network

A role names a module that the model *calls* with the states of its rows; weights that are read without a call
(WavLM's attention) have no role. `attach` derives, for every family: `attention`, `cross` and `ffn` (a whole sub-layer
from its input to its output), `attention.add` and `ffn.add` (the residual sum after it), and `hidden_states` (all
blocks' outputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeAlias

from handful.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

_MODULES = (
    "bart",
    "bert",
    "clip",
    "deberta",
    "dinov2",
    "distilbert",
    "gemma",
    "gpt2",
    "llama",
    "modernbert",
    "mpnet",
    "siglip",
    "t5",
    "vit",
    "wav2vec2",
    "wavlm",
    "whisper",
)


@dataclass(frozen=True)
class Slice:
    """Part `index` of `parts` equal slices of the output of one fused projection."""

    path: str
    index: int
    parts: int


Path: TypeAlias = "str | Slice | tuple[str | Slice, ...]"
"""A place that must exist, or a tuple of candidates: the first that exists, and where none does the role is absent."""


@dataclass(frozen=True)
class Stack:
    """One tower of blocks.

    name    "encoder", "decoder", "vision", "text"
    blocks  path of the list of blocks from the model, or candidates
    roles   role -> path inside a block
    outer   role -> path from the model, for what is outside the blocks
    post_norm  True where the norm follows the residual sum (BERT), False where it precedes the sub-layer (T5, Llama)
    resumable  True where a block's output alone, with the model's inputs, determines all later blocks
    when    attribute of the configuration -> values for which this stack is the right one; empty: always
    """

    name: str
    blocks: str | tuple[str, ...]
    roles: Mapping[str, Path]
    outer: Mapping[str, Path] = field(default_factory=dict[str, Path])
    post_norm: bool = False
    resumable: bool = True
    when: Mapping[str, tuple[object, ...]] = field(default_factory=dict[str, "tuple[object, ...]"])


@dataclass(frozen=True)
class Family:
    """A role table for the architectures named by `model_types` (the configuration's `model_type`).

    pooling  how a sequence of states becomes one vector when the backbone does not say: "mean", "first", "last", or
             "pooler" (the output's own `pooler_output`)
    entry    input name -> path of the module to call; the first name that the inputs hold decides; "", and no entry at
             all, call the model. Only stacks inside the called module take part.
    norm_offset  what every norm adds to its weight before it multiplies (Gemma: 1)
    """

    name: str
    model_types: tuple[str, ...]
    stacks: tuple[Stack, ...]
    pooling: str = "mean"
    entry: Mapping[str, str] = field(default_factory=dict[str, str])
    norm_offset: float = 0.0

    @property
    def architecture(self) -> str:
        """ "encoder-decoder", or the name of the first tower: "encoder", "decoder", "vision", ..."""
        towers = [stack.name for stack in self.stacks]
        return "encoder-decoder" if {"encoder", "decoder"} <= set(towers) else towers[0]

    @property
    def reads_text(self) -> bool:
        """Whether tokens go in: images and sounds go into others, though what these answer may be text."""
        embeds = any("embeddings" in stack.outer for stack in self.stacks)
        return embeds and (not self.entry or "input_ids" in self.entry)


@cache
def families() -> dict[str, Family]:
    """model_type -> family, built-in tables first, then plug-ins."""
    tables: list[Family] = [import_module(f"{__name__}.{name}").FAMILY for name in _MODULES]
    tables += [point.load() for point in entry_points(group="handful.families")]
    return {model_type: family for family in tables for model_type in family.model_types}


def family_of(config: Any) -> Family:
    """The family of a model's configuration, with only the stacks whose `when` it meets. Raises BackboneError."""
    family = families().get(config.model_type)
    if family is None:
        raise BackboneError(
            f"No role table for the architecture {config.model_type!r}.",
            f"Known: {', '.join(sorted(families()))}.",
            "Choose one of these, or add a table by the entry point group handful.families.",
        )
    fits = [
        all(getattr(config, name, None) in values for name, values in stack.when.items()) for stack in family.stacks
    ]
    return replace(family, stacks=tuple(s for s, fit in zip(family.stacks, fits, strict=True) if fit))


def text_config(config: Any) -> Any:
    """The part of a model's configuration that is about text."""
    return getattr(config, "text_config", config)


def num_positions(config: Any) -> int | None:
    """Tokens that a model has positions for, None where they are relative or not said."""
    config = text_config(config)
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)


def locate(root: nn.Module, path: Path) -> str | Slice | None:
    """The candidate of `path` that exists under `root`, None where none does. AttributeError: a must does not exist."""
    candidates = path if isinstance(path, tuple) else (path,)
    for candidate in candidates:
        try:
            root.get_submodule(candidate.path if isinstance(candidate, Slice) else candidate)
        except AttributeError:
            if not isinstance(path, tuple):
                raise
        else:
            return candidate
    return None
