"""The recipe that needs no choices: a linear head on several frozen views of a text, chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handful.artifact import Artifact
from handful.backbone import Backbone
from handful.types import Task
from handful.viewheads import Spec, fit_view_heads

SPEC = Spec(
    weights={
        "pool:1": 0.38, "pool:0.667": 0.2, "pool:0.5": 0.1, "max:1": 0.07, "end:0.5": 0.05, "lexical": 0.2, "marked": 0.6,
    },
    cs=(10.0, 3.0, 30.0, 100.0),
    stops=(150, 50),
)  # fmt: skip
"""Chosen on the training sets of docs/results.md, never on the sets kept for evaluation."""


def default(tasks: Sequence[Task], backbone: Backbone, **options: Any) -> list[Artifact]:
    """`viewheads.fit_view_heads` on the views of `SPEC`. Cost: one forward pass a row and a second of small products."""
    return fit_view_heads(tasks, backbone, SPEC, recipe="default", **options)
