"""`handful compare` and `handful runs` as a person meets them: killed, on a cluster, wrongly asked."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from handful.store import Store
from tinytext import save_tiny, write_task

RECIPES = "probe,prototypes,lora:rank=2:steps=6:num_folds=0,ladder:reduction=4:steps=6:num_folds=0"
GRID = ("two", "three", "--recipes", RECIPES, "--shots", "2,4", "--seeds", "3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    save_tiny(folder / "tiny")
    for name, classes in (("two", 2), ("three", 3)):
        write_task(folder / name / "train.csv", classes=classes, rows=12)
        write_task(folder / name / "test.csv", classes=classes, seed=1)
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "handful", *map(str, arguments)]


def handful(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=place, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )  # fmt: skip


def compare(place: Path, store: str, *options: object) -> subprocess.CompletedProcess[str]:
    return handful(place, "compare", *GRID, "--backbones", "tiny", "--store", store, *options)


def scores(place: Path, store: str) -> dict[tuple[Any, ...], float | None]:
    return {r.cell.place: r.outcome.score if r.outcome else None for r in Store(place / store).results()}


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[tuple[Any, ...], float | None]:
    """The table of an undisturbed run."""
    done = compare(place, "whole.sqlite")
    assert done.returncode == 0, done.stderr
    assert "48 of 48 cells in whole.sqlite, 48 of them run just now." in done.stdout
    return scores(place, "whole.sqlite")


def test_the_table_and_the_second_call(place: Path, whole: dict[Any, float]) -> None:
    again = compare(place, "whole.sqlite")
    assert again.returncode == 0
    assert "0 of them run just now" in again.stdout
    assert [line.split()[0] for line in again.stdout.splitlines()[1:5]] == [
        "probe", "prototypes", "lora:num_folds=0:rank=2:steps=6", "ladder:num_folds=0:reduction=4:steps=6",
    ]  # fmt: skip
    own = [score for place_, score in whole.items() if place_[0] == "probe" and place_[4] == 4]
    assert f"{100 * sum(own) / len(own):.1f}" in again.stdout.splitlines()[1]


def kill_when(place: Path, store: str, done: int) -> None:
    """Starts the comparison and kills it, workers and all left to themselves, once so many cells are done."""
    process = subprocess.Popen(
        command("compare", *GRID, "--backbones", "tiny", "--store", store, "--jobs", "2"), cwd=place,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 200
    while not (place / store).exists() or Store(place / store).counts()["done"] < done:
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_twice_and_resumed_is_undisturbed(place: Path, whole: dict[Any, float]) -> None:
    kill_when(place, "killed.sqlite", 1)
    first = Store(place / "killed.sqlite").counts()
    assert first["running"] > 0
    kill_when(place, "killed.sqlite", first["done"] + 1)
    left = 48 - Store(place / "killed.sqlite").counts()["done"]
    done = compare(place, "killed.sqlite")
    assert done.returncode == 0, done.stderr
    assert "48 of 48 cells" in done.stdout
    ran = re.search(r"(\d+) of them run just now", done.stdout)
    assert ran is not None
    assert int(ran[1]) <= left
    assert scores(place, "killed.sqlite") == whole
    assert {result.attempts for result in Store(place / "killed.sqlite").results()} == {1}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one processor each, every one in processes of its own."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    code = (
        "import sys, ray\nfrom ray.cluster_utils import Cluster\n"
        "small = {'num_cpus': 1, 'object_store_memory': 80 << 20}\n"
        "cluster = Cluster(initialize_head=True, head_node_args=small)\ncluster.add_node(**small)\n"
        "print(cluster.address, flush=True)\nsys.stdin.read()\ncluster.shutdown()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1", MARK: str(os.getpid())},
    )  # fmt: skip
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate(timeout=60)


MARK = "HANDFUL_TEST_CLUSTER"
"""Told to the nodes of a test's cluster, and so to their workers: others may have clusters on this machine."""


def ray_workers() -> list[int]:
    """Processes that run a job for this test's cluster now: Ray names them after what they do."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"{MARK}={os.getpid()}\0".encode() in folder.joinpath("environ").read_bytes()
            if mine and folder.joinpath("cmdline").read_bytes().startswith(b"ray::run"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds Ray's workers in /proc")
def test_a_ray_cluster_loses_a_worker(place: Path, whole: dict[Any, float], cluster: str) -> None:
    process = subprocess.Popen(
        command("compare", *GRID, "--backbones", "tiny", "--store", "ray.sqlite", "--ray", cluster, "--json"),
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 200
    while not (workers := ray_workers()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0] == {"event": "start", "cells": 48, "done": 0}
    cells = [event for event in events if event["event"] == "cell"]
    assert len(cells) == len({event["key"] for event in cells}) == 48
    assert events[-1] == {"event": "end", "done": 48, "failed": 0, "lost": 1, "finished_here": 48}
    assert scores(place, "ray.sqlite") == whole


def test_no_cluster_at_the_address(place: Path) -> None:
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    done = compare(place, "none.sqlite", "--ray", "127.0.0.1:1")
    assert done.returncode == 1
    assert "ray start --head" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failing_recipe_leaves_the_rest(place: Path) -> None:
    arguments = ("compare", "two", "--backbones", "tiny", "--shots", "2", "--seeds", "2", "--store", "some.sqlite")
    done = handful(place, *arguments, "--recipes", "probe,lora:rank=0")
    assert done.returncode == 1
    assert "2 of 4 cells in some.sqlite" in done.stdout
    assert "failed: lora:rank=0 on two, k = 2, seed 0 (and 1 more cells): " in done.stderr
    listed = handful(place, "runs", "list", "some.sqlite", "--json")
    assert [(row["done"], row["failed"]) for row in json.loads(listed.stdout)] == [(0, 2), (2, 0)]
    shown = handful(place, "runs", "show", "some.sqlite", "--failed")
    assert "Traceback" in shown.stdout
    retried = handful(place, "runs", "retry", "some.sqlite")
    assert "2 failed cells are on the list again" in retried.stdout
    exported = [json.loads(line) for line in handful(place, "runs", "export", "some.sqlite").stdout.splitlines()]
    assert sorted(row["status"] for row in exported) == ["done", "done", "pending", "pending"]
    key = next(row["key"] for row in exported if row["status"] == "done")
    assert "its own estimate" in handful(place, "runs", "show", "some.sqlite", key[:12]).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["two", "--jobs", "2", "--ray", "auto"], "--jobs 2 and --ray auto were both given"),
        (["two", "three", "--test", "x.csv"], "There are 2 data sources"),
        (["two", "--data", "."], "was given without a suite"),
        (["leopard", "--ways", "3"], "with options about its data"),
        (["two", "--shots", "4,many"], "no list of whole numbers"),
        (["two", "--shots", "0"], "no list of whole numbers"),
        (["two", "--recipes", "lorra"], "The method 'lorra' was asked for"),
        (["two", "--recipes", "lora:rank"], "'rank' is not an option"),
        (["two", "--recipes", ","], "No recipe was given in it"),
        (["two", "--backbones", "tini"], "The backbone 'tini' was asked for"),
        (["tow"], "There is no such file"),
        (["-"], "read only once"),
        (["two", "--store", "two/train.csv"], "not a database"),
    ],
)
def test_what_cannot_be_compared(place: Path, arguments: list[str], said: str) -> None:
    options = [] if "--backbones" in arguments else ["--backbones", "tiny"]
    done = handful(place, "compare", *arguments, *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (place / "runs.sqlite").exists()


def test_choosing_options_on_validation_tasks(place: Path) -> None:
    if find_spec("optuna") is None:
        pytest.skip("optuna is not installed")
    recipe = "lora:rank=2:num_folds=0"
    arguments = (
        "search", "two", "--recipe", recipe, "--vary", "lr=1e-4..1e-1", "--vary", "steps=2..6", "--trials", "3",
        "--shots", "2", "--seeds", "2", "--backbone", "tiny", "--store", "chosen.sqlite", "--json",
    )  # fmt: skip
    done = handful(place, *arguments)
    assert done.returncode == 0, done.stderr
    *trials, end = [json.loads(line) for line in done.stdout.splitlines()]
    assert trials[0]["recipe"] == "lora:num_folds=0:rank=2"
    assert end["score"] == max(trial["score"] for trial in trials)
    assert handful(place, *arguments).stdout == done.stdout
    options = ("--backbones", "tiny", "--shots", "2", "--seeds", "1", "--store", "chosen.sqlite")
    refused = handful(place, "compare", "two", "--recipes", end["recipe"], *options)
    assert refused.returncode == 2
    assert "chosen on that very task" in refused.stderr
    assert handful(place, "compare", "three", "--recipes", end["recipe"], *options).returncode == 0
