"""A fitted task as a folder that `peft` reads, with the class head, which PEFT has no place for, beside it.

adapter_config.json        PEFT's configuration
adapter_model.safetensors  PEFT's tensors
head.safetensors           `weight [C, D]` and `bias [C]` for pooled states of length one, scale and temperature in them
head.json                  the labels in the head's order, and how a text becomes what the head reads
README.md                  the model card, with the lines of Python that answer
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes
from torch import Tensor

from handful import artifact as artifacts
from handful.artifact import Artifact
from handful.attach import attach
from handful.backbone import Backbone, shared
from handful.card import model_card
from handful.console import out_console, print_json, quiet_libraries
from handful.errors import ArtifactError, HandfulWarning, MethodError
from handful.forward import called
from handful.methods import from_spec
from handful.peft_format import base_name, save_peft
from handful.peft_format.kinds import FORMS, innermost
from handful.types import split_id

HEAD, ABOUT, CARD = "head.safetensors", "head.json", "README.md"
_METHODS = tuple(name for name in FORMS if name != "prefix")
_OTHERWISE = "Fit it with another method (handful fit ... --recipe lora), or answer with handful predict."


def export(folder: Path, out: Path, *, backbone: str | None, as_json: bool) -> None:
    """`handful export`."""
    quiet_libraries()
    fitted = artifacts.load(folder)
    asked = f"The fitted task in {folder} was to be exported for PEFT to {out}."
    try:
        _check(fitted, out)
        frozen = shared(backbone or fitted.backbone)
        fitted.check_backbone(frozen)
        lines = write(fitted, frozen, out)
    except MethodError as error:
        raise MethodError(asked, error.found, error.todo if fitted.method is None else _OTHERWISE) from error
    except ArtifactError as error:
        raise ArtifactError(asked, error.found, error.todo) from error
    if kind := split_id(fitted.backbone)[1]:
        warnings.warn(
            f"The task was fitted on {kind} weights, and PEFT puts it on {base_name(frozen)} in full: answers differ a "
            "little, see docs/formats.md.",
            HandfulWarning,
            stacklevel=2,
        )
    files = sorted(file.name for file in out.iterdir())
    if as_json:
        size = artifacts.size_on_disk(out)
        print_json({"out": str(out), "files": files, "bytes_on_disk": size, "base": base_name(frozen), "python": lines})
        return
    out_console.print(f"{out}: {', '.join(files)}", markup=False, highlight=False, soft_wrap=True)
    out_console.print(
        f"PEFT has no place for the class head: it is in {HEAD}, its labels are in {ABOUT}. To answer with peft:\n",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    sys.stdout.write("\n".join(lines) + "\n")


def write(fitted: Artifact, backbone: Backbone, out: Path) -> list[str]:
    """Writes the folder, through a temporary sibling that is renamed; returns the lines that answer with it in peft.

    MethodError for what PEFT cannot hold; ArtifactError for a folder that cannot be written, and nothing there changed.
    """
    assert fitted.method is not None
    lines = python_lines(fitted, backbone, out)
    target = out.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        save_peft(attach(backbone, from_spec(fitted.method)), fitted.params, temporary)
        (temporary / HEAD).write_bytes(to_bytes(_head(fitted)))
        about = json.dumps(_about(fitted, backbone), indent=1, ensure_ascii=False)
        (temporary / ABOUT).write_text(about + "\n", encoding="utf-8")
        card = model_card(fitted, library="peft", use=["```python", *lines, "```"])
        (temporary / CARD).write_text(card, encoding="utf-8")
        for file in temporary.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        if target.exists():
            target.rmdir()  # it is empty
        temporary.rename(target)
    except OSError as error:
        raise _unwritable(error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return lines


def python_lines(fitted: Artifact, backbone: Backbone, out: Path) -> list[str]:
    """Five lines of Python that answer with the folder `out` in peft. MethodError where peft would answer otherwise."""
    base, tokenizer = base_name(backbone), backbone.tokenizer
    assert tokenizer is not None
    texts = "['a text', 'another']"
    pairs = ", ['its pair', 'another']" if fitted.text_pair else ""
    if fitted.template is not None:
        filled = f"{fitted.template!r}.replace('{{text}}', text)"
        if "{text_pair}" in fitted.template:
            pair, pairs = "its pair" if fitted.text_pair else "", ""
            filled += f".replace('{{text_pair}}', {pair!r})"
        texts = f"[{filled} for text in {texts}]"
    end = tokenizer.eos_token
    padded = f", pad_token={end!r}" if tokenizer.pad_token in (None, end) else ""
    rows = f"transformers.AutoTokenizer.from_pretrained({base!r}{padded})({texts}{pairs}, padding=True, padding_side="
    rows += f"'right', truncation=True, max_length={backbone.max_length}, return_tensors='pt')"
    model = f"transformers.AutoModel.from_pretrained({base!r}, dtype=torch.float32)"
    labels = f"json.load(open({str(out / ABOUT)!r}, encoding='utf-8'))['labels']"
    scores = f"torch.nn.functional.linear(x, **safetensors.torch.load_file({str(out / HEAD)!r}))"
    return [
        "import json, peft, safetensors.torch, torch, transformers",
        f"rows = {rows}",
        f"model = peft.PeftModel.from_pretrained({model}, {str(out)!r}).eval()",
        f"x = {_pooled(fitted, backbone)}",
        f"print({labels}, {scores}.{_squash(fitted)})",
    ]


def _squash(fitted: Artifact) -> str:
    return "sigmoid()" if fitted.kind == "multilabel" else "softmax(-1)"


def _pooled(fitted: Artifact, backbone: Backbone) -> str:
    """The expression of what the head reads, `[B, D]`, from `model` and `rows`."""
    states, mask = _states(fitted, backbone), "rows['attention_mask']"
    if backbone.model.config.is_encoder_decoder or fitted.features["pooling"] == "first":
        pooled = f"{states}[:, 0]"
    elif fitted.features["pooling"] == "last":
        pooled = f"{states}[range(len({mask})), {mask}.sum(1) - 1]"
    else:  # of length one, the sum is the mean
        pooled = f"({states} * {mask}[..., None]).sum(1)"
        pooled += "" if fitted.features["scale"] is not None else f" / {mask}.sum(1, keepdim=True)"
    return pooled if fitted.features["scale"] is None else f"torch.nn.functional.normalize({pooled}, dim=-1)"


def _states(fitted: Artifact, backbone: Backbone) -> str:
    """The expression of the final states of the rows' tokens. An encoder-decoder's decoder reads one start token."""
    spec: dict[str, Any] = innermost(fitted.method or {})
    names: list[str] = list(getattr(backbone.tokenizer, "model_input_names", ()))
    path, config = called(backbone, names), backbone.model.config
    virtual = spec["options"]["num_tokens"] if spec["name"] in ("prompt", "prefix") else 0
    if spec["name"] == "prefix":
        raise _differs(f"It counts the positions of real tokens behind a prefix from {virtual}, handful from 0")
    if virtual and hasattr(config, "text_config"):
        raise _differs("It looks for the embeddings of texts in the first part of a model, which here reads images")
    if virtual and fitted.text_pair and "token_type_ids" in names:
        raise _differs("It gives no token types beside virtual tokens, and they tell the two texts of a pair apart")
    given = "**rows"
    if config.is_encoder_decoder:
        start = getattr(config, "decoder_start_token_id", None) or 0
        given += f", decoder_input_ids=torch.full((len(rows['input_ids']), 1), {start})"
    states = f"model{path and f'.base_model.model.{path}'}({given}).last_hidden_state"
    return f"{states}[:, {virtual}:]" if virtual and not config.is_encoder_decoder else states


def _head(fitted: Artifact) -> dict[str, Tensor]:
    """The head for states of length one: temperature, and where there is one the scale, are in it."""
    weight, bias = (fitted.head[name].detach().cpu() for name in ("weight", "bias"))
    scale = fitted.features["scale"] or 1.0
    return {"weight": (weight * (scale / fitted.temperature)).contiguous(), "bias": bias / fitted.temperature}


def _about(fitted: Artifact, backbone: Backbone) -> dict[str, Any]:
    return {
        "labels": list(fitted.labels), "kind": fitted.kind, "probabilities": _squash(fitted).partition("(")[0],
        "pooling": fitted.features["pooling"], "normalized": fitted.features["scale"] is not None,
        "scale": fitted.features["scale"], "temperature": fitted.temperature, "max_length": backbone.max_length,
        "template": fitted.template, "text_pair": fitted.text_pair, "task": fitted.task, "recipe": fitted.recipe,
        "backbone": fitted.backbone, "fingerprint": fitted.fingerprint, "seed": fitted.seed,
        "estimate": fitted.estimate,
    }  # fmt: skip


def _check(fitted: Artifact, out: Path) -> None:
    """MethodError for a task without a method; ArtifactError for a folder that cannot be made, or is not empty."""
    if fitted.kind == "tagging":
        raise MethodError(
            "", "It tags words, and what is exported answers with classes of texts.", "Answer with handful predict."
        )
    if fitted.features["kind"] in artifacts.HEADLESS:
        found = "It answers in words after a prompt, and what is exported answers by a head of classes."
        raise MethodError("", found, "Answer with handful predict.")
    if fitted.method is None or fitted.features["kind"] != "pooled":
        name = "no method" if fitted.method is None else "no method alone"
        raise MethodError(
            "", f"Its recipe {fitted.recipe} tunes {name}: what it learned is a head on the frozen backbone.",
            f"Fit it with a method that PEFT has (handful fit ... --recipe {', '.join(_METHODS)}), or answer with "
            "handful predict.",
        )  # fmt: skip
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            found = "It exists and is not empty." if out.is_dir() else "It is a file."
            raise ArtifactError("", found, "Choose a new folder, or empty this one.")
    except OSError as error:
        raise _unwritable(error) from error
    artifacts.check_target(out)


def _unwritable(error: OSError) -> ArtifactError:
    found = f"The system says: {error.strerror or error}. Nothing was changed there."
    return ArtifactError("", found, "Free some space or choose another folder.")


def _differs(found: str) -> MethodError:
    return MethodError("", f"PEFT would not answer as handful. {found}.")
