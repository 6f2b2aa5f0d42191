"""Seeded draws: sizes, disjointness, stratification, determinism."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handful import episodes
from handful.episodes import folds, max_folds, sample, shots, split, subset
from handful.errors import DataError, HandfulWarning, RequestError
from handful.types import Example, Task


def make(rows, labels=None, kind="classification"):
    """A task from (text, label) rows."""
    names = [name for _, y in rows for name in (y if isinstance(y, tuple) else (y,))]
    return Task("t", [Example(t, None, y) for t, y in rows], labels or tuple(dict.fromkeys(names)), kind)


def plain(**counts):
    """So many rows with different texts per class, mixed."""
    rows = [(f"{name} {i}", name) for name, count in counts.items() for i in range(count)]
    return make(sorted(rows, key=lambda row: row[0][::-1]), labels=tuple(counts))


def texts(task):
    return {e.text for e in task.examples}


def count(task):
    return Counter(e.label for e in task.examples)


rows_of_few_texts = st.lists(
    st.tuples(st.sampled_from("abcdefghijkl"), st.sampled_from("xyz")), min_size=1, max_size=30
)
multilabel_rows = st.lists(
    st.tuples(st.sampled_from("abcdefghijkl"), st.lists(st.sampled_from("xyz"), unique=True).map(tuple)),
    min_size=1,
    max_size=30,
)
seeds = st.integers(0, 2**40)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HandfulWarning)
        yield


def test_shots():
    task = plain(b=9, a=5, c=2)
    with pytest.warns(HandfulWarning, match=r"Fewer than 3 examples in 1 of 3 classes of t: 'c' has 2. All of them"):
        few = shots(task, 3, seed=0)
    assert count(few) == {"b": 3, "a": 3, "c": 2}
    assert few.labels == ("b", "a", "c")
    assert few.name == "t"
    order = [task.examples.index(e) for e in few.examples]
    assert order == sorted(order)
    assert len({frozenset(texts(shots(task, 3, seed=s))) for s in range(20)}) > 10


def test_shots_of_a_class_ignore_other_classes():
    one, two = shots(plain(a=9, b=9), 3, seed=1), shots(plain(c=30, b=4, a=9), 3, seed=1)
    assert {t for t in texts(one) if t[0] == "a"} == {t for t in texts(two) if t[0] == "a"}


def test_shots_prefer_different_texts():
    task = make([("same", "x")] * 20 + [("one", "x"), ("two", "x"), ("other", "y")])
    assert texts(shots(task, 3, seed=0)) == {"same", "one", "two", "other"}
    assert count(shots(task, 5, seed=0))["x"] == 5


@given(multilabel_rows, st.integers(1, 4), seeds)
def test_multilabel_shots_cover_every_label(rows, k, seed):
    task = make(rows, labels=("x", "y", "z"), kind="multilabel")
    few = shots(task, k, seed=seed)

    def tally(t):
        return Counter(name for e in t.examples for name in (e.label or ["none"]))

    have, drawn = tally(task), tally(few)
    assert all(drawn[name] >= min(k, have[name]) for name in have)
    assert len(few.examples) <= k * 4


@given(rows_of_few_texts, st.integers(2, 6), seeds)
def test_folds_of_a_task(rows, num_folds, seed):
    task = make(rows)
    different = {y: {t for t, z in rows if z == y} for y in task.labels}
    try:
        parts = folds(task, num_folds, seed=seed)
    except DataError:
        assert max_folds(task) == 0 or len({t for t, _ in rows}) < len(rows)
        return
    held = np.concatenate(parts)
    assert len(parts) <= min(num_folds, max_folds(task))
    assert len(set(held.tolist())) == len(held)
    for part in parts:
        assert part.dtype == np.int64
        assert list(part) == sorted(part)
        inside = {rows[i][0] for i in part}
        outside = [rows[i] for i in range(len(rows)) if i not in set(part.tolist())]
        assert not inside & {t for t, _ in outside}
        assert {y for _, y in outside} == set(task.labels)
    for y, found in different.items():
        if len(found) == 1:
            assert not {i for i in held if rows[i][1] == y}


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(2, 6), seeds)
def test_folds_of_labels_are_stratified(counts, num_folds, seed):
    labels = [y for y, n in enumerate(counts) for _ in range(n)]
    most = min((n for n in counts if n > 1), default=0)
    assert max_folds(labels) == most
    if not most:
        with pytest.raises(DataError, match="hold out rows of the given labels"):
            folds(labels, num_folds, seed=seed)
        return
    parts = folds(np.array(labels), num_folds, seed=seed)
    assert len(parts) == min(num_folds, most)
    assert sorted(np.concatenate(parts).tolist()) == [i for i, y in enumerate(labels) if counts[y] > 1]
    for y, n in enumerate(counts):
        per_fold = [sum(labels[i] == y for i in part) for part in parts]
        assert n == 1 or max(per_fold) - min(per_fold) <= 1
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(multilabel_rows, st.integers(2, 4), seeds)
def test_folds_of_a_multilabel_task(rows, num_folds, seed):
    task = make(rows, labels=("x", "y", "z"), kind="multilabel")
    try:
        parts = folds(task, num_folds, seed=seed)
    except DataError:
        return
    for part in parts:
        left = [rows[i][1] for i in range(len(rows)) if i not in set(part.tolist())]
        assert {x for y in left for x in y} == {x for _, y in rows for x in y}


def test_fewer_folds_than_asked_for():
    with pytest.warns(HandfulWarning, match="5 folds were asked for, 3 made: the smallest class of t has 3"):
        assert len(folds(plain(a=3, b=9, c=1), 5, seed=0)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(folds(plain(a=3, b=9, c=1), 3, seed=0)) == 3


@given(rows_of_few_texts, st.floats(0.05, 0.95), seeds)
def test_split(rows, fraction, seed):
    task = make(rows)
    try:
        train, test = split(task, fraction, seed=seed)
    except DataError:
        return
    assert Counter(map(id, [*train.examples, *test.examples])) == Counter(map(id, task.examples))
    assert not texts(train) & texts(test)
    assert set(count(train)) == set(task.labels)


def test_split_sizes():
    train, test = split(plain(a=10, b=2, c=1), 0.3, seed=0)
    assert count(test) == {"a": 3, "b": 1}
    assert count(train) == {"a": 7, "b": 1, "c": 1}
    bare = make([(str(i), ("x",) if i % 2 else ()) for i in range(10)], kind="multilabel")
    assert count(split(bare, 0.4, seed=0)[1]) == {("x",): 2, (): 2}


@given(rows_of_few_texts, st.integers(1, 3), st.sampled_from([None, 1, 2]), st.sampled_from([None, 2]), seeds)
def test_sample(rows, k, query, ways, seed):
    task = make(rows)
    contents = {t: {y for u, y in rows if u == t} for t, _ in rows}
    sizes = Counter(next(iter(found)) for found in contents.values() if len(found) == 1)
    able = [y for y in task.labels if sizes[y] >= k + (query or 1)]
    if len(able) < (ways or len(task.labels)):
        with pytest.raises(DataError, match=rf"{len(able)} of {len(task.labels)} classes"):
            sample(task, k, seed=seed, query=query, ways=ways)
        return
    episode = sample(task, k, seed=seed, query=query, ways=ways)
    names = episode.support.labels
    assert names == episode.query.labels == tuple(y for y in task.labels if y in names)
    assert len(names) == (ways or len(task.labels))
    assert count(episode.support) == dict.fromkeys(names, k)
    assert len(texts(episode.support)) == k * len(names)
    assert not texts(episode.support) & texts(episode.query)
    if query is not None:
        assert count(episode.query) == dict.fromkeys(names, query)
    else:
        left = [e for e in task.examples if e.text not in texts(episode.support) and e.label in names]
        assert list(episode.query.examples) == left


def test_sample_multilabel():
    task = make(
        [(str(i), tuple(n for n, m in (("x", 2), ("y", 3)) if i % m == 0)) for i in range(30)], kind="multilabel"
    )
    episode = sample(task, 3, seed=0, query=4)
    for part, k in ((episode.support, 3), (episode.query, 4)):
        assert all(sum(name in e.label for e in part.examples) >= k for name in ("x", "y"))
    assert not texts(episode.support) & texts(episode.query)
    assert len(sample(task, 3, seed=0).query.examples) == 30 - len(episode.support.examples)
    with pytest.raises(RequestError, match="multi-label"):
        sample(task, 3, seed=0, ways=2)
    with pytest.raises(DataError, match="No rows are left"):
        sample(task, 30, seed=0)


def test_refusals():
    task = plain(a=3, b=9)
    with pytest.raises(
        DataError, match=r"draw 2 classes of t with 3 shots and at least one query row each.*'a' has 3\."
    ):
        sample(task, 3, seed=0)
    with pytest.raises(DataError, match=r"2 of 2 classes.*at most 2 ways"):
        sample(task, 1, seed=0, ways=3)
    for wrong in (
        lambda: shots(task, 0, seed=0),
        lambda: sample(task, 1, seed=0, query=0),
        lambda: sample(task, 1, seed=0, ways=1),
        lambda: folds(task, 1, seed=0),
        lambda: split(task, 1.0, seed=0),
        lambda: shots(task, 1, seed=-1),
    ):
        with pytest.raises(RequestError, match="Tried to") as caught:
            wrong()
        assert caught.value.found
        assert caught.value.todo
    for draw in (lambda t: shots(t, 1, seed=0), lambda t: folds(t, 2, seed=0), lambda t: split(t, seed=0)):
        with pytest.raises(DataError, match="'plain text' has no label"):
            draw(Task("t", [Example("plain text")], ("a", "b")))
    with pytest.raises(DataError, match="hold out rows of t"):
        split(plain(a=1, b=1), seed=0)


def test_subset_keeps_the_task():
    task = plain(a=2, b=2)
    assert subset(task, np.array([3, 0])).examples == [task.examples[3], task.examples[0]]
    assert subset(task, []).labels == ("a", "b")


SCRIPT = """
from handful.types import Example, Task
from handful.episodes import *
t = Task("t", [Example(f"{i % 37}", None, "äbc"[i % 37 % 3]) for i in range(60)], tuple("äbc"))
e = sample(t, 4, seed=5, query=2, ways=2)
print([x.text for part in (shots(t, 4, seed=5), *split(t, seed=5), e.support, e.query) for x in part.examples])
print([f.tolist() for f in folds(t, 3, seed=5)])
"""


@settings(deadline=None)
@given(rows_of_few_texts, seeds)
def test_same_seed_same_draw(rows, seed):
    task = make(rows)
    assert shots(task, 2, seed=seed) == shots(task, 2, seed=seed)


def test_same_seed_same_draw_in_every_process():
    src = str(Path(episodes.__file__).parents[1])
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            env={"PYTHONPATH": src, "PYTHONHASHSEED": hash_seed, "PYTHONIOENCODING": "utf-8"},
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1
