"""A prior for the tiny backbone."""

from __future__ import annotations

import torch

from handful.algorithms import algorithm
from handful.attach import attach
from handful.metatrain import Course, MetaTrained
from handful.prior import Prior
from handful.types import Params
from tinytext import random_params, small, tiny_text


def made(said: str = "meta-adapters:steps=2", name: str = "lora") -> Prior:
    """A prior of random values, with everything that its algorithm learns."""
    adapted = attach(tiny_text(), small(name))
    learned: Params = random_params(adapted.init(0))
    learned["rates"] = {"encoder.0": torch.tensor([0.1, 0.2]), "head": torch.tensor([0.3, 0.4])}
    learned["generator"] = {"g.in.weight": torch.randn(4, 5)}
    found = MetaTrained(adapted, algorithm(said), learned, [1.0, 0.5], [], 2)
    data = [{"name": "words", "size": 12, "share": 1.0, "digest": "0" * 64}]
    return Prior.of(found, "made", Course(steps=2), seed=3, data=data, command="handful meta-train words.csv")
