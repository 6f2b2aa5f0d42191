"""Priors that ship with the package: found by the backbone's weights, named by fitted tasks, part of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handful import keys, priors
from handful.artifact import load, save
from handful.backbone import shared
from handful.errors import ArtifactError
from handful.folders import size_on_disk
from handful.predictor import Predictor
from handful.prior import load_prior, save_prior
from handful.recipes import recipe
from handful.suites import suites
from tinyprior import made
from tinytext import tiny_task, tiny_text


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of shipped priors, with one for the tiny backbone."""
    save_prior(made(), tmp_path / "shelf" / "tiny")

    def forget() -> None:
        priors._known.cache_clear()
        priors._read.cache_clear()
        keys.recipe_digest.cache_clear()

    monkeypatch.setattr(priors, "manifests", lambda: sorted((tmp_path / "shelf").glob("*/handful.json")))
    forget()
    yield tmp_path / "shelf"
    forget()


def test_the_default_recipe_uses_the_prior_of_its_backbone_and_names_it(shelf: Path, tmp_path: Path) -> None:
    backbone, task, asked = tiny_text(), tiny_task(3, rows=8), tiny_task(3, rows=5, seed=9).examples
    (fitted,) = recipe("default")([task], backbone, seed=0)
    (given,) = recipe("default", prior=shelf / "tiny")([task], backbone, seed=0)
    (without,) = recipe("default:prior=none")([task], backbone, seed=0)
    assert fitted.prior == given.prior == load_prior(shelf / "tiny").digest
    assert without.prior is None
    assert (fitted.method, fitted.params) == (None, {})
    folder = save(fitted, tmp_path / "task")
    assert not (folder / "adapter_model.safetensors").exists()
    scores = [Predictor(own, backbone).scores(asked).logits for own in (fitted, load(folder), given, without)]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
    assert not torch.allclose(scores[0], scores[3], atol=1e-3)


def test_another_prior_is_held_and_a_missing_one_named(shelf: Path) -> None:
    backbone, task = tiny_text(), tiny_task(3, rows=8)
    other = replace(made(), learned={s: {n: p + 1 for n, p in own.items()} for s, own in made().learned.items()})
    (holds,) = recipe("default", prior=other)([task], backbone, seed=0)
    assert holds.prior is None
    assert holds.params
    (names,) = recipe("default")([task], backbone, seed=0)
    save_prior(other, shelf / "tiny")
    priors._known.cache_clear()
    priors._read.cache_clear()
    with pytest.raises(ArtifactError, match=rf"shipped prior {names.prior[:12]} .* ships made \({other.digest[:12]}\)"):
        Predictor(names, backbone)


def test_a_shipped_prior_is_part_of_the_key_of_what_reads_it(shelf: Path) -> None:
    before = keys.recipe_digest("default")
    save_prior(replace(made(), seed=4), shelf / "tiny")
    keys.recipe_digest.cache_clear()
    assert keys.recipe_digest("default") != before


def test_what_ships_is_small_fits_its_backbone_and_learned_from_nothing_that_is_measured_on() -> None:
    assert priors.manifests()
    for file in priors.manifests():
        prior = load_prior(file.parent)
        assert size_on_disk(file.parent) <= 2e6
        assert priors.shipped(prior.fingerprint) is not None
        prior.check(shared(prior.backbone))
        told = " ".join([prior.command, *(str(own["name"]) for own in prior.data)])
        measured = {task.name for own in suites().values() for task in own.tasks if task.purpose == "evaluation"}
        assert not [name for name in measured if re.search(rf"(^|[/\s]){name}([/:.\s]|$)", told)]
        assert "chatterbot" not in told  # what `handful demo` shows
        assert len(prior.curve) > 2
        assert prior.curve[-1]["loss"] < 1.0
