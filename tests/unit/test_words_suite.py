"""The suite of tasks that end in text: nothing that is asked was learned from, and draws are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handful.errors import DataError
from handful.suites import suite
from handful.suites.words import SEEDS, TEST_ROWS


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for s, seed in enumerate(SEEDS):  # files overlap by half, as T-Few's do
        rows = [
            {"premise": f"p{n}", "choice1": "a", "choice2": "b", "question": "cause", "label": n % 2}
            for n in range(4 * s, 4 * s + 8)
        ]
        write(tmp_path / "tfew_fewshot" / "copa" / f"train_k8_seed{seed}.jsonl", rows)
    single = [{"text": f"q{n}", "choices": ["x", "y"], "answer": n % 2} for n in range(120)]
    write(tmp_path / "bigbench_multiple_choice" / "ruin_names.jsonl", single)
    for split, start in {"train": 0, "test": 100}.items():
        rows = [{"text": f"t{n}", "label": "01"[n % 2]} for n in range(start, start + 80)]
        write(tmp_path / "sst2" / f"{split}.jsonl", rows)
    return tmp_path


@pytest.mark.parametrize(("task", "shots"), [("copa", 8), ("ruin_names", 32), ("sst2", 32)])
def test_nothing_that_is_asked_was_learned_from(data: Path, task: str, shots: int) -> None:
    (pool,) = suite(f"words/{task}").pools(data)
    episodes = [pool.episode(shots, seed) for seed in range(5)]
    for episode in episodes:
        learned = {e.text for e in episode.support.examples}
        assert len(learned) == shots
        assert not learned & {e.text for e in episode.query.examples}
        assert 0 < len(episode.query.examples) <= TEST_ROWS
    assert episodes[0].support != episodes[1].support
    assert pool.episode(shots, 1) == episodes[1]


def test_a_seed_without_a_file_and_too_many_shots_are_refused(data: Path) -> None:
    (pool,) = suite("words/copa").pools(data)
    with pytest.raises(DataError, match="0 to 4"):
        pool.episode(8, 5)
    with pytest.raises(DataError, match="8 rows to learn from"):
        pool.episode(9, 0)


def test_what_is_not_there_is_missing(data: Path) -> None:
    missing = suite("words").missing(data)
    assert {"wic", "snips"} <= set(missing)
    assert "copa" not in missing
