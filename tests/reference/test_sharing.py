"""Sharing schemes over tasks (Sung et al. 2022, arXiv 2112.06825): single, half-shared and multiple adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from handful.attach import attach
from handful.batches import stack
from handful.counting import count, shape
from handful.fit import Schedule, fit
from handful.losses import cross_entropy
from handful.methods import Method, from_spec, to_spec
from handful.methods.bottleneck import Houlsby
from handful.methods.combine import union
from handful.methods.hyperformer import HyperFormer
from handful.methods.layernorm import LayerNormTuning
from handful.methods.variants import OverTasks
from handful.optim import OptimizerName
from handful.scoring import Classifier
from handful.types import Params, map_params, stack_params, task_params
from tiny import HIDDEN
from tinytext import random_params, tiny_text, token_pool

UP, DOWN = frozenset({"up", "up_bias"}), frozenset({"down", "down_bias"})
ADAPTER = Houlsby(width=4, activation="gelu")
SINGLE, HALF, MULTIPLE = (OverTasks(method=ADAPTER, names=names) for names in (UP | DOWN, UP, frozenset[str]()))

POOL = token_pool([5, 9, 3, 7, 4, 6, 8, 2, 6, 5, 3, 4])
INDEX = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
LABELS = [torch.tensor([0, 1, 0, 1]), torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0])]
PLAIN = Schedule(steps=6, lr=1e-2, clip=None, optimizer="adamw", weight_decay=0.1)


def model_of(method: Method) -> Classifier:
    return Classifier(attach(tiny_text(), method), "mean", 4.0)


def start(method: Method, tasks: list[int]) -> Params:
    """Moved from the start by one noise for all tasks, so that what is common stays common."""
    params = stack_params([random_params(attach(tiny_text(), method).init(t), scale=0.1) for t in tasks])
    noise = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(2))
    return params | {
        "head": {"weight": noise.expand(len(tasks), 2, HIDDEN).clone(), "bias": torch.zeros(len(tasks), 2)}
    }


def trained(method: Method, tasks: list[int], schedule: Schedule = PLAIN, **options: Any) -> Params:
    rows = stack(POOL, [INDEX[t] for t in tasks], [LABELS[t] for t in tasks], [2] * len(tasks))
    given = options.pop("params", None) or start(method, tasks)
    seeds = [10 + t for t in tasks]
    return fit(model_of(method), given, rows, cross_entropy, schedule, seed=seeds, method=method, **options)[0]


def names_of(params: Params) -> list[tuple[str, str]]:
    return [(site, name) for site, own in params.items() if site != "head" for name in own]


def same(got: Params, expected: Params, tolerance: float = 1e-5) -> None:
    for site, own in expected.items():
        for name, p in own.items():
            torch.testing.assert_close(got[site][name], p, rtol=tolerance, atol=tolerance)


# -- what is common ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [SINGLE, HALF, MULTIPLE], ids=["single", "half-shared", "multiple"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adafactor"])
def test_common_parameters_stay_equal_to_the_bit(method: OverTasks, optimizer: OptimizerName) -> None:
    schedule = Schedule(steps=8, lr=1e-2, clip=0.3, optimizer=optimizer, weight_decay=0.01, batch_size=2, warmup=0.2)
    params = trained(method, [0, 1, 2], schedule)
    before = start(method, [0, 1, 2])
    for site, name in names_of(params):
        p = params[site][name]
        common = all(torch.equal(p[0], p[t]) for t in (1, 2))
        assert common == (name in method.names), f"{site} {name}"
        assert not torch.equal(p, before[site][name])


def test_a_common_start_needs_no_common_seed() -> None:
    params = attach(tiny_text(), HALF).init(3, tasks=2)
    for site, name in names_of(params):
        if name == "down":
            assert not torch.equal(params[site][name][0], params[site][name][1])
        else:
            assert torch.equal(params[site][name][0], params[site][name][1])
    assert from_spec(to_spec(HALF)) == HALF


# -- equal to ordinary training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", [SINGLE, HALF], ids=["single", "half-shared"])
def test_sharing_equals_one_model_written_plainly(method: OverTasks, optimizer: OptimizerName) -> None:
    """Common tensors are one leaf of torch's own optimiser; it sees the mean over tasks of their mean losses.

    What is a task's own sees its loss undivided.
    """
    schedule = Schedule(steps=6, lr=1e-2, clip=None, optimizer=optimizer, decay="constant", weight_decay=0.1)
    found = trained(method, [0, 1, 2], schedule)
    before, model = start(method, [0, 1, 2]), model_of(method)
    leaves: dict[tuple[str, str, int], Tensor] = {}
    for t in range(3):
        for site, own in before.items():
            for name, p in own.items():
                key = (site, name, 0 if site != "head" and name in method.names else t)
                leaves.setdefault(key, p[t].clone().requires_grad_())
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    rule = kinds[optimizer](leaves.values(), lr=1e-2, weight_decay=0.1)

    def tree(t: int) -> Params:
        return {
            site: {name: leaves[site, name, 0 if site != "head" and name in method.names else t] for name in own}
            for site, own in before.items()
        }

    for _ in range(6):
        losses = []
        for t in range(3):
            rows = stack(POOL, [INDEX[t]], [LABELS[t]], [2]).take(torch.tensor([0]), torch.arange(len(INDEX[t]))[None])
            scores = model(map_params(lambda p: p[None], tree(t)), rows)[0]
            losses.append(F.cross_entropy(scores, LABELS[t]))
        common = [key for key in leaves if key[0] != "head" and key[1] in method.names]
        own = [key for key in leaves if key not in common]
        grads = torch.autograd.grad(torch.stack(losses).mean(), [leaves[key] for key in common], retain_graph=True)
        grads += torch.autograd.grad(torch.stack(losses).sum(), [leaves[key] for key in own])
        for key, grad in zip(common + own, grads, strict=True):
            leaves[key].grad = grad
        rule.step()
    for t in range(3):
        same(task_params(found, t), map_params(Tensor.detach, tree(t)))


def test_a_single_adapter_is_ordinary_training_on_the_rows_of_both() -> None:
    """With a head that is kept, and as many rows each; without a limit on the gradient's norm, the head's included."""
    schedule = Schedule(steps=6, lr=1e-2, clip=None, head_lr=0.0)
    both = trained(SINGLE, [0, 1], schedule)
    rows = stack(POOL, [INDEX[0] + INDEX[1]], [torch.cat(LABELS[:2])], [2])
    alone, _ = fit(model_of(ADAPTER), start(SINGLE, [0]), rows, cross_entropy, schedule, seed=0)
    for t in range(2):
        same(task_params(both, t), task_params(alone, 0))


def test_a_half_shared_adapter_keeps_one_up_projection() -> None:
    params = trained(HALF, [0, 1])
    kept = {(site, name): p.unique(dim=0).shape[0] for site, own in params.items() for name, p in own.items()}
    assert {name: n for (site, name), n in kept.items() if site != "head"} == {
        "up": 1, "up_bias": 1, "down": 2, "down_bias": 2,
    }  # fmt: skip
    up = {site: params[site]["up"] for site in params if site != "head"}
    assert len({tuple(p[0].flatten().tolist()) for p in up.values()}) == len(up)  # never over layers


@pytest.mark.parametrize("method", [MULTIPLE, ADAPTER], ids=["multiple", "unsaid"])
def test_multiple_adapters_are_trained_apart(method: Method) -> None:
    together = trained(method, [0, 1, 2])
    for t in range(3):
        same(task_params(together, t), task_params(trained(method, [t]), 0))


@pytest.mark.parametrize("method", [SINGLE, HALF], ids=["single", "half-shared"])
def test_one_task_shares_with_nobody(method: Method) -> None:
    same(trained(method, [1]), trained(ADAPTER, [1], params=start(method, [1])))


# -- groups ------------------------------------------------------------------------------------------------------------


def test_groups_share_apart() -> None:
    """As the folds of one number do: trained together, they get what they would get alone."""
    grouped = trained(SINGLE, [0, 1, 2, 0], groups=[0, 1, 0, 1])
    for tasks, places in (([0, 2], (0, 2)), ([1, 0], (1, 3))):
        alone = trained(SINGLE, tasks)
        for t, place in enumerate(places):
            same(task_params(grouped, place), task_params(alone, t))


def test_a_group_that_breaks_leaves_the_others_alone() -> None:
    params = start(SINGLE, [0, 1, 2])
    params["head"]["weight"][0] = torch.nan
    found = trained(SINGLE, [0, 1, 2], params=params, groups=[0, 1, 1])
    alone = trained(SINGLE, [1, 2])
    for t in range(2):
        same(task_params(found, 1 + t), task_params(alone, t))


# -- counts of the paper's table 2, image and text ---------------------------------------------------------------------

VISUAL_PROJECTION = (2048 * 768 + 768) + (5 * 768 + 768) + 2 * 2 * 768 + 2 * 768
"""Two linear layers to the width of BART-base, their LayerNorms, and two embeddings: outside the language model."""
SITES = frozenset({"attention.out", "cross.out", "ffn.out"})
BART = Houlsby(reduction=8, activation="gelu", roles=SITES)
NORMS = OverTasks(method=LayerNormTuning())
VL_ADAPTER = [
    ("single", OverTasks(method=BART), 6_081_600, 4.181),
    ("multiple", BART, 19_430_400, 12.236),
    ("half-shared, up", OverTasks(method=BART, names=UP), 12_725_760, 8.367),
]


@pytest.mark.parametrize(
    ("method", "trained", "percent"), [case[1:] for case in VL_ADAPTER], ids=[c[0] for c in VL_ADAPTER]
)
def test_counts_of_vl_adapter(method: Method, trained: int, percent: float) -> None:
    """Four tasks on BART-base, with its LayerNorms and the visual projection, both one for all tasks."""
    assert VISUAL_PROJECTION == 1_582_848
    found = count(shape("bart-base"), union(method, NORMS), tasks=4)
    assert found.total == 139_420_416
    assert found.trainable + VISUAL_PROJECTION == trained
    norms = count(shape("bart-base"), NORMS, tasks=4).trainable
    assert norms == 49_152
    added = trained - norms
    assert round(100 * trained / (found.total + added), 3) == percent


def test_counts_of_the_hyperformer_of_vl_adapter() -> None:
    """One network a stack and position, also after cross-attention, without the LayerNorm inside the adapter."""
    method = HyperFormer(networks="position", reduction=8, embedding=512, projected=8, roles=SITES)
    networks = 5 * 2 * (8 * 768 + 768)  # those that write gamma and beta
    found = count(shape("bart-base"), union(method, NORMS), tasks=4)
    assert found.trainable - networks + VISUAL_PROJECTION == 8_579_088
