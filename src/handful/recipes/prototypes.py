"""Nearest class prototype (Snell et al. 2017, arXiv 1703.05175) on the frozen embedding: nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handful.artifact import Artifact
from handful.backbone import Backbone
from handful.types import Task
from handful.viewheads import Spec, fit_view_heads

SPEC = Spec(sets=({"pool:1": 1.0},), stops=(0,))


def prototypes(tasks: Sequence[Task], backbone: Backbone, **options: Any) -> list[Artifact]:
    """Scores are half the negative squared distances to the class means, times a fitted sharpness."""
    return fit_view_heads(tasks, backbone, SPEC, recipe="prototypes", **options)
