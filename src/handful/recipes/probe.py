"""The cheapest recipe: a linear head on the frozen embedding alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handful.artifact import Artifact
from handful.backbone import Backbone
from handful.types import Task
from handful.viewheads import Spec, fit_view_heads

SPEC = Spec(sets=({"pool:1": 1.0},), cs=(10.0, 2.0), stops=(100, 40))


def probe(tasks: Sequence[Task], backbone: Backbone, **options: Any) -> list[Artifact]:
    """Logistic regression on the pooled final states, its regularisation chosen by cross-validation."""
    return fit_view_heads(tasks, backbone, SPEC, recipe="probe", **options)
