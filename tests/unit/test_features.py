"""The cache of frozen activations: what hits, what misses, its bounds, and that damage is a miss."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from handful.attach import attach
from handful.backbone import Backbone, from_model
from handful.batches import gather
from handful.cache import FeatureCache
from handful.errors import HandfulWarning
from handful.features import frozen, row_keys
from handful.forward import run_backbone
from handful.methods.ladder import LadderSide
from handful.methods.lora import LoRA
from handful.methods.variants import OnLayers
from handful.prompts import encode
from handful.types import Batch, Example
from tiny import TINY
from tinytext import rows_mask, tiny_text, token_pool, tokenizer

TEXTS = ["one two", "three", "one two", "a much longer text than these", "three"]


def pool_of(texts: list[str], backbone: Backbone | None = None) -> Batch:
    return encode(backbone or tiny_text(), [Example(text) for text in texts])


class Counting:
    """Means of the states, and how many rows it was asked for."""

    def __init__(self, backbone: Backbone, by_token: bool = False) -> None:
        self.backbone, self.by_token, self.rows = backbone, by_token, 0

    def __call__(self, batch: Batch) -> Tensor:
        self.rows += len(batch.row_mask)
        hidden, mask = run_backbone(self.backbone, batch.inputs)
        return hidden if self.by_token else (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("budget", [1, 10_000])
def test_the_same_as_computing_it_and_each_distinct_row_once(by_token: bool, budget: int) -> None:
    backbone, store = tiny_text(), FeatureCache()
    pool, compute = pool_of(TEXTS), Counting(backbone, by_token)
    got = frozen(backbone, "x", pool, compute, store=store, budget=budget)
    assert compute.rows == 3
    with torch.no_grad():
        expected = Counting(backbone, by_token)(pool)
    if by_token:
        assert (got[pool.inputs["attention_mask"] == 0] == 0).all()
        expected = expected * pool.inputs["attention_mask"][..., None]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    again = frozen(backbone, "x", pool, compute, store=store)
    assert compute.rows == 3
    assert torch.equal(again, got)
    assert not got.requires_grad


def test_the_same_rows_beside_others_and_padded_further_hit() -> None:
    backbone, store = tiny_text(), FeatureCache()
    compute = Counting(backbone)
    frozen(backbone, "x", pool_of(TEXTS), compute, store=store)
    frozen(backbone, "x", pool_of(["three", "one two"]), compute, store=store)
    assert compute.rows == 3
    frozen(backbone, "x", pool_of(["three", "four"]), compute, store=store)
    assert compute.rows == 4


def changed_weights(backbone: Backbone) -> Backbone:
    model = TINY["bert"]()
    with torch.no_grad():
        next(model.parameters())[5, 0] += 1e-3
    return from_model(model, tokenizer(), id=backbone.id)


CHANGES: dict[str, Callable[[Backbone], Backbone]] = {
    "weights": changed_weights,
    "number format": lambda b: from_model(TINY["bert"]().bfloat16(), tokenizer(), fingerprint=b.fingerprint),
    "pooling": lambda b: replace(b, pooling="first"),
    "length": lambda b: replace(b, max_length=5),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_weights_or_preprocessing_misses(what: str) -> None:
    backbone, store = tiny_text(), FeatureCache()
    other = CHANGES[what](backbone)
    long = ["a text of some length"]
    frozen(backbone, "x", pool_of(long, backbone), Counting(backbone), store=store)
    compute = Counting(other)
    with pytest.warns(HandfulWarning, match="Cut 1") if what == "length" else contextlib.nullcontext():
        pool = pool_of(long, other)
    frozen(other, "x", pool, compute, store=store)
    assert compute.rows == 1
    unchanged = Counting(replace(backbone, id="another name"))
    frozen(unchanged.backbone, "x", pool_of(long), unchanged, store=store)
    assert unchanged.rows == 0


@pytest.mark.parametrize("change", ["text", "level", "template", "pair", "type ids"])
def test_a_change_of_what_is_asked_misses(change: str) -> None:
    backbone, store, level = tiny_text(), FeatureCache(), "x"
    rows = [Example("some text", "beside")]
    pool = encode(backbone, rows)
    frozen(backbone, level, pool, Counting(backbone), store=store)
    if change == "type ids":
        pool = pool.with_inputs(token_type_ids=torch.ones_like(pool.inputs["input_ids"]))
    elif change == "level":
        level = "y"
    else:
        row = {"text": Example("some texts", "beside"), "pair": Example("some text", "besides")}.get(change, rows[0])
        pool = encode(backbone, [row], template="so: {text}" if change == "template" else None)
    compute = Counting(backbone)
    frozen(backbone, level, pool, compute, store=store)
    assert compute.rows == 1


def test_every_row_of_a_pool_has_its_own_key() -> None:
    pool = token_pool([3, 5, 2])
    keys = row_keys(tiny_text(), "x", pool)
    assert len(set(keys)) == 3
    assert [row_keys(tiny_text(), "x", gather(pool, torch.tensor([i])))[0] for i in range(3)] == keys
    images = Batch({"pixel_values": torch.randn(2, 3, 4, 4)}, rows_mask(2))
    assert len(set(row_keys(tiny_text(), "x", images))) == 2


def test_cached_states_train_as_computed_ones() -> None:
    backbone = tiny_text()
    for method in (OnLayers(method=LoRA(rank=2), start=1), LadderSide(reduction=4)):
        adapted = attach(backbone, method)
        level = f"states {adapted.first_block} {adapted.beside}"
        pool = pool_of(TEXTS)
        states = frozen(backbone, level, pool, adapted.freeze, store=FeatureCache(), budget=20)
        params = adapted.init(0)
        whole, resumed = adapted(params, pool), adapted(params, pool.with_inputs(states=states))
        torch.testing.assert_close(resumed.hidden[resumed.mask], whole.hidden[whole.mask], rtol=1e-5, atol=1e-5)


def test_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    store = FeatureCache(memory_bytes=100)
    for name in "abc":
        store.put({name: torch.zeros(8)})  # 32 bytes each
    assert set(store.get(["a"])) == {"a"}
    store.put({"d": torch.zeros(8)})
    assert set(store.get(list("abcd"))) == {"a", "c", "d"}
    store.put({"a": torch.zeros(2)})
    store.put({"e": torch.zeros(7), "f": torch.zeros(1)})
    assert set(store.get(list("acdef"))) == {"a", "d", "e", "f"}
    store.put({"huge": torch.zeros(100)})
    assert store.get(["huge"]) == {}
    assert store._held == sum(x.nbytes for x in store._memory.values()) <= 100
    assert (store.hits, store.misses) == (1 + 3 + 4, 1 + 1 + 1)


def size_on_disk(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "features.sqlite")) as connection:
        return int(connection.execute("SELECT COALESCE(SUM(LENGTH(value)), 0) FROM features").fetchone()[0])


def test_the_disk_is_bounded_too(tmp_path: Path) -> None:
    store = FeatureCache(tmp_path, disk_bytes=20_000)
    for i in range(40):
        store.put({str(i): torch.full((256,), float(i))})  # 1 kB each
        assert size_on_disk(tmp_path) <= 20_000
    fresh = FeatureCache(tmp_path)
    kept = fresh.get([str(i) for i in range(40)])
    assert {"39", "38", "30"} <= set(kept)
    assert "0" not in kept
    assert all((value == float(key)).all() for key, value in kept.items())


def test_the_disk_outlives_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from handful.cache import FeatureCache\n"
        "FeatureCache(Path(sys.argv[1])).put({'k': torch.arange(5.0), 'b': torch.ones(2, 3, dtype=torch.bfloat16)})"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True, env=os.environ)
    found = FeatureCache(tmp_path).get(["k", "b", "other"])
    assert torch.equal(found["k"], torch.arange(5.0))
    assert torch.equal(found["b"], torch.ones(2, 3, dtype=torch.bfloat16))
    assert len(found) == 2
    part = FeatureCache(tmp_path, memory_bytes=0)
    assert torch.equal(part.get(["k"])["k"], torch.arange(5.0))


@pytest.mark.parametrize("damage", ["cut", "flipped at the start", "flipped at the end", "emptied", "text"])
def test_a_damaged_row_is_a_miss(tmp_path: Path, damage: str) -> None:
    FeatureCache(tmp_path).put({"a": torch.arange(64.0), "b": torch.ones(3)})
    with contextlib.closing(sqlite3.connect(tmp_path / "features.sqlite")) as connection, connection:
        (value,) = connection.execute("SELECT value FROM features WHERE key = 'a'").fetchone()
        flip = {"flipped at the start": 2, "flipped at the end": len(value) - 3}.get(damage, 0)
        other: object = {"cut": value[:-4], "emptied": b"", "text": "not a tensor"}.get(
            damage, value[:flip] + bytes([value[flip] ^ 16]) + value[flip + 1 :]
        )
        connection.execute("UPDATE features SET value = ? WHERE key = 'a'", (other,))
    store = FeatureCache(tmp_path)
    assert set(store.get(["a", "b"])) == {"b"}
    store.put({"a": torch.zeros(1)})
    assert torch.equal(FeatureCache(tmp_path).get(["a"])["a"], torch.zeros(1))


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\1" * 4000])
def test_a_file_that_is_no_database_is_warned_of_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "features.sqlite").write_bytes(content)
    with pytest.warns(HandfulWarning, match=r"features\.sqlite.*memory"):
        store = FeatureCache(tmp_path)
    store.put({"a": torch.ones(2)})
    assert set(store.get(["a"])) == {"a"}
    assert (tmp_path / "features.sqlite").read_bytes() == content


def test_a_folder_that_cannot_be_made_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(HandfulWarning, match="memory"):
        store = FeatureCache(tmp_path / "file" / "cache")
    store.put({"a": torch.ones(2)})
    assert set(store.get(["a"])) == {"a"}


def test_several_threads_and_handles_use_one_file(tmp_path: Path) -> None:
    stores = [FeatureCache(tmp_path, memory_bytes=200) for _ in range(2)]
    failed: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for j in range(8):
                stores[i % 2].put({f"{i} {j}": torch.full((4,), float(j))})
                stores[(i + 1) % 2].get([f"{i} {n}" for n in range(8)])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(FeatureCache(tmp_path).get([f"{i} {j}" for i in range(4) for j in range(8)])) == 32
