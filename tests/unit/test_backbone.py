"""Loading backbones: what is found, what is said where nothing is, and the fingerprint of the weights."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

from handful import backbone as backbones
from handful.backbone import aliases, from_model, load, shared
from handful.errors import BackboneError
from handful.fingerprints import weights_fingerprint
from tiny import TINY
from tinytext import save_tiny, tiny_text, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "bert")


def test_a_folder_is_loaded_frozen_and_whole(folder: Path) -> None:
    found = load(folder)
    assert found.id == str(folder)
    assert not found.model.training
    assert not any(p.requires_grad for p in found.model.parameters())
    assert found.tokenizer is not None
    assert (found.family.name, found.pooling, found.max_length) == ("bert", "mean", 64)
    assert found.fingerprint == tiny_text().fingerprint  # content, not name
    assert found.num_parameters == sum(p.numel() for p in TINY["bert"]().parameters())


def test_formats_and_attention(folder: Path) -> None:
    found = load(folder, dtype="bfloat16", attention="eager")
    assert found.dtype == torch.bfloat16
    assert found.model.config._attn_implementation == "eager"
    assert found.fingerprint == tiny_text().fingerprint  # of the weights on disk
    assert load(folder, dtype=torch.float64).dtype == torch.float64


def test_the_same_backbone_is_shared(folder: Path) -> None:
    assert shared(str(folder)) is shared(str(folder))
    assert shared(str(folder)) is not shared(str(folder), dtype="bfloat16")
    assert copy.deepcopy(tiny_text()) is tiny_text()


def test_the_fingerprint_is_of_the_content() -> None:
    model = TINY["bert"]()
    weights = dict(model.state_dict())
    assert weights_fingerprint(weights.items()) == weights_fingerprint(reversed(weights.items()))
    first = next(name for name, p in weights.items() if p.is_floating_point())
    changed = weights[first].clone()
    changed.view(-1)[0] = torch.nextafter(changed.view(-1)[0], torch.tensor(9.0))
    for other in (changed, weights[first].double(), weights[first].mT, weights[first].half()):
        assert weights_fingerprint((weights | {first: other}).items()) != weights_fingerprint(weights.items())
    renamed = {f"{name}x" if name == first else name: p for name, p in weights.items()}
    assert weights_fingerprint(renamed.items()) != weights_fingerprint(weights.items())


def test_the_fingerprint_is_computed_once_for_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    own = Path(shutil.copytree(folder, tmp_path / "model"))
    expected = load(own).fingerprint

    def never(_: object) -> str:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(backbones, "weights_fingerprint", never)
        assert load(own).fingerprint == expected
    (note,) = (tmp_path / "cache" / "fingerprints").iterdir()
    note.write_text("cut")
    assert load(own).fingerprint == expected
    model = TINY["bert"]()
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    model.save_pretrained(own)  # the same size at another time
    assert load(own).fingerprint != expected


def test_a_cache_that_cannot_be_written_is_no_failure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "file" / "cache"))
    assert load(folder).fingerprint == tiny_text().fingerprint


@pytest.mark.parametrize("name", ["no/such-model", "nothing-of-this-name", "./nowhere", ""])
def test_what_is_not_there(name: str) -> None:
    with pytest.raises(BackboneError) as caught:
        load(name)
    text = str(caught.value)
    assert repr(name) in text
    assert "minilm" in text
    assert "HF_HUB_OFFLINE is set" in text
    assert "\n" not in text
    assert len(text) < 700


@pytest.mark.parametrize("damage", ["cut", "no weights", "no tokenizer", "broken config"])
def test_a_damaged_folder(folder: Path, tmp_path: Path, damage: str) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "model"))
    if damage == "cut":
        whole = (own / "model.safetensors").read_bytes()
        (own / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    elif damage == "no weights":
        (own / "model.safetensors").unlink()
    elif damage == "no tokenizer":
        (own / "tokenizer.json").unlink()
        (own / "tokenizer_config.json").unlink()
    else:
        (own / "config.json").write_text("{")
    with pytest.raises(BackboneError) as caught:
        load(own)
    assert str(own) in str(caught.value)


def test_a_checkpoint_without_a_pooler_is_the_same_backbone_each_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "model"))
    weights = load_file(own / "model.safetensors")
    save_file({n: p for n, p in weights.items() if "pooler" not in n}, own / "model.safetensors", {"format": "pt"})
    prints = set()
    for run in ("a", "b"):
        monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / run))
        torch.manual_seed(ord(run))
        prints.add(load(own).fingerprint)
    assert len(prints) == 1
    assert prints != {load(folder).fingerprint}
    assert capfd.readouterr().err == ""


def test_a_checkpoint_without_weights_that_are_needed_is_none(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "model"))
    weights = load_file(own / "model.safetensors")
    gone = next(name for name in weights if "attention.self.key" in name)
    save_file({n: p for n, p in weights.items() if n != gone}, own / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackboneError, match=f"lack 1 weights, {re.escape(gone)} first"):
        load(own)


def test_an_architecture_without_a_table_shows_the_table_to_write() -> None:
    model = TINY["bert"]()
    model.config.model_type = "fancy"
    with pytest.raises(BackboneError) as caught:
        from_model(model)
    text = str(caught.value)
    for word in ("'fancy'", "encoder.layer.0.attention.self.query", "handful.families", 'Family("fancy"'):
        assert word in text


def test_sentence_settings_are_read(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "model"))
    (own / "1_Pooling").mkdir()
    (own / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    (own / "sentence_bert_config.json").write_text('{"max_seq_length": 17}')
    found = load(own)
    assert (found.pooling, found.max_length) == ("first", 17)


def test_a_plug_in_may_bring_a_short_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**aliases(), "mine": lambda: str(folder)}
    monkeypatch.setattr(backbones, "aliases", lambda: known)
    found = load("mine")
    assert (found.id, found.fingerprint) == ("mine", tiny_text().fingerprint)


def test_remote_code_is_never_run(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "model"))
    (own / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\nclass M: pass\n")
    config = (own / "config.json").read_text().rstrip().removesuffix("}")
    config += ', "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}'
    (own / "config.json").write_text(config)
    assert isinstance(load(own).model, BertModel)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "options", [{"dtype": "floaty"}, {"dtype": "Tensor"}, {"device": "cuda:7"}, {"device": "moon"}]
)
def test_a_format_or_device_that_is_not_there(folder: Path, options: dict[str, str]) -> None:
    with pytest.raises(BackboneError) as caught:
        load(folder, **options)  # type: ignore[arg-type]
    assert next(iter(options.values())) in str(caught.value)


def test_positions_bound_the_length() -> None:
    assert from_model(TINY["bert"](), tokenizer()).max_length == 64
    assert from_model(TINY["t5"]()).max_length == 512
