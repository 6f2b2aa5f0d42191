"""Small tagging tasks for the tiny backbone: words of some letters are entities."""

from __future__ import annotations

import json
import random
from pathlib import Path

from handful.tagging import tag_set
from handful.types import Example, Task

LETTERS = {"X": "abc", "Y": "mno"}


def tiny_sentence(rng: random.Random, kinds: tuple[str, ...] = ("X", "Y")) -> Example:
    """Two to five words, a quarter of the sentences without an entity; entities are of one or two words."""
    words: list[str] = []
    tags: list[str] = []
    kinds = kinds if rng.random() < 0.75 else ()
    length = rng.randint(2, 4)
    while len(words) < length:
        kind = rng.choice([*kinds, None])
        for place in range(1 if kind is None else rng.randint(1, 2)):
            words.append("".join(rng.choices(LETTERS.get(str(kind), "uvwxz"), k=rng.randint(1, 3))))
            tags.append("O" if kind is None else f"{'I' if place else 'B'}-{kind}")
    return Example(" ".join(words), None, tuple(tags), tuple(words))


def tiny_tagging(
    rows: int = 12,
    *,
    seed: int = 0,
    kinds: tuple[str, ...] = ("X", "Y"),
    name: str = "tags",
    template: str | None = None,
) -> Task:
    """`rows` sentences, the first of which has every type."""
    rng = random.Random(f"{seed} {kinds}")
    first = Example(
        " ".join(LETTERS[k] for k in kinds), None, tuple(f"B-{k}" for k in kinds), tuple(LETTERS[k] for k in kinds)
    )
    return Task(
        name, [first, *(tiny_sentence(rng, kinds) for _ in range(rows - 1))], tag_set(kinds), "tagging", template
    )


def write_conll(path: Path, task: Task) -> Path:
    """The task as a CoNLL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sentences = [
        "\n".join(f"{w}\t{t}" for w, t in zip(e.words or (), e.label or (), strict=True)) for e in task.examples
    ]
    path.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    return path


def write_jsonl(path: Path, task: Task) -> Path:
    """The task as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"tokens": list(e.words or ()), "tags": list(e.label or ())} for e in task.examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
