"""Rows of a batch: their order and their padding mean nothing."""

from __future__ import annotations

from dataclasses import replace

import torch

from handful.types import map_params
from laws.cases import Case, cases, padded, random_params, real, rows_of, stacked
from tiny import SPEECH, num_samples


@cases("float32", "bfloat16")
def test_permuting_rows_and_tasks_permutes_outputs(case: Case) -> None:
    adapted, params = case.adapted(), random_params(case, 2)
    batch = stacked(case, [rows_of(case, 3, 6, seed=t) for t in range(2)])
    rows, tasks = torch.tensor([2, 0, 1]), torch.tensor([1, 0])
    with torch.no_grad():
        straight = adapted(params, batch)
        moved = {name: x[tasks][:, rows] for name, x in batch.inputs.items()}
        permuted = adapted(map_params(lambda p: p[tasks], params), replace(batch, inputs=moved))
    expected = replace(straight, hidden=straight.hidden[tasks][:, rows], mask=straight.mask[tasks][:, rows])
    assert torch.equal(permuted.mask, expected.mask)
    torch.testing.assert_close(real(permuted), real(expected), **case.tolerance)


@cases("float32", "bfloat16")
def test_padding_changes_nothing(case: Case) -> None:
    adapted, params, batch = case.adapted(), random_params(case, None), rows_of(case, 3, 6)
    more = num_samples(9) - num_samples(6) if case.model_type in SPEECH else 3
    fixed = {"pixel_values", "input_features"}
    widths = {name: x.shape[1] + (0 if name in fixed else more) for name, x in batch.inputs.items()}
    further = replace(batch, inputs=padded(case, batch.inputs, widths))
    with torch.no_grad():
        plain, wide = adapted(params, batch), adapted(params, further)
    assert int(wide.mask.sum()) == int(plain.mask.sum())
    torch.testing.assert_close(real(wide), real(plain), **case.tolerance)
