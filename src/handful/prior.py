"""A prior on disk: a meta-learned or pretrained starting point for one backbone and method.

handful.json                 what it was learned from and how, its validation curve, checksums
adapter_model.safetensors    the learned start of the method's parameters, in PEFT's names where PEFT has the method
learned.safetensors          learned rates, heads and generators, where the algorithm has them
README.md                    the model card
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handful.algorithms import from_spec as algorithm_from_spec
from handful.algorithms import to_spec as algorithm_to_spec
from handful.attach import attach
from handful.backbone import Backbone
from handful.checkpoint import digest
from handful.errors import ArtifactError, MethodError, RequestError
from handful.folders import damaged, read_manifest, read_tensors, write_folder, write_json, write_tensors
from handful.meta import APART, Algorithm, of_method
from handful.metatrain import Course, MetaTrained
from handful.methods import Method, from_spec, to_spec
from handful.peft_format import from_peft, to_peft
from handful.types import Params, cast_params, split_id
from handful.views import Tuned

WHAT = "prior"


class Manifest(BaseModel):
    """The content of a prior's `handful.json`."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int
    kind: str = Field(pattern="^prior$")
    name: str
    backbone: str
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    method: dict[str, Any]
    sites: list[dict[str, Any]]
    algorithm: dict[str, Any] | None
    data: list[dict[str, Any]]
    course: dict[str, Any]
    seed: int
    step: int
    curve: list[dict[str, float]]
    command: str
    cost: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True)
class Prior:
    """A meta-learned or pretrained starting point.

    backbone, fingerprint  what it was learned on, by name and by content
    method, algorithm      what starts there, and how it goes on from there on a task: None where it was pretrained on
                           a mixture of tasks (`pretraining.py`), and the recipe that starts there decides
    learned                the method's sites, and "rates", "head" and "generator" where the algorithm has them
    data                   name, size, share and digest of each source of tasks
    step, curve            outer steps taken, and loss and accuracy on the meta-validation tasks on the way
    command                what makes it again
    """

    name: str
    backbone: str
    fingerprint: str
    method: Method
    algorithm: Algorithm | None
    learned: Params
    sites: Sequence[Mapping[str, Any]] = ()
    data: Sequence[Mapping[str, Any]] = ()
    course: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    step: int = 0
    curve: Sequence[Mapping[str, float]] = ()
    command: str = ""
    cost: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(found: MetaTrained, name: str, course: Course, **rest: Any) -> Prior:
        """The prior that meta-training has found."""
        adapted = found.adapted
        return Prior(
            name=name,
            backbone=adapted.backbone.id,
            fingerprint=adapted.backbone.fingerprint,
            method=adapted.method,
            algorithm=found.algorithm,
            learned=found.learned,
            sites=adapted.site_table(),
            course=course.to_dict(),
            step=found.step,
            curve=[asdict(look) for look in found.curve],
            **rest,
        )

    @property
    def params(self) -> Params:
        """Where the method's parameters start, without what is apart from them."""
        return of_method(self.learned)

    @property
    def digest(self) -> str:
        return params_digest(to_spec(self.method), self.params)

    def on(self, backbone: Backbone) -> Tuned:
        """The backbone with the parameters as they start. ArtifactError for other weights."""
        self.check(backbone)
        params = cast_params(self.params, device=backbone.device)
        return Tuned(attach(backbone, self.method), params, self.digest)

    def check(self, backbone: Backbone, method: Method | None = None) -> None:
        """ArtifactError unless `backbone` has the weights it was learned on; RequestError for another method."""
        if backbone.fingerprint != self.fingerprint:
            raise ArtifactError(
                f"The prior {self.name!r} was to be used with the backbone {backbone.id!r}.",
                f"It was learned on {self.backbone!r} (weights {self.fingerprint[:12]}), and these weights are "
                f"{backbone.fingerprint[:12]}.",
                f"Load {self.backbone!r}, or meta-train a prior for {backbone.id!r}.",
            )
        if method is not None and method != self.method:
            raise RequestError(
                f"The prior {self.name!r} was to be used with {method}.", f"It is one for {self.method}.",
                "Leave the method out, or meta-train a prior for it.",
            )  # fmt: skip


def save_prior(prior: Prior, folder: str | os.PathLike[str]) -> Path:
    """Writes a prior to `folder`, whole or not at all; returns the folder."""
    how = None if prior.algorithm is None else algorithm_to_spec(prior.algorithm)
    content = {
        "kind": WHAT, "name": prior.name, "backbone": prior.backbone, "fingerprint": prior.fingerprint,
        "method": to_spec(prior.method), "sites": list(prior.sites), "algorithm": how,
        "data": list(prior.data), "course": dict(prior.course), "seed": prior.seed, "step": prior.step,
        "curve": list(prior.curve), "command": prior.command, "cost": dict(prior.cost),
    }  # fmt: skip

    def write(temporary: Path) -> None:
        config, tensors = to_peft(content["method"], prior.params, prior.sites, split_id(prior.backbone)[0])  # type: ignore[arg-type]
        write_tensors(tensors, temporary / "adapter_model.safetensors")
        write_json(config, temporary / "adapter_config.json")
        apart = {f"{s}:{n}": p for s, own in prior.learned.items() if s in APART for n, p in own.items()}
        if apart:
            write_tensors(apart, temporary / "learned.safetensors")
        (temporary / "README.md").write_text(prior_card(prior), encoding="utf-8")

    return write_folder(folder, WHAT, content, write)


def load_prior(folder: str | os.PathLike[str]) -> Prior:
    """Reads a prior; ArtifactError says which check failed: presence, schema, checksums or finiteness."""
    path = Path(folder)
    content = read_manifest(path, WHAT, "handful meta-train --out")
    if content.get("kind") != WHAT:
        raise ArtifactError(
            f"A prior was to be read from {path}.", "It holds a fitted task.",
            "Give the folder that `handful meta-train --out` or `handful pretrain --out` wrote.",
        )  # fmt: skip
    try:
        manifest = Manifest(**content)
        method, said = from_spec(manifest.method), manifest.algorithm
        algorithm = None if said is None else algorithm_from_spec(said)
        params = from_peft(manifest.method, read_tensors(path / "adapter_model.safetensors", WHAT), manifest.sites)
    except (ValidationError, MethodError, KeyError, TypeError) as error:
        raise damaged(path, WHAT, f"what it holds cannot be made here ({str(error).splitlines()[0]})") from error
    learned = dict(params)
    if (path / "learned.safetensors").exists():
        for name, p in read_tensors(path / "learned.safetensors", WHAT).items():
            site, _, own = name.partition(":")
            learned.setdefault(site, {})[own] = p
    kept = manifest.model_dump(exclude={"schema_version", "kind", "versions", "files", "method", "algorithm"})
    return Prior(**kept, method=method, algorithm=algorithm, learned=learned)


def params_digest(method: Mapping[str, Any], params: Params) -> str:
    """sha256 of a method and of its parameters' names and values."""
    names = [(site, name) for site, own in params.items() for name in own]
    return digest([method, names, *(p for own in params.values() for p in own.values())])


def opened(given: Prior | str | os.PathLike[str], backbone: Backbone, method: Method | None = None) -> Prior:
    """A prior, or the one in a folder, that was found to fit the backbone and the method (`Prior.check`)."""
    prior = given if isinstance(given, Prior) else load_prior(given)
    prior.check(backbone, method)
    return prior


def prior_card(prior: Prior) -> str:
    """`README.md` of a prior, with the metadata that the hub reads."""
    base, _ = split_id(prior.backbone)
    pretrained = prior.algorithm is None
    about = "multi-task" if pretrained else "meta-learning"
    lines = ["---", "library_name: handful", f"base_model: {base}", f"tags: [few-shot, peft, {about}]", "---", ""]
    size = sum(p.numel() for own in prior.params.values() for p in own.values())
    lines += [f"# {prior.name}", "", f"A starting point for `{to_spec(prior.method)['name']}` ({size:,} parameters) on"]
    how = "pretrained on a mixture of tasks that end in text" if pretrained else "learned over many small tasks"
    lines += [f"`{prior.backbone}` (weights `{prior.fingerprint[:12]}`), {how}.", ""]
    lines += ["## Learned from", "", "| source | rows | share | digest |", "|---|---|---|---|"]
    lines += [
        f"| {own['name']} | {own['size']:,} | {own['share']:.1%} | `{own['digest'][:12]}` |" for own in prior.data
    ]
    lines += ["", *(_pretraining(prior) if pretrained else _meta_training(prior))]
    if prior.cost:
        lines += ["## What it cost", "", *(f"- {name.replace('_', ' ')}: {value:,}" for name, value in prior.cost.items()), ""]  # fmt: skip  # noqa: E501
    if prior.command:
        lines += ["## Made by", "", "```", prior.command, "```", ""]
    recipe = f" --backbone {prior.backbone} --recipe tfew" if pretrained else ""
    return "\n".join([*lines, "## Use", "", "```", f"handful fit DATA{recipe} --prior DIR --out TASK", "```", ""])


def _meta_training(prior: Prior) -> list[str]:
    lines = [f"{prior.step} outer steps of {prior.course.get('tasks')} tasks, seed {prior.seed}.", ""]
    if prior.curve:
        lines += ["## On tasks held out from meta-training", "", *_looks(prior, ("loss", "accuracy"))]
    return lines


def _pretraining(prior: Prior) -> list[str]:
    course = prior.course
    lines = [f"{prior.step} steps of {course.get('batch')} rows with the losses {course.get('losses')}, seed"]
    lines += [f"{prior.seed}. The parameters are those of the last step: nothing was chosen by what follows.", ""]
    for title, part in {"rows": "", "tasks": "held_out_"}.items():
        if columns := [name for name in (f"{part}loss", f"{part}accuracy") if name in (prior.curve or [{}])[0]]:
            lines += [f"## On {title} held out from pretraining", "", *_looks(prior, columns)]
    return lines


def _looks(prior: Prior, columns: Sequence[str]) -> list[str]:
    """The curve as a table."""
    said = [f"| step | {' | '.join(name.rpartition('_')[2] for name in columns)} |", "|---" * (1 + len(columns)) + "|"]
    for own in prior.curve:
        cells = [f"{own[name]:.1%}" if name.endswith("accuracy") else f"{own[name]:.3f}" for name in columns]
        said.append(f"| {own['step']:.0f} | {' | '.join(cells)} |")
    return [*said, ""]
