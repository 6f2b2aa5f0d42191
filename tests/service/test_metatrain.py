"""Meta-training from start to end: it learns, resumes to the bit, stops early, and two ranks come to what one does.

This file is also the program that ranks run: `python test_metatrain.py FOLDER`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from handful import distributed
from handful.algorithms import ALGORITHMS, algorithm
from handful.attach import attach
from handful.checkpoint import digest
from handful.errors import RequestError, RunError
from handful.metalearn import meta_train
from handful.metatasks import Grouped, Mixture, Sentences, Source, Supervised
from handful.metatrain import Course, MetaTrained, learn
from handful.methods import method
from handful.types import Episode, Example, Params, Task
from tinytags import tiny_tagging
from tinytext import tiny_text

WORDS = ("able", "bake", "cold", "deep", "echo", "fade", "gold", "high", "idle", "jade", "kind", "lake")


def many_classes(first: int = 0, last: int = len(WORDS)) -> Task:
    """Classes that their first word gives away, whatever follows."""
    rows = [Example(f"{word} {other[:2]}", label=word) for word in WORDS[first:last] for other in WORDS]
    return Task("words", rows, WORDS[first:last])


SOURCE = Supervised(many_classes(0, 8), ways=(2, 3), shots=(1, 2), query=2)
HELD_OUT = [Supervised(many_classes(8), ways=3, shots=2, query=2).draw(seed) for seed in range(6)]
COURSE = Course(steps=6, tasks=3, lr=5e-3, validate_every=3)


def trained(said: str = "fomaml:steps=2", course: Course = COURSE, **options: Any) -> MetaTrained:
    options = {"validation": HELD_OUT, "seed": 1} | options
    return learn(options.pop("source", SOURCE), tiny_text(), method("lora", rank=2), algorithm(said), course, **options)


def flat(learned: Params) -> dict[str, torch.Tensor]:
    return {f"{site}/{name}": p.contiguous() for site, own in learned.items() for name, p in own.items()}


def fingerprint(found: MetaTrained) -> str:
    return digest([*flat(found.learned).items(), *flat(found.learned).values(), found.losses, found.curve, found.step])


# -- what the ranks run ------------------------------------------------------------------------------------------------


def run_rank(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.start()
    rank = distributed.team().rank
    found = trained("maml++:steps=2")
    few = trained("protonet", replace(COURSE, tasks=1))  # fewer tasks than ranks
    save_file(
        flat(found.learned) | {f"few/{n}": p for n, p in flat(few.learned).items()}, folder / f"{rank}.safetensors"
    )
    (folder / f"{rank}.json").write_text(json.dumps([found.losses, [each.loss for each in found.curve]]))
    distributed.stop()


def start_ranks(folder: Path, size: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": path}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)], env=os.environ | common | {"RANK": str(r), "LOCAL_RANK": str(r)}
        )
        for r in range(size)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * size


# -- tests -------------------------------------------------------------------------------------------------------------


def test_two_ranks_come_to_what_one_does(tmp_path: Path) -> None:
    start_ranks(tmp_path, 2)
    found, again = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    alone, few = trained("maml++:steps=2"), trained("protonet", replace(COURSE, tasks=1))
    expected = flat(alone.learned) | {f"few/{n}": p for n, p in flat(few.learned).items()}
    assert set(found) == set(expected)
    for name, p in expected.items():
        assert torch.equal(found[name], again[name])
        torch.testing.assert_close(found[name], p, rtol=1e-3, atol=2e-5)
    losses, curve = json.loads((tmp_path / "0.json").read_text())
    assert losses == pytest.approx(alone.losses, rel=1e-4)
    assert curve == pytest.approx([each.loss for each in alone.curve], rel=1e-4)


class Stopped(Exception):  # noqa: N818
    """The process was killed."""


@dataclass(frozen=True)
class Dying:
    """A source that dies after some draws."""

    source: Supervised
    draws: list[int]
    after: int

    name = "dying"

    @property
    def size(self) -> int:
        return self.source.size

    def draw(self, seed: int) -> Episode:
        self.draws.append(seed)
        if len(self.draws) > self.after:
            raise Stopped
        return self.source.draw(seed)

    def contents(self) -> Any:
        return self.source.contents()

    def digest(self) -> str:
        return self.source.digest()


@pytest.mark.parametrize("said", ["fomaml:steps=2", "maml++:steps=2", "leopard:steps=2"])
def test_a_killed_run_continues_to_the_same_bytes(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handful.checkpoint.Checkpoint.due", True)
    whole = trained(said)
    dying = Dying(SOURCE, [], 4 * COURSE.tasks + 1)
    kept = tmp_path / "progress.safetensors"
    with pytest.raises(Stopped):
        trained(said, source=dying, checkpoint=kept)
    dying = Dying(SOURCE, [], 10_000)
    resumed = trained(said, source=dying, checkpoint=kept)
    assert len(dying.draws) < COURSE.steps * COURSE.tasks
    assert fingerprint(resumed) == fingerprint(whole)
    dying.draws.clear()
    assert fingerprint(trained(said, source=dying, checkpoint=kept)) == fingerprint(whole)
    assert len(dying.draws) <= 2  # a run that has ended draws nothing more, but to see what its tasks are


def test_progress_of_another_run_is_not_continued(tmp_path: Path) -> None:
    kept = tmp_path / "progress.safetensors"
    trained(checkpoint=kept)
    other = trained(seed=2, checkpoint=kept)
    assert fingerprint(other) == fingerprint(trained(seed=2))


@pytest.mark.parametrize("said", ["protonet", "protomaml:steps=2", "reptile:steps=2", "anil"])
def test_tasks_never_seen_become_easier(said: str) -> None:
    found = trained(said, Course(steps=60, tasks=4, lr=1e-2, validate_every=20))
    assert found.curve[-1].loss < 0.9 * trained(said, Course(steps=1, tasks=4, lr=0.0, validate_every=1)).curve[0].loss


def test_tags_are_learned_too() -> None:
    source = Sentences(tiny_tagging(60), shots=6, query=6)
    held = [Sentences(tiny_tagging(40, seed=1), shots=6, query=6).draw(seed) for seed in range(4)]
    said = "fomaml:steps=2:head=learned"
    found = trained(said, Course(steps=40, tasks=3, lr=1e-2, validate_every=20), source=source, validation=held)
    first = trained(said, Course(steps=1, tasks=3, lr=1e-9, validate_every=1), source=source, validation=held)
    assert found.learned["head"]["weight"].shape == (5, 32)
    assert found.curve[-1].loss < 0.9 * first.curve[0].loss
    assert found.curve[-1].accuracy > first.curve[0].accuracy


def test_it_stops_when_validation_does_and_keeps_the_best() -> None:
    found = trained("protonet", Course(steps=40, tasks=2, lr=0.3, validate_every=1, patience=3))
    assert len(found.losses) < 40
    assert found.step == min(found.curve, key=lambda each: each.loss).step
    assert len(found.curve) == len(found.losses)


def test_what_is_held_is_held() -> None:
    found = trained("fomaml:outer=*,!*/A,!rates/*")
    first = found.adapted.init(1)
    for site, own in found.learned.items():
        assert torch.equal(own["A"], first[site]["A"])
    assert any(not torch.equal(own["B"], first[site]["B"]) for site, own in found.learned.items())


def test_a_diverging_outer_loop_is_named() -> None:
    with pytest.raises(RunError, match=r"Outer step \d+ of 40 .* diverged") as caught:
        trained("fomaml:steps=2:lr=1e30", replace(COURSE, steps=40))
    assert "Lower the outer rate" in str(caught.value)


def test_learned_heads_need_tasks_of_one_size() -> None:
    with pytest.raises(RequestError, match="Heads were to be learned"):
        trained("fomaml:head=learned", replace(COURSE, steps=30))
    same: Source = Supervised(many_classes(0, 8), ways=3, shots=2, query=2)
    found = trained("fomaml:head=learned", source=same)
    assert found.learned["head"]["weight"].shape == (3, 32)
    assert bool(found.learned["head"]["weight"].any())


def test_the_control_arm_trains_the_same_parameters_without_episodes() -> None:
    source = Mixture([Supervised(many_classes(0, 4), ways=2), Supervised(many_classes(4, 9), ways=2)])
    found = meta_train(
        source, backbone=tiny_text(), method="lora:rank=2", algorithm="multitask", course=Course(steps=5), validation=0
    )
    first = attach(tiny_text(), method("lora", rank=2)).init(0)
    assert {s: set(own) for s, own in found.params.items()} == {s: set(own) for s, own in first.items()}
    assert any(not torch.equal(p, first[s][n]) for s, own in found.params.items() for n, p in own.items())
    assert [own["name"] for own in found.data] == ["words", "words"]
    with pytest.raises(RequestError, match="no labelled sets as they are"):
        meta_train(Grouped(many_classes(), groups=2), backbone=tiny_text(), algorithm="multitask", validation=0)


def test_algorithms_are_called_by_name() -> None:
    assert algorithm("fomaml:steps=5:lr=0.05:clip=2").inner.steps == 5
    assert algorithm("cavia:inner=*/B,head/*:outer=*/A").outer == ("*/A",)
    for name in ALGORITHMS:
        assert algorithm(name) == ALGORITHMS[name][0]
    for said, found in {
        "mamml": "Known are protonet",
        "fomaml:stops=2": "has no option 'stops'",
        "fomaml:steps=-1": "steps is -1",
        "fomaml:lr=fast": "lr is 'fast'",
        "fomaml:rates=some": "Use one of given, layer, tensor, element",
        "fomaml:steps": "is not an option",
    }.items():
        with pytest.raises(RequestError, match=found):
            algorithm(said)


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
