"""The training-allowed classification sets as few-shot tasks: ten-way intents, relations with marked entities."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from handful.types import Example, Task

DATA = Path(__file__).parents[2] / "shared" / "data"
SETS = {
    "banking77": ("banking77/train.jsonl.gz", "banking77/test.jsonl", 10),
    "clinc150": ("clinc150/train.jsonl.gz", "clinc150/test.jsonl", 10),
    "snips": ("snips/train.jsonl.gz", "snips/test.jsonl", None),
    "fewrel_wiki": ("fewrel_wiki/all.jsonl.gz", None, None),
    "query_wellformedness": ("query_wellformedness/train.jsonl.gz", "query_wellformedness/test.jsonl", None),
    "multiemo_hotels": ("multiemo_sentiment/hotels_en/train.jsonl", "multiemo_sentiment/hotels_en/test.jsonl", None),
    "multiemo_products": (
        "multiemo_sentiment/products_en/train.jsonl",
        "multiemo_sentiment/products_en/test.jsonl",
        None,
    ),
    "chatterbot_topics": ("chatterbot_topics/train.jsonl", "chatterbot_topics/test.jsonl", None),
}
"""name -> (training file, test file or None to cut one off, classes drawn for a task or None for all)"""
TEST_ROWS = 500


@cache
def rows(file: str) -> list[Example]:
    """The rows of a data file; a relation's head and tail are marked in its text."""
    path = DATA / file
    if not path.exists():  # large files are gzipped, small ones are not
        path = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    found = [json.loads(line) for line in text.splitlines()]
    return [Example(_marked(row) if "tokens" in row else row["text"], None, str(row["label"])) for row in found]


def _marked(row: dict[str, Any]) -> str:
    words = list(row["tokens"])
    for name, places in (("e1", row["head"]), ("e2", row["tail"])):
        words[min(places)] = f"[{name}]{words[min(places)]}"
        words[max(places)] = f"{words[max(places)]}[/{name}]"
    return " ".join(words)


def draw(name: str, shots: int, seed: int) -> tuple[Task, list[Example]]:
    """A task of `shots` rows a class, and at most 500 test rows; smaller shots are the first of larger ones."""
    train_file, test_file, ways = SETS[name]
    train = rows(train_file)
    rng = np.random.default_rng([seed, sum(name.encode())])
    if test_file is None:
        order = np.random.default_rng(0).permutation(len(train))
        test, train = [train[i] for i in order[:2000]], [train[i] for i in order[2000:]]
    else:
        test = rows(test_file)
    labels = sorted({str(example.label) for example in train})
    if ways is not None:
        labels = sorted(rng.choice(labels, ways, replace=False).tolist())
    support: list[Example] = []
    for label in labels:
        own = [example for example in train if example.label == label]
        support += [own[i] for i in rng.permutation(len(own))[:16]][:shots]
    texts = {example.text for example in support}
    test = [example for example in test if example.label in labels and example.text not in texts]
    chosen = np.random.default_rng(0).permutation(len(test))[:TEST_ROWS]
    return Task(f"{name}-k{shots}-s{seed}", support, tuple(labels)), [test[i] for i in chosen]


def grid(shots: tuple[int, ...], seeds: int) -> Iterator[tuple[str, int, int]]:
    """All cells, the seeds outermost, so that a stopped run has whole seeds."""
    for seed in range(seeds):
        for k in shots:
            for name in SETS:
                yield name, k, seed
