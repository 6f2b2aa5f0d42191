"""`handful export`: a folder that `peft` itself reads, with lines of Python that answer as `handful predict` does."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

from commandline import call
from handful import artifact as artifacts
from handful import attach, load_backbone, load_peft
from handful.artifact import Artifact
from handful.backbone import Backbone
from handful.errors import MethodError
from handful.exporting import write
from handful.methods import Method, method, to_spec
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.methods.prefix import PrefixTuning
from handful.methods.prompt import PromptTuning
from handful.predictor import Predictor
from handful.types import Example, Task
from tiny import HIDDEN, TINY
from tinytext import random_params, save_tiny, tiny_multilabel, tiny_task, tokenizer, write_task

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

FILES = {"adapter_config.json", "adapter_model.safetensors", "head.safetensors", "head.json", "README.md"}
TEXTS = "['a text', 'another']"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a backbone and rows, worked in on one thread."""
    folder = tmp_path_factory.mktemp("export")
    save_tiny(folder / "tiny")
    write_task(folder / "train.csv", rows=6)
    (folder / "new.txt").write_text("abc fgh\nklm\na b c d e f g\n")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fit(place: Path) -> Callable[[str], str]:
    def fitted(recipe: str, *options: str) -> str:
        name = "-".join([recipe.partition(":")[0], *options]).replace("-", "")
        if not (place / name).exists():
            status, _, err = call("fit", "train.csv", "--backbone", "tiny", "--recipe", recipe, "--out", name, *options)
            assert status == 0, err
        return name

    return fitted


def answered(lines: list[str], texts: str, model: Any = None) -> tuple[list[str], Tensor]:
    """What the lines print when asked `texts` in place of their own; with another `model` if one is given."""
    seen: list[Any] = []
    names: dict[str, Any] = {"print": lambda *values: seen.extend(values)}
    rows = [line.replace(TEXTS, texts) for line in lines]
    if model is not None:
        rows[2:4] = ["model = other", rows[3].replace("[:, 3:]", "")]  # it has no virtual tokens
    exec("\n".join(rows), names | {"other": model})
    labels, scores = seen
    return labels, scores.detach()


FITTED = ["lora:rank=2:steps=8", "dora:rank=2:steps=8:num_folds=0", "layernorm:steps=8:num_folds=0"]
FITTED += ["ia3:steps=8:num_folds=0", "vera:rank=5:steps=8:num_folds=0", "prompt:num_tokens=3:steps=8:num_folds=0"]


@pytest.mark.parametrize("recipe", FITTED)
def test_peft_answers_as_predict_does(place: Path, fit: Callable[..., str], recipe: str) -> None:
    task = fit(f"{recipe}:lr=0.05")
    out = f"out/{task}"
    status, said, err = call("export", task, "--out", out)
    assert status == 0, err
    assert {path.name for path in Path(out).iterdir()} == FILES
    assert [path.name for path in Path("out").glob(".*")] == []
    lines = said[said.index("import ") :].splitlines()
    assert len(lines) == 5
    assert "no place for the class head" in said
    assert "\n".join(lines) in (place / out / "README.md").read_text()

    texts = repr(Path("new.txt").read_text().splitlines())
    labels, found = answered(lines, texts)
    expected = [json.loads(line)["scores"] for line in call("predict", task, "new.txt")[1].splitlines()]
    assert labels == list(expected[0])
    own = torch.tensor([list(row.values()) for row in expected])
    torch.testing.assert_close(found, own, rtol=0, atol=1e-5)
    _, frozen = answered(lines, texts, AutoModel.from_pretrained("tiny").eval())
    assert (frozen - found).abs().max() > 1e-3  # what was learned is in it


def test_nothing_of_the_head_is_lost_and_the_folder_comes_back(place: Path, fit: Callable[..., str]) -> None:
    task = fit("lora:rank=2:steps=8:lr=0.05")
    status, said, err = call("export", task, "--out", "whole", "--json")
    assert status == 0, err
    shown, fitted = json.loads(said), artifacts.load(task)
    assert shown.keys() == {"out", "files", "bytes_on_disk", "base", "python"}
    assert set(shown["files"]) == FILES
    assert shown["base"] == "tiny"
    about, head = json.loads(Path("whole/head.json").read_text()), load_file("whole/head.safetensors")
    for name in ("labels", "kind", "temperature", "template", "text_pair", "fingerprint", "estimate", "backbone"):
        kept = getattr(fitted, name)
        assert about[name] == (list(kept) if name == "labels" else kept)
    assert (about["max_length"], about["pooling"], about["scale"]) == (64, "mean", 8.0)
    assert about["temperature"] != 1
    torch.testing.assert_close(head["weight"] * about["temperature"] / about["scale"], fitted.head["weight"])
    torch.testing.assert_close(head["bias"] * about["temperature"], fitted.head["bias"])
    back, params = load_peft("whole", load_backbone("tiny"))
    assert to_spec(back) == fitted.method
    assert all(torch.equal(params[site][name], p) for site, own in fitted.params.items() for name, p in own.items())


def test_a_quantised_backbone_is_named_without_its_ending(place: Path, fit: Callable[..., str]) -> None:
    task = fit("lora:rank=2:steps=8:num_folds=0", "--quantize", "int8")
    status, said, err = call("export", task, "--out", "eight", "--json")
    assert status == 0
    assert "warning: The task was fitted on int8 weights" in err
    assert json.loads(Path("eight/adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    assert json.loads(Path("eight/head.json").read_text())["backbone"] == "tiny@int8"
    _, found = answered(json.loads(said)["python"], repr(Path("new.txt").read_text().splitlines()))
    own = [list(json.loads(line)["scores"].values()) for line in call("predict", task, "new.txt")[1].splitlines()]
    torch.testing.assert_close(found, torch.tensor(own), rtol=0, atol=0.02)


# -- tasks and backbones of other kinds --------------------------------------------------------------------------------


def made(backbone: Backbone, own: Method, task: Task, **features: Any) -> Artifact:
    """A fitted task with parameters and a head of noise."""
    adapted, generator = attach(backbone, own), torch.Generator().manual_seed(0)
    size = (len(task.labels), HIDDEN)
    head = {"weight": torch.randn(size, generator=generator), "bias": torch.randn(size[0], generator=generator)}
    sites = [{"name": site.name, "role": site.role, "layer": site.layer} for site in adapted.sites]
    return Artifact.of(
        task, backbone, recipe="made", method=to_spec(own), sites=sites, params=random_params(adapted.init(0)),
        head=head, features={"kind": "pooled", "pooling": backbone.pooling, "scale": 8.0} | features, temperature=1.3,
    )  # fmt: skip


def same(fitted: Artifact, backbone: Backbone, out: Path, examples: list[Example]) -> None:
    """The lines as they are, which ask about `examples`, answer as the predictor."""
    _, found = answered(write(fitted, backbone, out), TEXTS)
    expected = Predictor(fitted, backbone).scores(examples).probabilities(fitted.kind)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


SINGLE = [Example("a text"), Example("another")]
PAIRS = [Example("a text", "its pair"), Example("another", "another")]
TASKS: dict[str, tuple[Task, str | None, list[Example], dict[str, Any]]] = {
    "several": (tiny_multilabel(), None, SINGLE, {}),
    "pairs": (tiny_task(pairs=True), None, PAIRS, {}),
    "template": (tiny_task(), "is 'it' {text}?", SINGLE, {}),
    "pairs in one": (
        tiny_task(pairs=True),
        "{text_pair} {text}",
        [Example(text, "its pair") for text in ("a text", "another")],
        {},
    ),
    "first, as long as it is": (tiny_task(), None, SINGLE, {"pooling": "first", "scale": None}),
    "mean, as long as it is": (tiny_task(), None, SINGLE, {"scale": None}),
}


@pytest.mark.parametrize("case", TASKS)
def test_tasks_of_every_kind(place: Path, tmp_path: Path, case: str) -> None:
    task, template, examples, features = TASKS[case]
    backbone = load_backbone("tiny")
    fitted = made(backbone, LoRA(rank=2), task, **features)
    fitted = Artifact(**vars(fitted) | {"template": template})
    same(fitted, backbone, tmp_path / "out", examples)


OTHERS: dict[str, tuple[str, Method]] = {
    "a decoder's start token": ("t5", LoRA(rank=2)),
    "virtual tokens of an encoder": ("bart", PromptTuning(num_tokens=3)),
    "no padding token, the last state": ("gpt2", LayerNormTuning()),
    "virtual tokens, the last state": ("qwen2", PromptTuning(num_tokens=3)),
    "a part of the model": ("clip", LoRA(rank=2)),
    "a width that peft does not find": ("distilbert", PromptTuning(num_tokens=3)),
}


def saved(name: str, folder: Path, *, padded: bool = True) -> Backbone:
    model, reader = TINY[name](), tokenizer()
    if model.config.is_encoder_decoder:
        model.config.decoder_start_token_id = 2
    if not padded:
        reader.pad_token, reader.eos_token = None, "[SEP]"
    model.save_pretrained(folder)
    reader.save_pretrained(folder)
    return load_backbone(folder)


@pytest.mark.parametrize("case", OTHERS)
def test_backbones_of_every_kind(tmp_path: Path, case: str) -> None:
    name, own = OTHERS[case]
    backbone = saved(name, tmp_path / name, padded=not case.startswith("no padding"))
    same(made(backbone, own, tiny_task()), backbone, tmp_path / "out", SINGLE)


def test_what_peft_would_answer_otherwise_is_refused(tmp_path: Path) -> None:
    backbone = saved("bert", tmp_path / "bert")
    backbone.tokenizer.model_input_names.append("token_type_ids")  # type: ignore[union-attr]
    pairs = made(backbone, PromptTuning(num_tokens=3), tiny_task(pairs=True))
    prefix = made(backbone, PrefixTuning(num_tokens=3), tiny_task())
    both = saved("gemma3", tmp_path / "gemma3")
    images = made(both, PromptTuning(num_tokens=3), tiny_task())
    for fitted, base, words in (
        (pairs, backbone, "token types beside virtual tokens"),
        (prefix, backbone, "positions of real tokens"),
        (images, both, "reads images"),
    ):
        with pytest.raises(MethodError, match=f"would not answer as handful.*{words}"):
            write(fitted, base, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "gemma3"]


# -- mistakes ----------------------------------------------------------------------------------------------------------


def refused(arguments: list[object], words: list[str], place: Path) -> None:
    """Status 2, one line that says what was asked, found and can be done, and nothing written."""
    before = sorted(place.rglob("*"))
    status, out, err = call("export", *arguments)
    (line,) = err.splitlines()
    assert (status, out) == (2, "")
    assert line.startswith("error: ")
    assert [word for word in words if word not in line] == []
    assert sorted(place.rglob("*")) == before


def test_what_peft_cannot_hold_is_refused_by_name(place: Path, fit: Callable[..., str]) -> None:
    for recipe in ("probe", "prototypes", "default"):
        words = [f"task in {recipe}", f"recipe {recipe} tunes no method", "--recipe lora, dora", "handful predict"]
        refused([fit(recipe), "--out", "x"], words, place)
    houlsby = fit("houlsby:width=4:steps=1:num_folds=0")
    refused([houlsby, "--out", "x"], ["task in houlsby", "PEFT has no houlsby; it has lora", "--recipe lora"], place)
    prefix = fit("prefix:num_tokens=3:steps=1:num_folds=0")
    refused([prefix, "--out", "x"], ["task in prefix", "behind a prefix from 3", "another method"], place)


def test_folders_that_cannot_be_written_or_read(place: Path, fit: Callable[..., str]) -> None:
    task = fit("lora:rank=2:steps=8:lr=0.05")
    (place / "mine").mkdir(exist_ok=True)
    (place / "mine" / "thesis.tex").write_text("mine")
    refused([task, "--out", "mine"], [task, "mine", "not empty", "new folder"], place)
    refused([task, "--out", task], ["not empty"], place)
    refused([task, "--out", "new.txt"], ["is a file"], place)
    refused([task, "--out", "new.txt/x"], ["new.txt/x", "is a file"], place)
    refused(["nothing", "--out", "x"], ["nothing", "no such folder", "handful fit --out"], place)
    refused(["tiny", "--out", "x"], ["tiny", "handful.json"], place)
    refused([task, "--out", "x", "--backbone", "./nowhere"], ["'./nowhere'", "no such folder"], place)
    assert call("export", task)[0] == 2


def test_another_backbone_is_refused(place: Path, fit: Callable[..., str], tmp_path: Path) -> None:
    saved("roberta", tmp_path / "other")
    words = ["other", "was fitted on 'tiny'", "these weights are"]
    refused([fit("lora:rank=2:steps=8:lr=0.05"), "--out", "x", "--backbone", tmp_path / "other"], words, place)


@pytest.mark.parametrize("empty", [False, True])
def test_a_full_disk_leaves_nothing(
    place: Path, fit: Callable[..., str], empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(28, os.strerror(28))

    task = fit("lora:rank=2:steps=8:lr=0.05")
    out = place / f"full-{empty}"
    if empty:
        out.mkdir()
    monkeypatch.setattr(os, "fsync", full)
    refused([task, "--out", out.name], ["No space left on device", "Nothing was changed", "another folder"], place)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "write_bytes", lambda *_: full(None))
    refused([task, "--out", out.name], ["No space left on device", out.name], place)
    monkeypatch.undo()
    assert call("export", task, "--out", out.name)[0] == 0
    assert {path.name for path in out.iterdir()} == FILES


def test_a_method_without_a_name_of_its_own_is_found(place: Path, tmp_path: Path) -> None:
    """On some layers only, which PEFT writes as target modules."""
    from handful import OnLayers

    backbone = load_backbone("tiny")
    fitted = made(backbone, OnLayers(method=method("lora", rank=2), start=-1), tiny_task())
    same(fitted, backbone, tmp_path / "out", SINGLE)
    targets = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"]
    assert targets
    assert all(".layer.1." in name for name in targets)
