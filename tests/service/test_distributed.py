"""Two ranks, started as torchrun does, come to what one process comes to: tasks split, and the backbone sharded.

This file is also the program that the ranks run: `python test_distributed.py FOLDER`. Each rank computes every
result twice, with the other and alone, and the tests compare what the ranks have written down.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handful import distributed
from handful.artifact import Artifact, load, save
from handful.attach import attach
from handful.backbone import Backbone, from_model, sharded
from handful.backbone import load as load_backbone
from handful.batches import Rows, stack
from handful.cache import FeatureCache
from handful.distributed import Team, deal
from handful.errors import MethodError, RequestError, RunError
from handful.features import frozen
from handful.fingerprints import weights_fingerprint
from handful.fit import Schedule, evaluate, fit
from handful.losses import cross_entropy
from handful.merge import merge
from handful.methods.base import Method
from handful.methods.lora import LoRA
from handful.methods.variants import OnLayers
from handful.predictor import Predictor
from handful.recipes import recipe
from handful.scoring import Classifier
from handful.sharding import held_bytes
from handful.sources import load as load_task
from handful.types import Batch, Params, map_params, stack_params
from tiny import TINY, tiny_inputs
from tinytext import (
    random_params,
    rows_mask,
    save_tiny,
    small,
    tiny_multilabel,
    tiny_task,
    tiny_text,
    token_pool,
    tokenizer,
)

POOL = token_pool([5, 9, 3, 7, 4, 12, 6, 8, 2, 10, 5, 3])
INDEX = [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 0, 2, 4]]
CLASSES = [2, 3, 4]
VARIED = Schedule(steps=(4, 7, 5), lr=(2e-2, 5e-3, 1e-2), weight_decay=(0.0, 0.1, 0.01), warmup=0.3, batch_size=3)
METHODS: dict[str, Method] = {
    "lora": LoRA(rank=2, dropout=0.2),
    "houlsby": small("houlsby"),
    "ladder": small("ladder"),
    "prompt": small("prompt"),
    "upper": OnLayers(method=LoRA(rank=2), start=1),
}
SHORT = {"one task": [2], "two tasks": [1, 0]}
RECIPES = ["default", "prototypes", "tune", "ladder"]
FAMILIES = ["t5", "gpt2", "llama", "clip"]


# -- what the ranks run ------------------------------------------------------------------------------------------------


def rows_of(tasks: Sequence[int], pool: Batch = POOL) -> Rows:
    labels = [(torch.arange(len(INDEX[t])) * 5 + t) % CLASSES[t] for t in tasks]
    return stack(pool, [INDEX[t] for t in tasks], labels, [CLASSES[t] for t in tasks])


def params_of(model: Classifier, tasks: Sequence[int]) -> Params:
    assert model.adapted is not None
    classes = max(CLASSES[t] for t in tasks)
    heads = {"head": {"weight": torch.zeros(classes, 32), "bias": torch.zeros(classes)}}
    return stack_params([random_params(model.adapted.init(t) | heads, seed=t) for t in tasks])


def of(schedule: Schedule, tasks: Sequence[int]) -> Schedule:
    own = {name: tuple(getattr(schedule, name)[t] for t in tasks) for name in ("steps", "lr", "weight_decay")}
    return replace(schedule, **own)


def fitted(backbone: Backbone, method: Method, tasks: Sequence[int], **options: Any) -> dict[str, Any]:
    """Everything that a fit gives and shows, and the scores of what it has trained."""
    adapted = attach(backbone, method)
    model, pool = Classifier(adapted, "mean", 4.0), POOL
    if adapted.cacheable:
        pool = pool.with_inputs(states=frozen(backbone, "states", pool, adapted.freeze, store=FeatureCache()))
    rows, memory = rows_of(tasks, pool), {}
    seen: list[tuple[int, list[int]]] = []

    def watch(step: int, now: Params, active: Sequence[int]) -> None:
        seen.append((step, list(active)))
        memory[str(step)] = now["head"]["weight"].sum((1, 2))
        if step == options.get("asks", 2):
            memory["scores"] = evaluate(model, now, rows)

    trained, history = fit(
        model, params_of(model, tasks), rows, cross_entropy, of(VARIED, tasks), seed=[11 + t for t in tasks],
        watch=watch, watch_every=2, memory=memory, budget=options.get("budget", 40),
    )  # fmt: skip
    found = {f"{site} {name}": p for site, own in trained.items() for name, p in own.items()}
    return {
        "params": found, "losses": history.losses, "stopped": history.stopped, "seen": seen, "memory": memory,
        "scores": evaluate(model, trained, rows),
    }  # fmt: skip


def both(work: Callable[[], Any]) -> tuple[Any, Any]:
    """With the other rank and, at the first one, alone."""
    together = work()
    if not distributed.main_process():
        return together, None
    with distributed.alone():
        return together, work()


def plain_of(artifact: Artifact) -> dict[str, Any]:
    """What two artifacts of the same task must agree in."""
    cost = {name: value for name, value in artifact.cost.items() if name not in ("seconds", "peak_memory_bytes")}
    return {
        "head": artifact.head, "params": artifact.params, "temperature": artifact.temperature,
        "estimate": artifact.estimate, "fingerprint": artifact.fingerprint, "cost": cost, "notes": artifact.notes,
    }  # fmt: skip


def by_recipes(backbone: Backbone) -> dict[str, Any]:
    """The artifacts of ragged tasks, and of one with several labels a row, and what a fitted task answers."""
    tasks = [tiny_task(2, 6), tiny_task(3, 4, seed=1), tiny_task(2, 5, seed=2)]
    found: dict[str, Any] = {}
    for name in RECIPES:
        method = {"tune": LoRA(rank=2, dropout=0.1), "ladder": small("ladder")}.get(name)
        options: dict[str, Any] = {} if method is None else {"method": method, "steps": 6}
        artifacts = recipe("tune" if method else name)(tasks, backbone, store=FeatureCache(), **options)
        found[name] = [plain_of(artifact) for artifact in artifacts]
        found[f"{name} answers"] = Predictor(artifacts[1], backbone).scores(tasks[1].examples, FeatureCache()).logits
    (artifact,) = recipe("probe")([tiny_multilabel()], backbone, store=FeatureCache())
    return found | {"several labels": plain_of(artifact)}


def diverged() -> tuple[dict[int, str], Tensor, list[tuple[int, list[int]]]]:
    """Of three tasks the one with the most steps goes astray at its second, so that all ends early."""
    seen: list[tuple[int, list[int]]] = []
    model = Classifier(attach(tiny_text(), METHODS["lora"]), "mean", 4.0)
    schedule = Schedule(steps=(3, 9, 4), lr=(1e-3, 1e6, 1e-3), decay="constant")
    _, history = fit(
        model, params_of(model, [0, 1, 2]), rows_of([0, 1, 2]), cross_entropy, schedule, seed=0, watch_every=5,
        watch=lambda step, _, tasks: seen.append((step, list(tasks))),
    )  # fmt: skip
    return history.stopped, history.losses, seen


class _Stop(Exception):  # noqa: N818
    pass


def interrupted(first: Any, then: Any, file: Path) -> dict[str, Any]:
    """A fit that is stopped after step 5 with `first` and continued with `then`: together or alone."""
    model = Classifier(attach(tiny_text(), METHODS["lora"]), "mean", 4.0)
    memory: dict[str, Tensor] = {}

    def watch(step: int, now: Params, _: Sequence[int], last: int = 99) -> None:
        memory[str(step)] = now["head"]["weight"].sum((1, 2))
        if step >= last:
            raise _Stop

    def run(last: int) -> Any:
        return fit(
            model, params_of(model, [0, 1, 2]), rows_of([0, 1, 2]), cross_entropy, VARIED, seed=[11, 12, 13],
            watch=lambda *now: watch(*now, last=last), watch_every=1, checkpoint=file, memory=memory, budget=40,
        )  # fmt: skip

    with first():
        try:
            run(6)
        except _Stop:
            memory.clear()
    with then():
        trained, history = run(99)
    return {"params": trained["head"], "losses": history.losses, "memory": dict(memory)}


def split(folder: Path) -> dict[str, Any]:
    """Tasks over the ranks."""
    backbone, out = tiny_text(), {}
    for name, method in METHODS.items():
        out[f"fit {name}"] = both(lambda m=method: fitted(backbone, m, [0, 1, 2]))
    for name, tasks in SHORT.items():
        out[f"fit {name}"] = both(lambda t=tasks: fitted(backbone, METHODS["lora"], t))
    out["recipes"] = both(lambda: by_recipes(backbone))
    out["diverged"] = both(diverged)
    out |= features(backbone, folder)
    model = Classifier(attach(backbone, METHODS["lora"]), "mean", 4.0)
    params, rows = params_of(model, [0, 1, 2]), rows_of([0, 1, 2])
    out["evaluated"] = both(lambda: evaluate(model, params, rows, budget=20))
    kinds = {"together": nullcontext, "alone": distributed.alone}
    monkey = pytest.MonkeyPatch()
    monkey.setattr("handful.checkpoint.Checkpoint.__init__.__defaults__", (0.0,))
    rank = distributed.team().rank
    for first, then in (("together", "together"), ("together", "alone"), ("alone", "together")):
        own = f" {rank}" if first == "alone" else ""  # two alone must not write one file
        file = folder / f"{first} {then}{own}.safetensors"
        out[f"{first}, then {then}"] = interrupted(kinds[first], kinds[then], file)
    monkey.undo()
    quiet = [
        fit(model, params, rows, cross_entropy, VARIED, seed=[11, 12, 13], checkpoint=folder / "quiet.safetensors")
        for _ in range(2)  # the second finds it done
    ]
    out["quiet"] = [(trained["head"], history.losses) for trained, history in quiet]
    try:
        fit(model, params, rows, cross_entropy, Schedule(steps=1 + rank), seed=0)
    except RunError as error:
        out["disagreed"] = str(error)
    out["team"] = distributed.team()
    return out


def features(backbone: Backbone, folder: Path) -> dict[str, Any]:
    """Frozen features of rows of which some repeat and each rank knows another one."""
    adapted, asked = attach(backbone, METHODS["ladder"]), []
    pool = Batch({n: torch.cat([x, x[:3]]) for n, x in POOL.inputs.items()}, rows_mask(15))
    rank = distributed.team().rank
    known = FeatureCache()
    with distributed.alone():
        one = Batch({n: x[rank : rank + 1] for n, x in pool.inputs.items()}, rows_mask(1))
        frozen(backbone, "x", one, adapted.freeze, store=known)

    def compute(batch: Batch) -> Tensor:
        asked.append(len(batch.row_mask))
        return adapted.freeze(batch)

    store = FeatureCache(folder)
    together = frozen(backbone, "x", pool, compute, store=store, budget=20)
    with distributed.alone():
        alone = frozen(backbone, "x", pool, adapted.freeze, store=FeatureCache(), budget=20)
    computed = sum(asked)
    again = frozen(backbone, "x", pool, compute, store=store, budget=20)
    assert sum(asked) == computed
    other = frozen(backbone, "x", pool, compute, store=known, budget=20)
    distributed.team().exchange({})  # the first rank has written
    with distributed.alone():
        read = frozen(backbone, "x", pool, compute, store=FeatureCache(folder), budget=20)
    assert sum(asked) <= computed + len(POOL.row_mask)
    again = {"again": again, "known to some": other, "from the disk": read}
    return {"features": (together, alone), "features again": again, "computed": computed}


def states_and_gradients(backbone: Backbone, method: Method, model_type: str) -> list[Tensor]:
    """Of two tasks of a model."""
    modality = "text" if model_type == "clip" else None
    inputs = {n: torch.stack([x, x.flip(0)]) for n, x in tiny_inputs(model_type, 3, 8, modality=modality).items()}
    adapted = attach(backbone, method, checkpoint=model_type == "gpt2")
    params = map_params(lambda p: p.requires_grad_(), random_params(adapted.init(0, 2), scale=0.05))
    states = adapted(params, Batch(inputs, torch.ones(2, 3, dtype=torch.bool)))
    leaves = [p for own in params.values() for p in own.values()]
    found = torch.autograd.grad((states.hidden * states.mask[..., None]).square().sum(), leaves, allow_unused=True)
    return [states.hidden.detach(), *(g for g in found if g is not None)]


def shard(folder: Path, alone: dict[str, Any]) -> dict[str, Any]:
    """The backbone over the ranks, beside what one process has found with a whole one."""
    whole, out = from_model(TINY["bert"](), tokenizer(), id="tiny"), {}
    before, total = {n: p.clone() for n, p in whole.model.named_parameters()}, held_bytes(whole.model)
    backbone = sharded(from_model(TINY["bert"](), tokenizer(), id="tiny"))
    assert backbone.fingerprint == whole.fingerprint

    for name, method in METHODS.items():
        out[f"fit {name}"] = fitted(backbone, method, [0, 1, 2]), alone[f"fit {name}"][1]
    for name, tasks in SHORT.items():
        out[f"fit {name}"] = fitted(backbone, METHODS["lora"], tasks), alone[f"fit {name}"][1]
    out["recipes"] = by_recipes(backbone), alone["recipes"][1]
    for kind in FAMILIES:
        spread = sharded(from_model(TINY[kind](), id=kind))
        for name in ("lora", "layernorm"):
            pair = (spread, from_model(TINY[kind](), id=kind))
            out[f"{kind} {name}"] = tuple(states_and_gradients(b, small(name), kind) for b in pair)
    refused: dict[str, str] = {}
    adapted = attach(backbone, LoRA(rank=2))
    for name, work in {
        "merge": lambda: merge(adapted, adapted.init(0)),
        "second order": lambda: adapted(adapted.init(0), Batch(POOL.inputs, POOL.row_mask), second_order=True),
    }.items():
        try:
            work()
        except MethodError as error:
            refused[name] = str(error)
    out["refused"] = refused
    at = folder / "tiny"
    if distributed.main_process():
        save_tiny(at)
        with distributed.alone():
            save(recipe("probe")([tiny_task()], whole, store=FeatureCache())[0], at / "task")
    distributed.team().exchange({})  # now it is there
    loaded = load_backbone(at, shard=True)
    out["loaded"] = (loaded.fingerprint, loaded.num_parameters, held_bytes(loaded.model), type(loaded.device).__name__)
    out["expected"] = (whole.fingerprint, whole.num_parameters, total)
    examples = tiny_task(seed=3).examples
    out["answers"] = tuple(
        Predictor(load(at / "task"), b).scores(examples, FeatureCache()).logits for b in (loaded, whole)
    )
    out["bytes"] = (held_bytes(backbone.model), total)
    full = {n: getattr(p, "full_tensor", lambda p=p: p)() for n, p in backbone.model.named_parameters()}
    out["unchanged"] = all(torch.equal(full[n], p) for n, p in before.items())
    out["fingerprint"] = (weights_fingerprint(full.items()), weights_fingerprint(before.items()))
    return out


def main() -> None:
    """Both ways to share the work; from the second on, the ranks go in step."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    team = distributed.start(minutes=2)
    found = {"split": split(folder)}
    found["shard"] = shard(folder, found["split"])
    torch.save(found, folder / f"{team.rank}.pt")
    distributed.stop()


FAILS = """
import sys, torch
from handful import distributed
from handful.batches import stack
from handful.errors import HandfulError
from handful.fit import Schedule, fit
from handful.losses import cross_entropy
from handful.types import Batch

def model(params, batch, noise=None):
    if distributed.team().rank == 1:
        raise MemoryError("no room")
    return batch.inputs["features"] @ params["head"]["weight"]

pool = Batch({"features": torch.eye(4)}, torch.ones(4, dtype=torch.bool))
rows = stack(pool, [[0, 1], [2, 3]], [torch.tensor([0, 1])] * 2, [2, 2])
try:
    distributed.start(minutes=2)
    fit(model, {"head": {"weight": torch.zeros(2, 4, 2)}}, rows, cross_entropy, Schedule(steps=3), seed=0)
except HandfulError as error:
    sys.exit(f"error: {error}")
"""
"""A fit in which the second rank breaks."""

STAYS_AWAY = """
import sys, time
from handful import distributed
from handful.errors import HandfulError

team = distributed.start(minutes=0.05)
if team.rank == 1:
    time.sleep(60)
try:
    team.exchange({})
except HandfulError as error:
    sys.exit(f"error: {error}")
"""
"""The second rank never comes to a meeting."""


# -- starting them -----------------------------------------------------------------------------------------------------


@contextmanager
def launched(*arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two ranks, which end with the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = ENVIRONMENT | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-W", "error", *arguments]
    ranks: list[subprocess.Popen[str]] = []
    try:
        for rank in ("0", "1"):
            own = {**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            ranks.append(subprocess.Popen(command, env=own, text=True, **pipes))  # type: ignore[call-overload]
        yield ranks
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]), "GLOO_SOCKET_IFNAME": "lo",
    "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip


# -- tests -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What each rank has found, by program."""
    folder = tmp_path_factory.mktemp("ranks")
    with launched(__file__, str(folder)) as ranks:
        for process in ranks:
            said, _ = process.communicate(timeout=200)
            assert process.returncode == 0, said
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def same(got: Any, expected: Any, tolerance: float = 1e-5, where: str = "") -> None:
    """Equal in everything but the rounding of floats."""
    if isinstance(expected, Tensor):
        close = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
        torch.testing.assert_close(got, expected, msg=lambda text: f"{where}: {text}", **close)
    elif isinstance(expected, dict):
        assert set(got) == set(expected), where
        for key, value in expected.items():
            same(got[key], value, tolerance, f"{where} {key}")
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected), where
        for i, value in enumerate(expected):
            same(got[i], value, tolerance, f"{where} {i}")
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, rel=tolerance, abs=tolerance), where
    else:
        assert got == expected, where


@pytest.mark.parametrize("program", ["split", "shard"])
@pytest.mark.parametrize("fit_of", [*METHODS, *SHORT])
def test_a_fit_is_that_of_one_process(found: list[Any], program: str, fit_of: str) -> None:
    together, alone = found[0][program][f"fit {fit_of}"]
    same(together, alone)
    assert together["seen"][-1][0] == len(together["losses"])
    start = params_of(Classifier(attach(tiny_text(), METHODS["lora"]), "mean", 4.0), [2])
    if fit_of == "one task":
        moved = [(together["params"][f"{s} {n}"] - p).abs().max() for s, own in start.items() for n, p in own.items()]
        assert max(moved) > 1e-3


def test_every_rank_has_the_whole_result_to_the_bit(found: list[Any]) -> None:
    for program in ("split", "shard"):
        for name, first in found[0][program].items():
            second = found[1][program][name]
            if name.startswith(("fit", "recipes", "diverged", "evaluated")):
                first, second = first[0], second[0]
            if name not in OWN:
                same(second, first, 0.0, name)


OWN = ("team", "computed", "bytes", "loaded")
"""What is not the same on all ranks."""


@pytest.mark.parametrize("program", ["split", "shard"])
def test_recipes_make_the_same_artifacts(found: list[Any], program: str) -> None:
    together, alone = found[0][program]["recipes"]
    same(together, alone, 1e-4)
    assert len(together["tune"]) == 3
    assert together["tune"][0]["params"]


def test_a_task_that_goes_astray_ends_for_all(found: list[Any]) -> None:
    (stopped, losses, seen), alone = found[0]["split"]["diverged"]
    same((stopped, losses, seen), alone, 1e-4)
    assert list(stopped) == [1]
    assert len(losses) == 4
    assert seen == [(4, [2])]


@pytest.mark.parametrize("first", ["together", "alone"])
def test_a_fit_continues_with_more_ranks_or_fewer(found: list[Any], first: str) -> None:
    whole = found[0]["split"]["together, then together"]
    assert list(whole["memory"]) == [str(step) for step in range(1, 8)]
    got = found[0]["split"]["together, then alone" if first == "together" else "alone, then together"]
    same(got, whole)
    done, again = found[0]["split"]["quiet"]
    same(again, done, 0.0)
    same(done, (whole["params"], whole["losses"]))


def test_frozen_features_are_the_same_bits_and_each_is_computed_once(found: list[Any]) -> None:
    own = [each["split"] for each in found]
    together, alone = own[0]["features"]
    assert torch.equal(together, alone)
    assert own[0]["computed"] + own[1]["computed"] == len(INDEX[0]) + len(INDEX[1]) + 4  # of 15 rows 12 differ
    assert min(each["computed"] for each in own) >= 4
    for again in own[0]["features again"].values():
        same(again, together)


def test_scores_of_the_same_parameters_are_the_same_bits(found: list[Any]) -> None:
    together, alone = found[0]["split"]["evaluated"]
    assert torch.equal(together, alone)


def test_ranks_that_were_given_different_things_say_so(found: list[Any]) -> None:
    for each in found:
        assert "2 ranks were to share a fit. They were not given the same." in each["split"]["disagreed"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sharded_model_computes_the_same(found: list[Any], family: str) -> None:
    for name in ("lora", "layernorm"):
        got, expected = found[0]["shard"][f"{family} {name}"]
        assert len(got) > 1
        same(got, expected, 1e-4)


def test_a_sharded_backbone_is_about_half_on_each_rank_and_stays_what_it_was(found: list[Any]) -> None:
    own = [each["shard"] for each in found]
    for each in own:
        held, total = each["bytes"]
        assert held < 0.6 * total  # the tiny model's norms and positions weigh more than a real one's
        assert each["unchanged"]
        assert each["fingerprint"][0] == each["fingerprint"][1]
    table = 2 * 32 * 64 * 4  # what is whole on both: 64 positions of width 32, and less
    assert own[0]["bytes"][0] + own[1]["bytes"][0] < own[0]["bytes"][1] + 2 * table


def test_a_folder_is_loaded_in_shards_and_serves_artifacts(found: list[Any]) -> None:
    for each in found:
        fingerprint, parameters, held, _ = each["shard"]["loaded"]
        assert (fingerprint, parameters) == each["shard"]["expected"][:2]
        assert held < 0.6 * each["shard"]["expected"][2]
        same(*each["shard"]["answers"])


def test_what_needs_whole_weights_is_refused(found: list[Any]) -> None:
    refused = found[0]["shard"]["refused"]
    assert "no process holds whole weights" in refused["merge"]
    assert "first-order" in refused["second order"]


def test_one_process_cannot_be_sharded() -> None:
    with pytest.raises(RequestError, match="There is one process"):
        sharded(tiny_text())


def test_a_rank_that_fails_fails_all_and_one_that_stays_away_is_not_waited_for() -> None:
    with launched("-c", FAILS) as failing, launched("-c", STAYS_AWAY) as hanging:
        first, _ = failing[0].communicate(timeout=100)
        second, _ = failing[1].communicate(timeout=100)
        waiting, _ = hanging[0].communicate(timeout=100)
        assert [process.returncode for process in failing] == [1, 1]
        assert hanging[0].returncode == 1
    assert "MemoryError: no room" in second
    for said in (first, waiting):
        assert "error: Rank 0 of 2 was to meet the other ranks. One of them has failed, or has not come" in said
        assert "Traceback" not in said


def test_torchrun_runs_the_command_line(tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    lines = [f"{example.text},{example.label}" for example in tiny_task(2, 12).examples]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "handful"]
    done = subprocess.run(
        [*torchrun, "fit", "train.csv", "--backbone", "tiny", "--recipe", "lora", "--out", "task", "--json"],
        cwd=tmp_path, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 24  # one rank speaks
    got = load(tmp_path / "task")
    task = load_task(str(tmp_path / "train.csv"), text=None, text_pair=None, label=None, name="train")
    (expected,) = recipe("lora")([task], load_backbone(tmp_path / "tiny"))
    same(plain_of(replace(got, fingerprint=expected.fingerprint)), plain_of(expected), 1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "train.csv", "task"}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("costs", [[], [5], [1, 1, 1], [9, 1, 1, 1, 5, 2], [0, 0, 0, 7]])
def test_what_is_dealt_is_dealt_once_and_evenly(size: int, costs: list[int]) -> None:
    hands = deal(costs, size)
    assert len(hands) == size
    assert sorted(i for hand in hands for i in hand) == list(range(len(costs)))
    assert all(hand == sorted(hand) for hand in hands)
    load = [sum(costs[i] for i in hand) for hand in hands]
    assert max(load) - min(load) <= max(costs, default=0)


def test_one_process_is_a_team_of_its_own() -> None:
    team = distributed.start()
    assert (team, distributed.main_process()) == (Team(), True)
    x = torch.arange(3)
    assert team.exchange({"x": x}, "note") == [({"x": x}, "note")]
    assert list(team.rounds(iter("ab"))) == ["a", "b"]
    team.agree("nothing", "anything")


if __name__ == "__main__":
    main()
