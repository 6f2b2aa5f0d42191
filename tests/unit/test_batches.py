"""Plans: every row once, within the budget, with little padding; and what is planned how never shows in a result."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handful.batches import OVERHEAD, Rows, concatenate, gather, lengths, plan, stack, take_all
from handful.packing import OF_ANSWERS
from handful.types import Batch
from tinytext import rows_mask, token_pool

ragged = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12), min_size=1, max_size=5).filter(
    lambda tasks: any(any(own) for own in tasks)
)


def table(tasks: list[list[int]]) -> torch.Tensor:
    width = max(map(len, tasks))
    return torch.tensor([own + [0] * (width - len(own)) for own in tasks])


@given(ragged, st.sampled_from([1, 16, 64, 400, 10_000]))
def test_every_row_exactly_once_and_within_the_budget(tasks: list[list[int]], budget: int) -> None:
    length = table(tasks)
    seen = torch.zeros_like(length)
    for part, columns in plan(length, budget):
        chosen = torch.arange(len(length))[part]
        assert columns.shape[0] == len(chosen)
        real = columns >= 0
        assert real.any()
        assert (length[chosen[:, None], columns.clamp(min=0)][real] > 0).all()
        longest = int(length[chosen[:, None], columns.clamp(min=0)][real].max())
        assert columns.numel() * longest <= budget or columns.shape[1] == 1
        for t, own in zip(chosen.tolist(), columns, strict=True):
            seen[t, own[own >= 0]] += 1
    assert torch.equal(seen, (length > 0).long())


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60))
def test_padding_costs_less_than_the_passes_that_would_avoid_it(own: list[int]) -> None:
    passes = [
        len(columns[0]) * max(own[i] for i in columns[0].tolist()) for _, columns in plan(torch.tensor([own]), 10_000)
    ]
    cost = sum(passes) + OVERHEAD * len(passes)
    assert cost <= len(own) * max(own) + OVERHEAD  # one batch, padded to the longest
    assert cost <= sum(own) + OVERHEAD * len(set(own))  # a batch for each length
    assert sum(passes) - sum(own) <= OVERHEAD * len(set(own))


def test_equal_rows_are_not_padded_at_all() -> None:
    lengths_ = torch.tensor([[7] * 9, [7] * 4 + [0] * 5])
    for part, columns in plan(lengths_, 70):
        real = columns >= 0
        assert real[0].all()
        assert part.stop - part.start in (1, 2)


def test_one_row_over_the_budget_goes_alone() -> None:
    passes = [columns.tolist() for _, columns in plan(torch.tensor([[500, 3, 4]]), 64)]
    assert passes[0] == [[0]]
    assert sorted(i for own in passes for row in own for i in row) == [0, 1, 2]


def rows_of(multi: bool = False) -> Rows:
    pool = token_pool([3, 9, 1, 5, 7])
    index = [[4, 0, 2], [1], [3, 1, 0, 4, 2]]
    if multi:
        labels = [torch.rand(len(own), c).round() for own, c in zip(index, (2, 1, 3), strict=True)]
        return stack(pool, index, labels, [2, 1, 3])
    return stack(pool, index, [torch.tensor([0, 1, 0]), torch.tensor([0]), torch.tensor([2, 1, 0, 1, 0])], [2, 1, 3])


@pytest.mark.parametrize("multi", [False, True])
def test_ragged_tasks_are_stacked_and_taken(multi: bool) -> None:
    rows = rows_of(multi)
    assert rows.counts().tolist() == [3, 1, 5]
    assert rows.class_mask.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    batch = rows.take(torch.tensor([0, 1]), torch.tensor([[1, 2], [0, 1]]))
    assert batch.row_mask.tolist() == [[True, True], [True, False]]  # task 1 has one row
    assert batch.inputs["input_ids"].shape == (2, 2, 9)
    assert torch.equal(batch.inputs["input_ids"][0, 0, :3], rows.pool.inputs["input_ids"][0, :3])
    assert batch.labels is not None
    assert torch.equal(batch.labels[0, 0], rows.labels[0, 1])


@pytest.mark.parametrize("budget", [1, 12, 10_000])
def test_take_all_shows_every_row_with_its_label(budget: int) -> None:
    rows, seen = rows_of(), set()
    for tasks, batch, columns in take_all(rows, budget):
        assert batch.labels is not None
        for i, t in enumerate(tasks.tolist()):
            for j, column in enumerate(columns[i].tolist()):
                if column < 0:
                    assert not batch.row_mask[i, j]
                    continue
                row = int(rows.index[t, column])
                size = int(lengths(rows.pool)[row])
                assert torch.equal(batch.inputs["input_ids"][i, j, :size], rows.pool.inputs["input_ids"][row, :size])
                assert batch.labels[i, j] == rows.labels[t, column]
                seen.add((t, column))
    assert len(seen) == 9


def test_gathering_cuts_to_the_longest_row() -> None:
    pool = token_pool([3, 9, 1])
    batch = gather(pool, torch.tensor([2, 0]))
    assert batch.inputs["input_ids"].shape == (2, 3)
    assert batch.row_mask.all()


def test_pools_are_joined_to_the_longest() -> None:
    first, second = token_pool([3, 2]), token_pool([5], seed=1)
    joined = concatenate([first.inputs, second.inputs])
    assert joined["attention_mask"].sum(1).tolist() == [3, 2, 5]
    assert torch.equal(joined["input_ids"][:2, :3], first.inputs["input_ids"])
    assert (joined["input_ids"][:2, 3:] == 0).all()


def test_rows_without_tokens_count_one() -> None:
    assert lengths(Batch({"pixel_values": torch.zeros(3, 3, 4, 4)}, rows_mask(3))).tolist() == [1, 1, 1]


def test_what_is_of_answers_is_not_cut_with_the_tokens() -> None:
    real = torch.tensor([[1, 1, 0], [1, 0, 0]])
    inputs = {"attention_mask": real, **{name: torch.arange(12).reshape(2, 3, 2) for name in OF_ANSWERS}}
    found = gather(Batch(inputs, torch.ones(2, dtype=torch.bool)), torch.tensor([1]))
    assert found.inputs["attention_mask"].shape == (1, 1)
    assert all(found.inputs[name].shape == (1, 3, 2) for name in OF_ANSWERS)
