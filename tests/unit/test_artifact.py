"""Artifacts: to the bit on the way back, damage always noticed and named, an old one never lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handful import folders
from handful.artifact import Artifact, load, save, size_on_disk
from handful.attach import Adapted, attach
from handful.backbone import Backbone, from_model
from handful.errors import ArtifactError
from handful.methods import Method, methods, to_spec
from handful.methods.combine import union
from handful.methods.ia3 import IA3
from handful.methods.lora import LoRA
from handful.methods.prefix import PrefixTuning
from handful.methods.variants import OnLayers
from handful.predictor import Predictor
from handful.types import Batch, Example
from tiny import TINY, build, tiny_inputs
from tinytext import random_params, rows_mask, small, tiny_text, tokenizer

METHODS: dict[str, Method] = {
    **{name: small(name) for name in methods()},
    "union": union(small("lora"), small("houlsby"), small("bitfit")),
    "top": OnLayers(method=LoRA(rank=2), start=-1),
    "top-prefix": OnLayers(method=PrefixTuning(num_tokens=2), start=1),
    "nested": OnLayers(method=OnLayers(method=IA3(), start=0, stop=1), start=0),
}
LABELS = ("große Städte", "东京", 'a "quoted" / label', "🙂")


def made(method: Method | None, backbone: Backbone | None = None, **changes: Any) -> tuple[Artifact, Adapted | None]:
    """An artifact with random tensors."""
    backbone = backbone or tiny_text()
    generator = torch.Generator().manual_seed(5)
    head = {"weight": torch.randn(len(LABELS), 32, generator=generator), "bias": torch.randn(len(LABELS))}
    common: dict[str, Any] = {
        "recipe": "test", "backbone": backbone.id, "fingerprint": backbone.fingerprint, "labels": LABELS, "head": head,
        "features": {"kind": "views", "views": ["pool:1"], "marks": []}, "task": "größe", "notes": ("so ist's",),
        "cost": {"seconds": 0.1 + 0.2, "flops": None}, "temperature": 1 / 3,
    }  # fmt: skip
    if method is None:
        return Artifact(**common | changes), None
    adapted = attach(backbone, method)
    own = {
        "method": to_spec(method),
        "sites": [{"name": s.name, "role": s.role, "layer": s.layer} for s in adapted.sites],
        "params": random_params(adapted.init(0)),
        "features": {"kind": "pooled", "pooling": "mean", "scale": 8.0},
    }
    return Artifact(**common | own | changes), adapted


def identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(p.dtype == other[n].dtype and p.equal(other[n]) for n, p in one.items())


def equal(one: Artifact, other: Artifact) -> None:
    for name in Artifact.__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if name == "head":
            assert identical(a, b)
        elif name == "params":
            assert a.keys() == b.keys()
            assert all(identical(a[site], b[site]) for site in a)
        else:
            assert a == b, name


@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_back_to_the_bit(tmp_path: Path, name: str) -> None:
    artifact, _ = made(METHODS[name])
    back = load(save(artifact, tmp_path / "a"))
    equal(back, artifact)
    examples = [Example("some words"), Example("others")]
    first, second = (Predictor(each, tiny_text()).scores(examples).logits for each in (artifact, back))
    assert torch.equal(first, second)
    assert first.shape == (2, 4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("name", ["lora", "ia3", "prompt", "prefix"])
def test_other_architectures_come_back_too(tmp_path: Path, architecture: str, name: str) -> None:
    artifact, _ = made(METHODS[name], from_model(TINY[architecture](), id=architecture))
    equal(load(save(artifact, tmp_path / "a")), artifact)


def test_a_head_on_views_with_a_lexicon_comes_back(tmp_path: Path) -> None:
    artifact, _ = made(None)
    head = artifact.head | {"terms": torch.arange(7), "idf": torch.rand(7)}
    artifact = replace(artifact, head=head, kind="multilabel", text_pair=True, template="so: {text}", estimate={"n": 3})
    folder = save(artifact, tmp_path / "a")
    equal(load(folder), artifact)
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "handful.json", "head.safetensors"]
    assert size_on_disk(folder) == sum(len(file.read_bytes()) for file in folder.iterdir())


def test_what_is_written_is_for_others_to_read(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = save(made(METHODS["lora"])[0], tmp_path / "a")
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in folder.iterdir()} == {"0o644"}
    assert "东京" in (folder / "handful.json").read_text(encoding="utf-8")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert all(label in card for label in LABELS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(made(METHODS["lora"])[0], tmp_path_factory.mktemp("saved") / "a")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "a"))


FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors", "handful.json", "head.safetensors")


def refused(folder: Path, *words: str) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        load(folder)
    for word in (str(folder), *words):
        assert word in str(caught.value)
    assert caught.value.todo
    return caught.value


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed_and_its_file_named(folder: Path, name: str) -> None:
    file, rng = folder / name, random.Random(name)
    whole = file.read_bytes()
    every = range(len(whole))
    places = every[::3] if name == "handful.json" else {*every[:40], *every[-40:], *rng.sample(every, 60)}
    for place in places:
        other = rng.choice([whole[place] ^ (1 << rng.randrange(8)), rng.randrange(256), ord(" "), ord("\n"), ord("E")])
        if other != whole[place]:
            file.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_cut_and_missing_files_are_named(folder: Path, name: str) -> None:
    file = folder / name
    whole = file.read_bytes()
    for size in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        refused(folder, name)
    file.write_bytes(whole + b"\n")
    refused(folder, name)
    file.unlink()
    refused(folder, name)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest, and signs it as one who means to would."""
    content = json.loads((folder / "handful.json").read_text(encoding="utf-8"))
    content.pop("sha256")
    content["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in content["files"]}
    change(content)
    signed = content | {"sha256": folders._own_digest(content)}
    (folder / "handful.json").write_text(folders._json(signed), encoding="utf-8")


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a newer schema": (lambda content: content.update(schema_version=2), "2, which a newer handful writes"),
    "an unknown field": (lambda content: content.update(surprise=1), "handful.json is not what it should be"),
    "a missing field": (lambda content: content.pop("labels"), "handful.json is not what it should be"),
    "a field of another type": (lambda content: content.update(temperature="hot"), "handful.json is not what"),
    "a temperature of zero": (lambda content: content.update(temperature=0), "handful.json is not what"),
    "an unknown method": (lambda content: content["method"].update(name="magic"), "its method cannot be made here"),
    "a site too many": (lambda content: content["sites"].append({"name": "x", "role": "y", "layer": 0}), "its method"),
    "a label too few": (lambda content: content["labels"].pop(), "3 labels"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_sound_file_with_unsound_content_is_refused(folder: Path, name: str) -> None:
    change, words = CHANGES[name]
    rewritten(folder, change)
    refused(folder, words)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["head", "params"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: float, where: str) -> None:
    artifact, _ = made(METHODS["ia3"])
    tensor = artifact.head["bias"] if where == "head" else next(iter(artifact.params.values()))["l"]
    tensor[0] = value
    refused(save(artifact, tmp_path / "a"), "bias" if where == "head" else "ia3_l", "not finite")


@pytest.mark.parametrize(
    "head", [{"weight": torch.zeros(3, 32), "bias": torch.zeros(4)}, {"weight": torch.zeros(4, 32)}]
)
def test_a_head_of_another_shape_is_refused(tmp_path: Path, head: dict[str, Tensor]) -> None:
    refused(save(replace(made(None)[0], head=head), tmp_path / "a"), "its head has shapes")


def test_another_backbone_is_refused() -> None:
    artifact, _ = made(METHODS["lora"])
    other = from_model(build("bert", TINY["bert"].args[1], seed=1), tokenizer(), id="other")  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError) as caught:
        Predictor(artifact, other)
    for word in ("größe", "other", "tiny", other.fingerprint[:12], artifact.fingerprint[:12]):
        assert word in str(caught.value)


@pytest.mark.parametrize("path", ["nothing", "", "/", "README.md"])
def test_a_folder_that_is_no_artifact_is_refused(folder: Path, path: str) -> None:
    (folder.parent / "empty").mkdir()
    with pytest.raises(ArtifactError) as caught:
        load(folder.parent / "empty" / path if path != "README.md" else folder / path)
    assert "handful fit --out" in str(caught.value)


# -- saving over an older one ------------------------------------------------------------------------------------------


def newer() -> Artifact:
    return replace(made(METHODS["lora"])[0], task="newer")


def only(folder: Path, task: str) -> None:
    """The folder holds a sound artifact, and nothing lies beside it."""
    assert load(folder).task == task
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def no_space(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["os.fsync", "folders.write_json", "folders._seal", "Path.mkdir", "Path.rename"])
def test_a_full_disk_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    holder, name = where.split(".")
    monkeypatch.setattr({"os": os, "folders": folders, "Path": Path}[holder], name, no_space)
    with pytest.raises(ArtifactError, match="No space left on device") as caught:
        save(newer(), folder)
    monkeypatch.undo()
    assert caught.value.exit_status == 2
    only(folder, "größe")


def test_a_rename_that_fails_puts_the_old_one_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.rename, iter(range(10))
    monkeypatch.setattr(Path, "rename", lambda *args: no_space() if next(calls) == 1 else real(*args))
    with pytest.raises(ArtifactError):
        save(newer(), folder)
    only(folder, "größe")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    folder = small_disk / "a"
    save(made(None)[0], folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    big = replace(made(None)[0], head={"weight": torch.zeros(4, 8000), "bias": torch.zeros(4)})
    with pytest.raises(ArtifactError, match="No space left on device"):
        save(big, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    only(folder, "größe")


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("rename", [0, 1, 2])
def test_a_crash_around_the_renames_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, rename: int) -> None:
    """0: before the first; 1: between them; 2: before the old one is cleared away."""
    real, calls = Path.rename, iter(range(10))

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise _Killed

    monkeypatch.setattr(Path, "rename", lambda *args: killed() if next(calls) == rename else real(*args))
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **_: killed() if ".old" in str(args[0]) else None)
    with pytest.raises(_Killed):
        save(newer(), folder)
    monkeypatch.undo()
    assert load(folder).task == ("newer" if rename == 2 else "größe")
    save(newer(), folder)
    assert load(folder).task == "newer"
    assert not list(folder.parent.glob(".*.old"))


def test_an_older_one_is_replaced_whole(folder: Path) -> None:
    save(replace(made(None)[0], task="newer"), folder)
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "handful.json", "head.safetensors"]
    only(folder, "newer")


@pytest.mark.parametrize("holds", ["a file", "other files", "nothing"])
def test_a_place_that_holds_something_else_is_not_touched(tmp_path: Path, holds: str) -> None:
    target = tmp_path / "a"
    if holds == "a file":
        target.write_text("mine")
    else:
        target.mkdir()
        if holds == "other files":
            (target / "thesis.tex").write_text("mine")
    if holds == "nothing":
        save(newer(), target)
        only(target, "newer")
        return
    with pytest.raises(ArtifactError, match="holds no fitted task"):
        save(newer(), target)
    assert "mine" in (target if holds == "a file" else target / "thesis.tex").read_text()


def test_a_place_inside_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="is a file"):
        save(newer(), tmp_path / "file" / "a")


def test_the_present_folder_and_links_are_places_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, link = tmp_path / "deep" / "real", tmp_path / "link"
    place.mkdir(parents=True)
    link.symlink_to(place)
    save(newer(), link)
    assert link.is_symlink()
    assert load(link).task == load(place).task == "newer"
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    save(newer(), ".")
    assert load(empty).task == "newer"
    save(newer(), tmp_path / "new" / "deep" / "folder")
    assert load(tmp_path / "new" / "deep" / "folder").task == "newer"


# -- PEFT reads it -----------------------------------------------------------------------------------------------------

PEFT_READS = [
    (architecture, name)
    for architecture in ("bert", "llama")
    for name in ("lora", "ia3", "prompt", "prefix", "top")
    if (architecture, name) != ("bert", "prefix")
]
"""Not the prefix on BERT, for there peft has no way to keep real tokens at position 0; see test_peft.py."""


@pytest.mark.parametrize(("architecture", "name"), PEFT_READS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_peft_reads_it(tmp_path: Path, architecture: str, name: str) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    model = TINY[architecture]()
    model.save_pretrained(tmp_path / "backbone")
    artifact, adapted = made(METHODS[name], from_model(model, id=str(tmp_path / "backbone")))
    assert adapted is not None
    folder = save(artifact, tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = AutoModel.from_pretrained(tmp_path / "backbone")
        theirs = peft.PeftModel.from_pretrained(plain, str(folder)).eval()
    inputs = tiny_inputs(architecture, 3, 6)
    virtual = 3 if name == "prompt" else 0
    asked = dict(inputs)
    if name == "prefix":  # peft's real tokens start behind the prefix
        asked["position_ids"] = (torch.arange(6) + 3).expand(3, -1)
    with torch.no_grad():
        ours = adapted(artifact.params, Batch(asked, rows_mask(3)))
        hidden = theirs(**inputs).last_hidden_state[:, virtual:]
        frozen = AutoModel.from_pretrained(tmp_path / "backbone")(**inputs).last_hidden_state
    torch.testing.assert_close(hidden[ours.mask], ours.hidden[ours.mask], rtol=1e-4, atol=1e-5)
    assert (frozen - ours.hidden)[ours.mask].abs().max() > 1e-2
