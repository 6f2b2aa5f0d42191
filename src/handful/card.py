"""The model card of a fitted task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from handful.estimate import headlines
from handful.tagging import types_of
from handful.types import split_id

if TYPE_CHECKING:
    from handful.artifact import Artifact


_USE = ("```", "handful predict DIR INPUT", "```")


def model_card(artifact: Artifact, *, library: str = "handful", use: Sequence[str] = _USE) -> str:
    """`README.md` of an artifact, with the metadata that the hub reads. `use` are lines that say how it is used."""
    base, _ = split_id(artifact.backbone)
    lines = ["---", f"library_name: {library}", f"base_model: {base}", "tags: [few-shot, peft]", "---", ""]
    lines += [
        f"# {artifact.task}",
        "",
        _what(artifact),
        "",
    ]
    if template := asked_by(artifact.features):
        lines += ["It is asked by this template, in Jinja, and each answer is written as the second one says:", ""]
        lines += [*_indented(template["prompt"]), "", *_indented(template["answer"]), ""]
    if artifact.definition:
        said = "which `handful.json` holds and `handful predict` reads rows through"
        lines += [f"Its rows are those of the task definition `{artifact.definition['name']}`, {said}.", ""]
    lines += [f"Backbone `{artifact.backbone}`, frozen (weights `{artifact.fingerprint[:12]}`).", ""]
    lines += [f"Fitted by the recipe `{artifact.recipe}` with seed {artifact.seed}.", ""]
    if artifact.prior:
        lines += [f"It reads the backbone with handful's prior too (`{artifact.prior[:12]}`), which ships with it.", ""]
    if artifact.estimate:
        lines += ["## How good", "", *_estimate_lines(artifact.estimate), ""]
    if artifact.cost:
        lines += ["## What it cost", "", *(f"- {name.replace('_', ' ')}: {value:,}" for name, value in artifact.cost.items() if value is not None), ""]  # fmt: skip  # noqa: E501
    if artifact.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in artifact.notes), ""]
    lines += ["## Use", "", *use, ""]
    return "\n".join(lines)


def asked_by(features: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The template that a task is asked by, as `Template.to_dict` gives it; None for one that is not asked in words."""
    if features["kind"] == "context":
        return features["context"]["template"]
    return features["templates"][0] if features.get("templates") else None


def _indented(text: str) -> list[str]:
    return [f"    {line}".rstrip() for line in text.split("\n")]


def _what(artifact: Artifact) -> str:
    if artifact.kind == "generation":
        return "It writes its answer to a prompt, freely."
    if artifact.kind == "choice":
        return "It chooses one of the answers that a row brings: the one whose words are the likeliest after a prompt."
    if artifact.kind == "tagging":
        kinds = types_of(artifact.labels)
        return f"A tagger of words, for {len(kinds)} types of entities: {', '.join(kinds)}."
    kind = "multi-label text classifier" if artifact.kind == "multilabel" else "text classifier"
    return f"A {kind} of {len(artifact.labels)} classes: {', '.join(artifact.labels)}."


def _estimate_lines(estimate: dict[str, Any]) -> list[str]:
    lines = []
    for name in headlines(estimate):
        if (interval := estimate.get(name)) and interval["value"] is not None:
            value, low, high = (interval[key] for key in ("value", "low", "high"))
            lines.append(
                f"- {name.replace('_', ' ')}: {value:.1%} ({interval['level']:.0%} interval {low:.1%} to {high:.1%})"
            )
    lines = lines or ["- not measured: no rows were held out"]
    return [*lines, *(f"- {warning}" for warning in estimate.get("warnings", ()))]
