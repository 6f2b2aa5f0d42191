"""Suites: layouts on made-up files, draws, digests, what is missing; the tasks of `../shared/data` where they are."""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handful import pools as pools_module
from handful import tables
from handful.errors import DataError, RequestError
from handful.pools import Pool
from handful.suites import Suite, base, suite, suites
from handful.suites.drawing import EpisodePool, SplitPool, count_rows
from handful.suites.shown import listing, show
from handful.types import Example, Task

SHARED = Path(__file__).parents[3] / "shared" / "data"
NEEDS_SHARED = pytest.mark.skipif(not SHARED.is_dir(), reason="the data folder ../shared/data is not here")
METRICS = {"accuracy", "macro_f1", "f1", "matthews", "entity_f1"}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)


def rows_of(count: int, start: int = 0, labels: tuple[Any, ...] = ("a", "b", "c")) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(start, start + count)]


def leopard(folder: Path, *, tested: str = "eval.jsonl.gz", union: bool = False) -> Path:
    """A made-up LEOPARD task; with `union` what is asked are the rows of all its episodes."""
    sets = {(k, i): rows_of(3 * k, 1000 * k + 48 * i) for k in (4, 8, 16) for i in range(10)}
    for (k, i), rows in sets.items():
        write(folder / f"train_k{k}_ep{i}.jsonl", rows)
    every = {row["text"]: row for rows in sets.values() for row in rows}
    write(folder / tested, list(every.values()) if union else rows_of(120, 500_000))
    return folder


def release(folder: Path, name: str) -> Path:
    """The same in the layout of the release: lists of records, here pairs."""
    folder.mkdir(parents=True)

    def records(count: int, start: int) -> str:
        found = [
            {"sentence1": f"first {i}", "sentence2": f"second {i}", "label": "xy"[i % 2], "processed_sent": "[CLS]"}
            for i in range(start, start + count)
        ]
        return json.dumps(found)

    for k in (4, 8, 16):
        for i in range(10):
            (folder / f"{name}_train_{i}_{k}.json").write_text(records(2 * k, 1000 * k + 48 * i))
    (folder / f"{name}_eval.json").write_text(records(110, 500_000))
    return folder


def bbc(folder: Path, suffix: str = ".jsonl") -> Path:
    """A made-up task of the SetFit suites, of a set whose sizes are not known; one test row is a training row too."""
    write(folder / f"train{suffix}", rows_of(90))
    write(folder / f"test{suffix}", [*rows_of(30, 100), rows_of(1)[0]])
    return folder


def low_resource(where: Path, train: int = 250, asked: int = 56) -> Path:
    """SuperGLUE's CB in its sizes, with labels as numbers."""
    pairs = [{"premise": f"p {i}", "hypothesis": f"h {i}", "label": i % 3} for i in range(train + asked)]
    write(where / "cb" / "train.jsonl", pairs[:train])
    write(where / "cb" / "dev.jsonl", pairs[train:])
    return where


def only(found: list[Pool]) -> Pool:
    (pool,) = found
    return pool


def texts(task: Task) -> list[str]:
    return [example.text for example in task.examples]


# -- lists -------------------------------------------------------------------------------------------------------------


def test_names_and_counts_of_the_suites() -> None:
    counts = {name: len(own.tasks) for name, own in suites().items()}
    papers = {"leopard": 17, "glue": 8, "superglue": 6, "setfit-dev": 8, "setfit-test": 6, "bigbench": 24}
    assert papers.items() <= counts.items()
    for name, own in suites().items():
        assert own.name == name
        assert suite(name) is own
        assert len({task.name for task in own.tasks}) == len(own.tasks)


def test_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'glu' was asked for.*leopard, glue, superglue, setfit-dev"):
        suite("glu")


@pytest.mark.parametrize("own", suites().values(), ids=lambda own: own.name)
def test_every_task_says_what_it_is(own: Suite) -> None:
    assert own.protocol
    assert own.source
    for task in own.tasks:
        assert task.licence
        assert task.purpose in ("any", "evaluation")
        assert task.unserved or task.kind in ("classification", "tagging", "choice")
        assert not task.unserved or task.kind not in ("classification", "tagging")
        assert task.unserved or (
            task.metric in METRICS and (task.num_classes > 1 or own.name == "raft" or task.kind == "choice")
        )
        assert not task.classes or len(task.classes) == task.num_classes


@pytest.mark.parametrize("own", suites().values(), ids=lambda own: own.name)
def test_published_figures_have_sources_and_known_tasks(own: Suite) -> None:
    names = {task.name for task in own.tasks} | {"average"}
    for row in own.published:
        assert row.task in names
        assert row.shots is None or row.shots in own.shots
        assert 0 < row.value < 100
        assert len(row.source) > 30
    assert len({(r.system, r.backbone, r.task, r.shots) for r in own.published}) == len(own.published)


def test_published_averages_are_the_means_of_their_cells() -> None:
    rows = {(r.system, r.backbone, r.task, r.shots): r.value for r in suite("setfit-test").published}
    for system, backbone in (("SetFit", "paraphrase-mpnet-base-v2"), ("T-Few", "T0 (11B)")):
        for shots in (8, 64):
            cells = [rows[system, backbone, task.name, shots] for task in suite("setfit-test").tasks[:-1]]
            assert round(float(np.mean(cells)), 1) == rows[system, backbone, "average", shots]


def test_importing_the_suites_is_light() -> None:
    code = (
        "import sys, handful.suites as s; s.suites(); print({'torch', 'numpy', 'datasets', 'rich'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# -- LEOPARD -----------------------------------------------------------------------------------------------------------


def test_leopard_gives_the_released_sets(tmp_path: Path) -> None:
    leopard(tmp_path / "leopard_emotion")
    pool = only(suite("leopard").pools(tmp_path))
    assert (pool.name, pool.suite, pool.metric) == ("emotion", "leopard", "accuracy")
    episode = pool.episode(8, 3)
    assert texts(episode.support) == [row["text"] for row in rows_of(24, 8000 + 144)]
    assert len(episode.query.examples) == 120
    assert episode.support.labels == episode.query.labels == ("a", "b", "c")
    assert episode.support.name == "emotion"


@pytest.mark.parametrize(("shots", "seed"), [(32, 0), (4, 10), (4, -1)])
def test_leopard_has_no_other_episodes(tmp_path: Path, shots: int, seed: int) -> None:
    leopard(tmp_path / "leopard_emotion")
    with pytest.raises(DataError, match=r"fixed: shots \[4, 8, 16\], seeds 0 to 9"):
        only(suite("leopard").pools(tmp_path)).episode(shots, seed)


def test_leopard_union_leaves_out_the_episode_in_use(tmp_path: Path) -> None:
    leopard(tmp_path / "leopard_rating_kitchen", tested="eval_union.jsonl", union=True)
    pool = only(suite("leopard").pools(tmp_path))
    assert isinstance(pool, EpisodePool)
    assert pool.union
    every = count_rows(Path(pool.tested))
    for shots, seed in [(4, 0), (16, 9)]:
        episode = pool.episode(shots, seed)
        assert not set(texts(episode.support)) & set(texts(episode.query))
        assert len(episode.query.examples) == every - 3 * shots


def test_leopard_overlaps_of_the_release_stay(tmp_path: Path) -> None:
    folder = leopard(tmp_path / "leopard_emotion", tested="eval.jsonl")
    write(folder / "eval.jsonl", [*rows_of(120, 500_000), *rows_of(12, 4000)])
    episode = only(suite("leopard").pools(tmp_path)).episode(4, 0)
    assert set(texts(episode.support)) < set(texts(episode.query))
    assert len(episode.query.examples) == 132


def test_leopard_release_layout_with_pairs(tmp_path: Path) -> None:
    release(tmp_path / "data" / "json" / "rating_kitchen", "any_prefix")
    episode = only(suite("leopard").pools(tmp_path)).episode(16, 9)
    assert episode.support.examples[0] == Example(f"first {16000 + 432}", f"second {16000 + 432}", "x")
    assert len(episode.query.examples) == 110


@pytest.mark.parametrize(("split", "suffix"), [("train_k8_ep7", ".jsonl"), ("eval", ".jsonl.gz")])
def test_leopard_missing_split_is_named(tmp_path: Path, split: str, suffix: str) -> None:
    folder = leopard(tmp_path / "leopard_emotion")
    (folder / f"{split}{suffix}").unlink()
    with pytest.raises(DataError, match=rf"leopard/emotion was to be read.*no split {split}\."):
        suite("leopard").pools(tmp_path)
    assert f"no split {split}." in suite("leopard").missing(tmp_path)["emotion"]


def test_leopard_evaluation_file_that_is_cut_off_or_another_is_refused(tmp_path: Path) -> None:
    write(leopard(tmp_path / "leopard_emotion") / "eval.jsonl.gz", rows_of(3))
    leopard(tmp_path / "leopard_airline")
    assert suite("leopard").pools(tmp_path) == []
    missing = suite("leopard").missing(tmp_path)
    assert "holds only 3 rows" in missing["emotion"]
    assert "120 in eval.jsonl.gz, the paper's are 7,320" in missing["airline"]


def test_leopard_release_lacks_two_evaluation_files(tmp_path: Path) -> None:
    for name in ("rating_dvd", "conll"):
        (release(tmp_path / "json" / name, name) / f"{name}_eval.json").unlink()
    assert "no evaluation file" in suite("leopard").missing(tmp_path)["rating_dvd"]
    with pytest.raises(DataError, match=r"leopard/conll.*no split eval"):
        suite("leopard").pools(tmp_path)


# -- training and test splits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["bbc-news", "setfit/bbc-news"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_setfit_draws_by_class_and_never_a_test_row(tmp_path: Path, folder: str, suffix: str) -> None:
    bbc(tmp_path / folder, suffix)
    pool = only(suite("setfit-dev").pools(tmp_path))
    assert (pool.name, pool.suite, pool.metric) == ("bbc-news", "setfit-dev", "accuracy")
    for seed in range(10):
        episode = pool.episode(8, seed)
        assert Counter(example.label for example in episode.support.examples) == {"a": 8, "b": 8, "c": 8}
        assert not set(texts(episode.support)) & set(texts(episode.query))
    assert len(episode.query.examples) == 31  # the row that is in both splits is still asked
    whole = pool.episode(64, 0)  # no class has so many: all but the row that is asked
    assert len(whole.support.examples) == 89


def test_setfit_draws_are_those_of_the_authors(tmp_path: Path) -> None:
    """pandas' `sample(n, random_state=seed)` of a class is `RandomState(seed).choice(rows, n, replace=False)`."""
    write(tmp_path / "bbc-news" / "train.jsonl", rows_of(90))
    write(tmp_path / "bbc-news" / "test.jsonl", rows_of(30, 100))
    pool = only(suite("setfit-dev").pools(tmp_path))
    for seed in range(3):
        chosen = np.random.RandomState(seed).choice(30, size=8, replace=False)
        theirs = {f"text {3 * int(i) + shift}" for i in chosen for shift in range(3)}
        assert set(texts(pool.episode(8, seed).support)) == theirs


def test_trec_is_read_by_its_fine_types(tmp_path: Path) -> None:
    def rows(count: int) -> list[dict[str, Any]]:
        return [{"text": f"{count} {i}", "label": f"{i % 2}", "fine_label": f"{i % 2}:{i % 50}"} for i in range(count)]

    write(tmp_path / "trec" / "train.jsonl", rows(5452))
    write(tmp_path / "trec" / "test.jsonl", rows(500))
    pool = only(suite("setfit-dev").pools(tmp_path))
    assert len(pool.episode(8, 0).support.labels) == 50


def test_low_resource_draws_have_exactly_so_many_rows(tmp_path: Path) -> None:
    low_resource(tmp_path)
    pool = only(suite("superglue").pools(tmp_path))
    assert (pool.name, pool.metric) == ("cb", "macro_f1")
    draws = [pool.episode(100, seed) for seed in range(3)]
    for episode in draws:
        assert len(episode.support.examples) == 100
        assert len({example.text_pair for example in episode.support.examples}) == 100
        assert episode.support.labels == ("entailment", "contradiction", "neutral")
    assert len({tuple(texts(episode.support)) for episode in draws}) == 3
    asked = draws[0].query
    assert all(episode.query == asked for episode in draws)
    assert len(asked.examples) == 28  # half of 56, the same half for every draw
    assert asked.examples[0].label in asked.labels


@pytest.mark.parametrize("shots", [500, 251, 0])
def test_low_resource_says_so_where_rows_are_too_few(tmp_path: Path, shots: int) -> None:
    pool = only(suite("superglue").pools(low_resource(tmp_path)))
    assert len(pool.episode(250, 0).support.examples) == 250
    with pytest.raises(DataError, match=rf"{shots} training rows in all of superglue/cb.*There are 250"):
        pool.episode(shots, 0)


def test_word_in_context_shows_the_word(tmp_path: Path) -> None:
    rows = [
        {"word": f"w{i}", "sentence1": f"s {i}", "sentence2": f"t {i}", "label": i % 3 == 0} for i in range(5428 + 638)
    ]
    write(tmp_path / "one" / "wic" / "train.jsonl", rows[:5428])
    write(tmp_path / "one" / "wic" / "validation.jsonl", rows[5428:])
    episode = only(suite("superglue").pools(tmp_path / "one")).episode(100, 1)
    first = episode.support.examples[0]
    number = first.text.removeprefix("w").partition(":")[0]
    assert first == Example(f"w{number}: s {number}", f"t {number}", str(int(number) % 3 == 0))
    for row in rows:
        del row["word"]
    write(tmp_path / "two" / "wic" / "train.jsonl", rows[:5428])
    write(tmp_path / "two" / "wic" / "validation.jsonl", rows[5428:])
    with pytest.raises(DataError, match="no column 'word'"):
        only(suite("superglue").pools(tmp_path / "two")).episode(100, 1)


def test_rows_without_a_text_are_left_out(tmp_path: Path) -> None:
    folder = bbc(tmp_path / "bbc-news")
    write(folder / "test.jsonl", [*rows_of(30, 100), {"text": "  ", "label": "a"}, {"text": None, "label": "b"}])
    assert len(only(suite("setfit-dev").pools(tmp_path)).episode(8, 0).query.examples) == 30


def test_unknown_label_of_a_test_row_is_refused(tmp_path: Path) -> None:
    write(bbc(tmp_path / "bbc-news") / "test.jsonl", rows_of(30, 100, labels=("a", "z")))
    with pytest.raises(DataError, match=r"labels of .*test\.jsonl.*'z'.*classes are 'a', 'b', 'c'"):
        only(suite("setfit-dev").pools(tmp_path)).episode(8, 0)


@pytest.mark.parametrize(
    ("name", "folder", "gone"),
    [("setfit-dev", "bbc-news", "test"), ("setfit-dev", "bbc-news", "train"), ("bigbench", "navigate", "test")],
)
def test_missing_split_is_named(tmp_path: Path, name: str, folder: str, gone: str) -> None:
    (bbc(tmp_path / folder) / f"{gone}.jsonl").unlink()
    with pytest.raises(DataError, match=rf"{name}/{folder} was to be read from .*no split {gone}\."):
        suite(name).pools(tmp_path)


def test_missing_validation_split_is_named_by_all_its_names(tmp_path: Path) -> None:
    (low_resource(tmp_path) / "cb" / "dev.jsonl").unlink()
    with pytest.raises(DataError, match="no split validation or dev"):
        suite("superglue").pools(tmp_path)


def test_another_data_set_of_the_same_name_is_not_taken(tmp_path: Path) -> None:
    bbc(tmp_path / "subj")
    assert suite("setfit-dev").pools(tmp_path) == []
    assert "holds other rows: 90 in train.jsonl, the paper's are 8,000" in suite("setfit-dev").missing(tmp_path)["subj"]


def test_absent_folder_is_refused_and_absent_tasks_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data of glue was to be found in .*no such folder"):
        suite("glue").pools(tmp_path / "nowhere")
    missing = suite("glue").missing(tmp_path)
    assert set(missing) == {task.name for task in suite("glue").tasks}
    assert missing["stsb"] == "not served yet: a number is asked, not a class"
    assert missing["rte"].startswith("no folder glue/rte or rte in ")


# -- the hub -----------------------------------------------------------------------------------------------------------


def hub_table(name: str, split: str) -> tables.Table:
    rows = [{"text": f"{split} {i}", "label": i % 2, "label_text": "x"} for i in range(40)]
    return tables.Table(f"{name} {split}", ("text", "label", "label_text"), rows, range(40), "row")


def test_hub_tasks_are_read_by_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_hub", hub_table)
    monkeypatch.setattr(base, "why_not_on_hub", lambda hub: "" if hub == "SetFit/sst2" else "not here")
    own = suite("setfit-dev")
    pool = only(own.pools(None))
    assert set(own.missing(None).values()) == {"not here"}
    episode = pool.episode(8, 0)
    assert episode.support.labels == ("negative", "positive")
    assert all(text.startswith("train ") for text in texts(episode.support))
    assert texts(episode.query) == [f"test {i}" for i in range(40)]
    assert pool.digest() == pool.digest()
    assert len(pool.contents()) == 2


def test_offline_hub_tasks_that_were_never_downloaded_are_missing(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    code = (
        "from handful.suites import suite\n"
        "own = suite('setfit-test')\n"
        "print(len(own.pools()), set(own.missing()) == {task.name for task in own.tasks})\n"
        "print(own.missing()['emotion'])"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines()[0] == "0 True"
    assert "HF_HUB_OFFLINE is set and SetFit/emotion was not downloaded before" in done.stdout


def test_tasks_that_are_on_no_hub_ask_for_their_folder() -> None:
    for name in ("leopard", "bigbench"):
        assert suite(name).pools(None) == []
        assert all("--data" in reason for reason in suite(name).missing(None).values())


# -- pools -------------------------------------------------------------------------------------------------------------


def made_up(tmp_path: Path, kind: str) -> Pool:
    if kind == "leopard":
        leopard(tmp_path / "leopard_emotion")
        return only(suite("leopard").pools(tmp_path))
    bbc(tmp_path / "bbc-news")
    return only(suite("setfit-dev").pools(tmp_path))


@pytest.mark.parametrize("kind", ["leopard", "setfit"])
def test_pools_pickle_and_draw_the_same_in_another_process(tmp_path: Path, kind: str) -> None:
    pool = made_up(tmp_path, kind)
    kept = tmp_path / "pool.pickle"
    kept.write_bytes(pickle.dumps(pool))
    code = (
        "import json, pathlib, pickle, sys\n"
        "pool = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "episode = pool.episode(8, 1)\n"
        "parts = [[e.text for e in part.examples] for part in (episode.support, episode.query)]\n"
        "print(json.dumps([pool.digest(), parts]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(kept)], capture_output=True, text=True, check=True)
    episode = pool.episode(8, 1)
    assert json.loads(done.stdout) == [pool.digest(), [texts(episode.support), texts(episode.query)]]


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("leopard", "leopard_emotion/train_k4_ep9.jsonl"), ("leopard", "leopard_emotion/eval.jsonl.gz"),
        ("setfit", "bbc-news/train.jsonl"), ("setfit", "bbc-news/test.jsonl"),
    ],
)  # fmt: skip
def test_digest_changes_with_a_byte_of_any_file(tmp_path: Path, kind: str, file: str) -> None:
    pool, other = made_up(tmp_path / "one", kind), made_up(tmp_path / "two", kind)
    path = tmp_path / "two" / file
    changed = bytearray(path.read_bytes())
    changed[-2] ^= 1
    path.write_bytes(changed)
    assert pool.digest() != other.digest()
    assert len(set(pool.contents()) - set(other.contents())) == 1


def test_digest_reads_no_rows_and_does_not_depend_on_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = made_up(tmp_path / "one", "setfit"), made_up(tmp_path / "two", "setfit")
    monkeypatch.setattr(tables, "read_table", lambda *_: pytest.fail("a row was read"))
    assert first.digest() == second.digest()
    assert isinstance(first, SplitPool)
    assert pools_module.content(first.train.source) in first.contents()


# -- showing -----------------------------------------------------------------------------------------------------------


def test_listing_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing(as_json=True)
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(suites())
    made_up(tmp_path, "setfit")
    bbc(tmp_path / "subj")
    show("setfit-dev", tmp_path, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    status = {task["name"]: task["status"] for task in shown["tasks"]}
    assert status["bbc-news"] == "found"
    assert status["imdb"].startswith("missing: no folder setfit/imdb")
    assert status["subj"].startswith("missing: ")
    assert shown["shots"] == [8, 64]


def test_show_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leopard(tmp_path / "leopard_rating_kitchen", tested="eval_union.jsonl", union=True)
    show("leopard", tmp_path)
    out = capsys.readouterr().out
    assert "found (union)" in out
    assert "No published figures are listed." in out
    assert "licence: scitail: any use" in out
    show("setfit-test", tmp_path)
    out = capsys.readouterr().out
    assert "62.3 ± 4.9" in out
    assert "summary_table.csv" in out


# -- the data folder ---------------------------------------------------------------------------------------------------


@NEEDS_SHARED
def test_shared_leopard_tasks() -> None:
    own = suite("leopard")
    found = {pool.name: pool for pool in own.pools(SHARED)}
    assert len(found) == 10
    tasks = {task.name: task for task in own.tasks}
    for name, pool in found.items():
        assert isinstance(pool, EpisodePool)
        for shots in own.shots:
            episode = pool.episode(shots, 9)
            assert episode.support.labels == tasks[name].classes
            assert set(Counter(example.label for example in episode.support.examples).values()) == {shots}
            (rows,) = tasks[name].rows.values()
            left_out = len(episode.support.examples) if pool.union else 0
            assert len(episode.query.examples) == rows - left_out
    assert {name for name, pool in found.items() if isinstance(pool, EpisodePool) and pool.union} == {
        "rating_dvd",
        "rating_electronics",
    }


@NEEDS_SHARED
def test_shared_bigbench_tasks() -> None:
    own = suite("bigbench")
    assert own.missing(SHARED) == {}
    for task, pool in zip(own.tasks, own.pools(SHARED), strict=True):
        episode = pool.episode(4, 0)
        assert len(episode.query.labels) == task.num_classes
        assert len(episode.support.examples) == 4 * task.num_classes
        assert len(episode.query.examples) == task.rows["test"]


@NEEDS_SHARED
def test_shared_folders_that_are_other_data_sets_are_not_taken() -> None:
    assert [pool.name for pool in suite("setfit-dev").pools(SHARED)] == ["sst2", "TREC-QC"]
    assert "the paper's are 8,000" in suite("setfit-dev").missing(SHARED)["subj"]
    for name in ("glue", "superglue", "setfit-test"):
        assert suite(name).pools(SHARED) == []
    assert "the paper's are 67,349" in suite("glue").missing(SHARED)["sst2"]


def test_a_task_of_a_suite() -> None:
    assert [task.name for task in suite("dev/snips").tasks] == ["snips"]
    with pytest.raises(RequestError, match=r"'snaps' of the suite 'dev'[\s\S]*clinc150, snips"):
        suite("dev/snaps")
