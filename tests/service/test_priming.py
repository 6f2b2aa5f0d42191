"""Priming a backbone, the folder that holds the difference, and fits on what comes back from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handful.algorithms import algorithm
from handful.artifact import load as load_task
from handful.artifact import save
from handful.attach import attach
from handful.backbone import Backbone, load
from handful.errors import ArtifactError, BackboneError
from handful.fingerprints import weights_fingerprint
from handful.inner import Inner, adapt
from handful.losses import LOSSES
from handful.metatasks import Sentences
from handful.metatrain import Course, reader
from handful.methods import method, union
from handful.methods.full import DenseDelta
from handful.outer import encode_episodes
from handful.predictor import Predictor
from handful.primed import is_primed, read_primed, write_primed
from handful.priming import LATER, Priming, prime
from handful.prior import load_prior, save_prior
from handful.recipes import recipe
from handful.types import Batch, stack_params
from tinytags import tiny_tagging
from tinytext import save_tiny, token_pool

SOURCE = Sentences(tiny_tagging(40), shots=5, query=5)
COURSE = Course(steps=3, tasks=2, lr=2e-2)
METHOD = method("pfeiffer", width=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load(folder)


def primed(backbone: Backbone, said: str = "fomaml:steps=2:head=learned", course: Course = COURSE) -> Priming:
    return prime(SOURCE, backbone, METHOD, algorithm(said), course, seed=1)


def states(backbone: Backbone, batch: Batch) -> torch.Tensor:
    adapted = attach(backbone, method("lora", rank=2))
    with torch.no_grad():
        return adapted(adapted.init(0), batch).hidden


def test_the_outer_loop_changes_the_backbone_and_leaves_its_memory_alone(backbone: Backbone) -> None:
    before = weights_fingerprint(backbone.model.state_dict().items())
    found = primed(backbone)
    assert weights_fingerprint(backbone.model.state_dict().items()) == before
    assert not any(p.requires_grad for p in backbone.model.parameters())
    changed = [name for name, change in found.primed.delta.items() if bool(change.any())]
    assert any("query.weight" in name for name in changed)
    assert any("LayerNorm" in name for name in changed)
    assert any(bool(own["up"].any()) for site, own in found.start.items() if site != "head")


def test_the_inner_loop_moves_what_is_tuned_later_and_nothing_else(backbone: Backbone) -> None:
    adapted = attach(backbone, union(DenseDelta(), METHOD))
    params = stack_params([adapted.init(0)])
    params["head"] = {"weight": torch.randn(1, 5, 32), "bias": torch.zeros(1, 5)}
    support, _ = encode_episodes(backbone, [SOURCE.draw(0)])
    batch = support.take(torch.tensor([0]), torch.arange(5)[None])
    model = reader(adapted, algorithm("fomaml"), "tagging")
    after = adapt(model, params, batch, LOSSES["tagging"], Inner(steps=2, names=LATER))
    moved = {(s, n) for s, own in after.items() for n, p in own.items() if not torch.equal(p, params[s][n])}
    assert ("head", "weight") in moved
    assert {n for s, n in moved if s != "head"} <= {"1.down", "1.down_bias", "1.up", "1.up_bias"}
    assert any(n == "1.up" for _, n in moved)


def test_a_primed_backbone_comes_back_and_answers_the_same(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    found, batch = primed(backbone), token_pool([5, 9, 3])
    out = write_primed(found.primed, tmp_path / "primed")
    assert is_primed(out)
    assert not is_primed(folder)
    back = load(out)
    assert back.fingerprint == found.primed.fingerprint != backbone.fingerprint
    assert back.tokenizer is not None
    both = found.found.adapted
    delta = {s: {n: p if n.startswith("0.") else torch.zeros_like(p) for n, p in own.items()} for s, own in found.found.learned.items() if s != "head"}  # fmt: skip  # noqa: E501
    with torch.no_grad():
        expected = both(delta, batch).hidden
    torch.testing.assert_close(states(back, batch), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(states(back, batch), states(backbone, batch), atol=1e-4)


def test_tasks_and_priors_go_with_it(backbone: Backbone, tmp_path: Path) -> None:
    found = primed(backbone)
    out = write_primed(found.primed, tmp_path / "primed")
    prior = found.prior("start", str(out), METHOD, COURSE)
    kept = load_prior(save_prior(prior, tmp_path / "start"))
    back, task = load(out), tiny_tagging(20, seed=3)
    (fitted,) = recipe("pfeiffer:width=4:steps=2:num_folds=0", prior=kept)([task], back, seed=0)
    again = load_task(save(fitted, tmp_path / "task"))
    assert Predictor(again, load(out)).tags(task.examples) == Predictor(fitted, back).tags(task.examples)
    with pytest.raises(ArtifactError, match="these weights are"):
        Predictor(again, backbone)
    with pytest.raises(ArtifactError, match="was learned on"):
        recipe("pfeiffer:width=4", prior=kept)([task], backbone, seed=0)


def test_without_inner_steps_it_is_multi_task_training(backbone: Backbone) -> None:
    """The same updates to the bit, whatever the inner rate (sheet, section 9, check 3)."""
    found = [primed(backbone, f"fomaml:steps=0:lr={lr}:head=learned").primed.delta for lr in (0.1, 0.7)]
    other = primed(backbone, "fomaml:steps=2:lr=1e-30:head=learned").primed.delta
    for name, change in found[0].items():
        assert torch.equal(change, found[1][name])
        torch.testing.assert_close(change, other[name], rtol=1e-3, atol=1e-5)


def test_other_weights_of_the_same_name_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    found = primed(backbone).primed
    with pytest.raises(BackboneError, match="the weights of that name are"):
        load(write_primed(replace(found, before="0" * 64), tmp_path / "a"))
    out = write_primed(found, tmp_path / "b")
    (out / "delta.safetensors").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="does not match"):
        read_primed(out)
