"""A backbone's output layer: final states -> scores of all tokens of its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from handful.backbone import Backbone, source_of
from handful.errors import BackboneError
from handful.packaged import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class _States:
    """What a body answers, of which its language model reads the states alone."""

    last_hidden_state: Tensor

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


class _Body(nn.Module):
    """In the place of a language model's body: it answers with the states that it is given as embeddings."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _States:
        return _States(inputs_embeds)


@dataclass(frozen=True)
class Vocabulary:
    """`vocabulary(states [..., D]) -> [..., V]`, by the code of transformers' own language model around the body.

    So what an architecture does between states and scores (a scale, a bias, a cap, a transform) is done here too.
    """

    language_model: PreTrainedModel = field(repr=False)

    def __call__(self, states: Tensor) -> Tensor:
        shape, given = states.shape, states.reshape(1, -1, states.shape[-1])
        if not self.language_model.config.is_encoder_decoder:
            found = self.language_model(inputs_embeds=given)
        elif hasattr(self.language_model, "encoder"):  # T5: the body's stacks lie bare
            found = self.language_model(encoder_outputs=(given,), decoder_inputs_embeds=given)
        else:
            found = self.language_model(inputs_embeds=given, decoder_input_ids=given.new_zeros(1, 1))
        return found.logits.reshape(*shape[:-1], -1)


_KNOWN: WeakKeyDictionary[nn.Module, Vocabulary] = WeakKeyDictionary()


def vocabulary(backbone: Backbone) -> Vocabulary:
    """The output layer of a backbone, read once where it is not the table of embeddings itself.

    BackboneError for a backbone that has none: not every checkpoint was saved with one.
    """
    if backbone.model not in _KNOWN:
        _KNOWN[backbone.model] = Vocabulary(_around(backbone))
    return _KNOWN[backbone.model]


def output_weights(backbone: Backbone) -> int:
    """Weights that a state is multiplied by on its way to scores of all tokens; BackboneError as `vocabulary`.

    From shapes alone: they need not be there.
    """
    kind = _kind(backbone)
    with torch.device("meta"):
        model = kind.from_config(backbone.model.config)
    body = _body_of(model)
    own = (module for name, module in model.named_modules() if name.partition(".")[0] not in body)
    return sum(module.weight.numel() for module in own if isinstance(module, nn.Linear))


def _body_of(model: Any) -> tuple[str, ...]:
    """Names of a language model's parts that are the backbone: one, or T5's stacks that lie bare."""
    prefix = model.base_model_prefix
    return (prefix,) if hasattr(model, prefix) else ("shared", "encoder", "decoder")


def _around(backbone: Backbone) -> PreTrainedModel:
    """transformers' language model with `_Body` in the place of the backbone."""
    kind = _kind(backbone)
    with torch.device("meta"):
        model = kind.from_config(backbone.model.config).eval()
    parts = _body_of(model)
    for name in parts:
        setattr(model, name, getattr(backbone.model, name) if parts[1:] else backbone.model)
    model.tie_weights()
    shape = backbone.device.type == "meta"  # a backbone without weights lacks none
    lacking = [] if shape else [name for name, p in _own(model, parts).items() if p.is_meta]
    _put(model, _read(backbone, kind, lacking) if lacking else {})
    model.tie_weights()  # what was read may be known by two names
    _put(model, {} if shape else _untied(backbone, kind, model, parts))
    for name in parts:
        setattr(model, name, _Body())
    return model.requires_grad_(False)


def _put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        trained = last in dict(module.named_parameters(recurse=False))
        setattr(module, last, nn.Parameter(value, requires_grad=False) if trained else value)


def _untied(backbone: Backbone, kind: Any, model: nn.Module, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """Weights outside of the body that are its own by configuration, but others in the files.

    Configurations of T5 1.1, and of what comes of it (T0, Flan-T5, mT5), say that all is tied, and only their files
    that it is not.
    """
    theirs = {id(p) for p in backbone.model.parameters()}
    tied = {
        name: p
        for name, p in model.named_parameters(remove_duplicate=False)
        if id(p) in theirs and name.partition(".")[0] not in parts
    }
    stored = _stored(source_of(backbone.id), list(tied))
    if stored is None:
        with suppress(BackboneError):
            stored = _read(backbone, kind, list(tied))
    found = {name: value.to(tied[name]) for name, value in (stored or {}).items()}
    return {name: value for name, value in found.items() if not torch.equal(value, tied[name])}


def _stored(source: str, names: list[str]) -> dict[str, Tensor] | None:
    """Those of the named weights that are in files that are here; None for files that cannot be looked into."""
    from safetensors import safe_open
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
    from transformers.utils.hub import cached_file

    quietly = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}

    def here(name: str) -> str | None:
        try:
            return cached_file(source, name, local_files_only=True, **quietly)
        except (OSError, ValueError):
            return None

    index = here(SAFE_WEIGHTS_INDEX_NAME)
    where = json.loads(Path(index).read_text())["weight_map"] if index else dict.fromkeys(names, SAFE_WEIGHTS_NAME)
    found: dict[str, Tensor] = {}
    for name in (name for name in names if name in where):
        if file := here(where[name]):
            with safe_open(file, "pt") as opened:
                found |= {name: opened.get_tensor(name)} if name in opened.keys() else {}  # noqa: SIM118
    old = not index and not here(SAFE_WEIGHTS_NAME) and (here(WEIGHTS_NAME) or here(WEIGHTS_INDEX_NAME))
    return None if old else found


def _own(model: nn.Module, body: tuple[str, ...]) -> dict[str, Tensor]:
    """Parameters and buffers outside of the body."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: p for name, p in found.items() if name.partition(".")[0] not in body}


def _read(backbone: Backbone, kind: Any, names: list[str]) -> dict[str, Tensor]:
    """Weights that are not the backbone's, from where it was read."""
    asked = f"Words were to be scored by {backbone.id!r}."
    todo = "Use a backbone that was saved with its language-model head."
    try:
        with quiet():
            model, told = kind.from_pretrained(
                source_of(backbone.id), trust_remote_code=False, dtype=backbone.dtype, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        found = f"Its output layer is not its table of embeddings, and cannot be read: {str(error).splitlines()[0]}"
        raise BackboneError(asked, found, todo) from error
    if missing := sorted(set(names) & set(told["missing_keys"])):
        raise BackboneError(asked, f"Its files lack the output layer ({missing[0]} first).", todo)
    held = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {name: held[name].detach().to(backbone.device) for name in names}


def _kind(backbone: Backbone) -> Any:
    """transformers' Auto class of language models of this architecture."""
    import transformers as tr

    config = backbone.model.config
    towers = {stack.name for stack in backbone.family.stacks}
    if config.is_encoder_decoder:
        kinds = [tr.AutoModelForSeq2SeqLM, tr.AutoModelForSpeechSeq2Seq]
    else:
        kinds = [tr.AutoModelForCausalLM] if "decoder" in towers else [tr.AutoModelForMaskedLM]
    for kind in kinds:
        if type(config) in kind._model_mapping:  # pyright: ignore[reportPrivateUsage]
            return kind
    raise BackboneError(
        f"Words were to be scored by {backbone.id!r}.", f"{config.model_type} has no words to answer with.",
        "Use a decoder, an encoder-decoder, or an encoder that was trained to fill in words.",
    )  # fmt: skip
