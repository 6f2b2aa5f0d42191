"""Priors on disk, and fits that start from one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from handful import generator
from handful.algorithms import ALGORITHMS, algorithm, from_spec, to_spec
from handful.artifact import load, save
from handful.attach import attach
from handful.backbone import from_model
from handful.errors import ArtifactError, RequestError
from handful.keys import recipe_digest
from handful.losses import cross_entropy
from handful.meta import APART, Question, answers
from handful.metatrain import Course, MetaTrained, reader
from handful.methods import OnLayers, method
from handful.outer import encode_episodes
from handful.predictor import Predictor
from handful.prior import Prior, load_prior, opened, save_prior
from handful.recipes import recipe
from handful.scoring import pool as pool_states
from handful.types import Episode, Params
from handful.views import Views
from tiny import TINY
from tinyprior import made
from tinytext import random_params, small, tiny_task, tiny_text, token_pool, tokenizer


@pytest.mark.parametrize("name", ["lora", "houlsby", "meta_adapter", "prefix", "compacter"])
def test_what_was_written_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    prior = made(name=name)
    back = load_prior(save_prior(prior, tmp_path / "prior"))
    assert replace(back, learned={}) == replace(prior, learned={})
    assert {s: set(own) for s, own in back.learned.items()} == {s: set(own) for s, own in prior.learned.items()}
    for site, own in prior.learned.items():
        for part, p in own.items():
            assert torch.equal(back.learned[site][part], p)
    assert not set(back.params) & set(APART)
    card = (tmp_path / "prior" / "README.md").read_text()
    assert "| words | 12 | 100.0% |" in card
    assert "handful meta-train words.csv" in card


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_survive_json(name: str) -> None:
    value = ALGORITHMS[name][0]
    assert from_spec(json.loads(json.dumps(to_spec(value)))) == value


def test_a_fit_starts_from_the_prior(tmp_path: Path) -> None:
    backbone, task, prior = tiny_text(), tiny_task(3), made()
    folder = save_prior(prior, tmp_path / "prior")
    run = recipe("lora:rank=2:steps=0:num_folds=0", prior=folder)
    (fitted,) = run([task], backbone, seed=0)
    for site, own in prior.params.items():
        for name, p in own.items():
            assert torch.equal(fitted.params[site][name], p)
    (other,) = recipe("lora:rank=2:steps=3:num_folds=0", prior=prior)([task], backbone, seed=0)
    (fresh,) = recipe("lora:rank=2:steps=3:num_folds=0")([task], backbone, seed=0)
    site = next(iter(fresh.params))
    assert not torch.equal(other.params[site]["B"], fresh.params[site]["B"])


def test_a_prior_of_upper_blocks_is_that_of_a_recipe_that_starts_there() -> None:
    upper = OnLayers(method=small("lora"), start=1)
    prior = replace(made(), method=upper, learned=random_params(attach(tiny_text(), upper).init(0)))
    (fitted,) = recipe("lora:rank=2:start=1:steps=0:num_folds=0", prior=prior)([tiny_task(3)], tiny_text(), seed=0)
    assert set(fitted.params) == set(prior.params)
    assert all(torch.equal(fitted.params[s][n], p) for s, own in prior.params.items() for n, p in own.items())


def test_what_meta_training_learned_apart_from_tasks_is_held_by_them() -> None:
    prior, task = made(name="meta_adapter"), tiny_task(2)
    prior = replace(prior, method=method("meta_adapter"), learned=random_params(attach(tiny_text(), method("meta_adapter")).init(0)))  # fmt: skip  # noqa: E501
    (fitted,) = recipe("meta_adapter:steps=3:num_folds=0", prior=prior)([task], tiny_text(), seed=0)
    for site, own in fitted.params.items():
        for name, p in own.items():
            assert torch.equal(p, prior.learned[site][name]) == name.startswith(("lower_", "upper_"))
    assert fitted.cost["method_parameters"] == attach(tiny_text(), method("meta_adapter")).num_parameters()


def test_another_backbone_or_method_is_refused(tmp_path: Path) -> None:
    prior = made()
    other = from_model(TINY["roberta"](), tokenizer(), id="other")
    with pytest.raises(ArtifactError, match="learned on 'tiny'"):
        opened(prior, other)
    with pytest.raises(RequestError, match=r"It is one for LoRA\(rank=2\)"):
        opened(prior, tiny_text(), method("lora", rank=3))
    with pytest.raises(ArtifactError, match="no such folder"):
        opened(tmp_path / "nowhere", tiny_text())


def test_priors_and_fitted_tasks_are_not_taken_for_each_other(tmp_path: Path) -> None:
    folder = save_prior(made(), tmp_path / "prior")
    with pytest.raises(ArtifactError, match="It holds a prior"):
        load(folder)
    (fitted,) = recipe("prototypes")([tiny_task(2)], tiny_text(), seed=0)
    with pytest.raises(ArtifactError, match="It holds a fitted task"):
        load_prior(save(fitted, tmp_path / "task"))


def test_damage_is_found(tmp_path: Path) -> None:
    folder = save_prior(made(), tmp_path / "prior")
    file = folder / "learned.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=r"checksum of learned\.safetensors does not match"):
        load_prior(folder)
    with pytest.raises(ArtifactError, match="holds no prior"):
        save_prior(made(), tmp_path)


def test_the_default_recipe_reads_the_prior_beside_the_backbone(tmp_path: Path) -> None:
    backbone, task, prior = tiny_text(), tiny_task(3, rows=8), made()
    folder = save_prior(prior, tmp_path / "prior")
    (fitted,) = recipe("default", prior=folder)([task], backbone, seed=0)
    (without,) = recipe("default")([task], backbone, seed=0)
    assert "prior" in fitted.features["views"]
    assert "prior" not in without.features["views"]
    assert fitted.cost["query_flops"] > 1.5 * without.cost["query_flops"]
    back = load(save(fitted, tmp_path / "task"))  # holds the prior: its folder may go
    folder.rename(tmp_path / "elsewhere")
    asked = tiny_task(3, rows=5, seed=9).examples
    before, after = (Predictor(own, backbone).scores(asked).logits for own in (fitted, back))
    assert torch.equal(before, after)
    assert not torch.allclose(before, Predictor(without, backbone).scores(asked).logits, atol=1e-3)


def test_views_of_a_prior_are_what_its_backbone_says() -> None:
    backbone, pool = tiny_text(), token_pool([5, 9, 3])
    for prior in (made(), made(name="ladder"), replace(made(), method=OnLayers(method=small("lora"), start=1))):
        tuned = prior.on(backbone)
        if prior.method != made().method and isinstance(prior.method, OnLayers):
            tuned = replace(tuned, params={s.name: prior.params[s.name] for s in tuned.adapted.sites})
        (found,) = Views(("prior",), (), tuned).compute(backbone, pool)
        with torch.no_grad():
            states = tuned.adapted(tuned.params, pool)
        torch.testing.assert_close(
            found, F.normalize(pool_states(states, backbone.pooling), dim=-1), rtol=1e-5, atol=1e-6
        )


def meta_trained(said: str, name: str = "lora", width: int | None = None) -> Prior:
    """A prior with everything that its algorithm learns, of the right shapes, at random."""
    adapted, value = attach(tiny_text(), small(name)), algorithm(said)
    learned: Params = random_params(adapted.init(0))
    if value.head == "generated":
        learned["generator"] = generator.init(32, width or 6, seed=2)
    if rates := value.inner.init_rates(learned, {site.name: site for site in adapted.sites}):
        learned["rates"] = {key: rate * (1 + 0.1 * i) for i, (key, rate) in enumerate(rates.items())}
    return Prior.of(MetaTrained(adapted, value, learned, [1.0], [], 1), "made", Course(steps=1))


@pytest.mark.parametrize("said", ["protonet", "protomaml:steps=2", "fomaml:steps=3", "maml++:steps=2", "leopard:steps=2", "meta-adapters:steps=2"])  # fmt: skip  # noqa: E501
def test_adapting_takes_the_steps_of_meta_training(said: str, tmp_path: Path) -> None:
    """The same params, head and scores as `meta.answers` gives for an episode of the same rows."""
    prior = meta_trained(said, "meta_adapter" if "adapters" in said else "lora")
    backbone, task, query = tiny_text(), tiny_task(3, rows=4), tiny_task(3, rows=3, seed=5)
    (fitted,) = recipe("adapt:num_folds=0", prior=prior)([task], backbone, seed=0)
    adapted = attach(backbone, prior.method)
    support, asked = encode_episodes(backbone, [Episode(task, query)])
    one = torch.tensor([0])
    batches = [rows.take(one, torch.arange(rows.index.shape[1])[None]) for rows in (support, asked)]
    sites = {site.name: site for site in adapted.sites}
    expected = answers(prior.algorithm, reader(adapted, prior.algorithm), prior.learned, Question(*batches), cross_entropy, sites)[0]  # fmt: skip  # noqa: E501
    found = Predictor(fitted, backbone).scores(query.examples).logits * fitted.temperature
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    again = Predictor(load(save(fitted, tmp_path / "task")), backbone).scores(query.examples).logits
    assert torch.equal(again * fitted.temperature, found)


def test_adapting_estimates_by_folds_and_serves_several_tasks() -> None:
    prior, backbone = meta_trained("leopard:steps=2"), tiny_text()
    tasks = [tiny_task(3, rows=6), tiny_task(2, rows=5, seed=4)]
    together = recipe("adapt", prior=prior)(tasks, backbone, seed=0)
    for task, fitted in zip(tasks, together, strict=True):
        (alone,) = recipe("adapt", prior=prior)([task], backbone, seed=0)
        assert fitted.estimate is not None
        assert alone.estimate is not None
        assert fitted.estimate["accuracy"] == alone.estimate["accuracy"]
        assert fitted.estimate["log_loss"] == pytest.approx(alone.estimate["log_loss"], rel=1e-4)
        torch.testing.assert_close(fitted.head["weight"], alone.head["weight"], rtol=1e-4, atol=1e-5)
    (more,) = recipe("adapt:steps=9:num_folds=0", prior=prior)(tasks[:1], backbone, seed=0)
    assert not torch.allclose(more.head["weight"], together[0].head["weight"], atol=1e-4)


def test_adapting_needs_a_prior_and_its_number_of_classes() -> None:
    with pytest.raises(RequestError, match="No prior was given"):
        recipe("adapt")([tiny_task(2)], tiny_text(), seed=0)
    prior = meta_trained("fomaml:head=learned")
    prior.learned["head"] = {"weight": torch.zeros(4, 32), "bias": torch.zeros(4)}
    with pytest.raises(RequestError, match="It has 2 classes, and the head that was learned has 4"):
        recipe("adapt", prior=prior)([tiny_task(2)], tiny_text(), seed=0)


def test_a_comparison_tells_priors_of_one_name_apart(tmp_path: Path) -> None:
    folder = save_prior(made(), tmp_path / "prior")
    before = recipe_digest.__wrapped__(f"lora:prior={folder}")
    assert before == recipe_digest.__wrapped__(f"lora:prior={folder}")
    save_prior(replace(made(), seed=4), folder)
    assert before != recipe_digest.__wrapped__(f"lora:prior={folder}")
