"""`handful demo`: real text, real weights, an accuracy on rows that were never seen."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from handful import artifact as artifacts
from handful.artifact import Artifact
from handful.backbone import Backbone, shared
from handful.commands import answer
from handful.console import out_console, quiet_libraries
from handful.episodes import sample
from handful.predictor import Predictor
from handful.recipes import recipe
from handful.sources import load
from handful.types import Example

SHOTS = (4, 8, 16)
ASKED = ("how do I sort a list in python", "I feel so lonely today", "what is the capital of Peru?", "are you a robot")


def run(seed: int = 0) -> None:
    """Fits the topics of `chatterbot-corpus`, which the prior has not seen, at several shots and prints a table."""
    quiet_libraries()
    task = load("package:chatterbot", name="topics")
    start = time.perf_counter()
    backbone = shared("minilm")
    out_console.print(
        f"Backbone minilm: {backbone.num_parameters / 1e6:.1f} M frozen parameters, loaded in "
        f"{time.perf_counter() - start:.1f} s\nTask: the topic of a remark, {len(task.labels)} classes "
        f"({', '.join(task.labels)})\n",
        highlight=False,
    )
    table = Table("a class", "expected", "unseen rows", "no prior", "seconds", "trained", "on disk", box=None)
    fitted = None
    with tempfile.TemporaryDirectory() as folder:
        for k in SHOTS:
            episode = sample(task, k, seed=seed)
            start = time.perf_counter()
            (fitted,) = recipe("default")([episode.support], backbone, seed=seed)
            seconds = time.perf_counter() - start
            (alone,) = recipe("default:prior=none")([episode.support], backbone, seed=seed)
            path = artifacts.save(fitted, Path(folder) / f"k{k}")
            asked = episode.query.examples
            expected, cost = (fitted.estimate or {})["accuracy"], fitted.cost
            table.add_row(
                f"{k}",
                f"{expected['value']:.0%} ({100 * expected['low']:.0f} to {expected['high']:.0%})",
                f"{_right(artifacts.load(path), backbone, asked):.1%} of {len(asked)}",
                f"{_right(alone, backbone, asked):.1%}",
                f"{seconds:.1f}",
                f"{cost['trained_parameters'] / cost['backbone_parameters']:.2%}",
                f"{artifacts.size_on_disk(path) / 1000:.0f} kB",
            )
    out_console.print(table, highlight=False)
    out_console.print("\nno prior: the same rows without the meta-trained view that ships with minilm", highlight=False)
    assert fitted is not None
    scores = Predictor(fitted, backbone).scores([Example(text) for text in ASKED]).probabilities().tolist()
    out_console.print("\nAsked with 16 examples a class:", highlight=False)
    for text, row in zip(ASKED, scores, strict=True):
        best = answer(fitted, row)
        out_console.print(
            f"  {text!r:45} {best['label']} ({best['scores'][best['label']]:.2f})", highlight=False, markup=False
        )
    out_console.print(
        "\nYour own: handful fit train.csv --out tickets && handful predict tickets new.csv", highlight=False
    )


def _right(fitted: Artifact, backbone: Backbone, asked: Sequence[Example]) -> float:
    """Share of right answers."""
    found = Predictor(fitted, backbone).scores(asked).logits.argmax(-1).tolist()
    return sum(fitted.labels[i] == example.label for i, example in zip(found, asked, strict=True)) / len(asked)
