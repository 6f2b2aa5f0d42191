"""Dense and sparse differences, gates, masks and random projections, against closed forms and dense matrices."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from handful.attach import Adapted, attach
from handful.backbone import from_model
from handful.batches import Rows
from handful.errors import MethodError
from handful.fit import Schedule, fit
from handful.losses import cross_entropy
from handful.merge import merge
from handful.methods import Method
from handful.methods.diff_pruning import DiffPruning, hard_concrete, open_probability
from handful.methods.fish import FishMask
from handful.methods.full import DenseDelta, size_of, tensors_of
from handful.methods.said import IntrinsicSAID, fastfood, hadamard
from handful.methods.sparse import MagnitudePruning, SparseDelta, kept
from handful.noise import Noise
from handful.sites import is_transposed
from handful.types import Batch, Params, map_params, stack_params, task_params
from tiny import TINY, tiny_inputs


def on(method: Method, name: str = "bert", dtype: torch.dtype = torch.float32) -> Adapted:
    return attach(from_model(TINY[name]().to(dtype), id=name), method)


def noisy(params: Params, scale: float = 0.2) -> Params:
    generator = torch.Generator().manual_seed(1)

    def moved(p: Tensor) -> Tensor:
        return p + scale * torch.randn(p.shape, generator=generator).to(p) if p.is_floating_point() else p

    return map_params(moved, params)


def batch(rows: int = 3, name: str = "bert") -> Batch:
    return Batch(tiny_inputs(name, rows, 6), torch.ones(rows, dtype=torch.bool))


def flat(params: Params, adapted: Adapted) -> Tensor:
    return torch.cat([params[s.name][name].flatten() for s in adapted.sites for name in tensors_of(s)])


# -- gates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "u", "s", "stretched", "z"),
    [
        (5, 0.5, 0.99331, 1.47992, 1.0),
        (0, 0.5, 0.5, 0.0, 0.0),
        (0, 0.7, 0.7, 0.6, 0.6),
        (0, 0.9, 0.9, 1.2, 1.0),
        (-2, 0.9, 0.54915, 0.14744, 0.14744),
        (5, 0.001, 0.12935, -1.11196, 0.0),
    ],
)
def test_gate(alpha: float, u: float, s: float, stretched: float, z: float) -> None:
    """The values of the sheet."""
    assert 3 * s - 1.5 == pytest.approx(stretched, abs=3e-5)
    found = hard_concrete(torch.tensor(float(alpha)), torch.tensor(u))
    assert float(found) == pytest.approx(z, abs=1e-5)


def test_evaluation_takes_the_middle() -> None:
    alpha = torch.linspace(-3, 3, 13)
    assert torch.equal(hard_concrete(alpha, None), hard_concrete(alpha, torch.full_like(alpha, 0.5)))
    assert hard_concrete(alpha.bfloat16(), torch.ones_like(alpha).bfloat16()).isfinite().all()


@pytest.mark.parametrize("alpha", [-2.0, 0.0, 1.0, 5.0])
def test_how_often_a_gate_is_open(alpha: float) -> None:
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    found = float((hard_concrete(torch.full_like(u, alpha), u) > 0).double().mean())
    assert found == pytest.approx(float(open_probability(torch.tensor(alpha))), abs=0.005)
    assert found == pytest.approx(1 / (1 + math.exp(-alpha)), abs=0.005)


def test_slope_of_a_gate() -> None:
    alpha = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
    u = torch.tensor(0.4, dtype=torch.float64)
    (slope,) = torch.autograd.grad(hard_concrete(alpha, u).sum(), alpha)
    step = 1e-6
    central = (hard_concrete(alpha + step, u) - hard_concrete(alpha - step, u)) / (2 * step)
    s = torch.sigmoid(torch.logit(u) + alpha)
    inside = (3 * s - 1.5 > 1e-3) & (3 * s - 1.5 < 1 - 1e-3)
    assert 0 < int(inside.sum()) < 81
    torch.testing.assert_close(slope[inside], central[inside].detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slope[inside], (3 * s * (1 - s))[inside].detach())
    outside = (3 * s - 1.5 < -1e-3) | (3 * s - 1.5 > 1 + 1e-3)
    assert not slope[outside].any()


def test_penalties_of_two_groups() -> None:
    """Two groups of 2 and 3 entries; P = 1/2 at alpha 0, 3/4 at log 3."""
    third = math.log(3)
    params: Params = {
        "a": {"w_dw": torch.zeros(1, 2), "alpha_dw": torch.zeros(1, 2), "alpha_g_dw": torch.tensor([third])},
        "b": {"w_dw": torch.zeros(1, 3), "alpha_dw": torch.full((1, 3), third), "alpha_g_dw": torch.tensor([0.0])},
        "shared": {},
    }
    product = 0.75 * 2 * 0.5 + 0.5 * 3 * 0.75
    added = 2 * 0.5 + 3 * 0.75 + 0.75 + 0.5
    one = DiffPruning(penalty_weight=1.0)
    for method, expected in (
        (one, product),
        (replace(one, additive_penalty=True), added),
        (replace(one, structured=False), 2 * 0.5 + 3 * 0.75),
        (DiffPruning(), product * 1.25e-7 * 3.3e8 / 5),
    ):
        torch.testing.assert_close(method.penalty(params), torch.tensor([expected]))


def test_penalty_is_each_tasks_own() -> None:
    adapted = on(DiffPruning())
    two = noisy(adapted.init(0, tasks=2))
    together = adapted.method.penalty(two)
    assert isinstance(together, Tensor)
    alone = [adapted.method.penalty(map_params(lambda p, t=t: p[t : t + 1], two)) for t in range(2)]
    assert together.shape == (2,)
    assert together[0] != together[1]
    torch.testing.assert_close(together, torch.cat(alone))  # type: ignore[arg-type]


@pytest.mark.parametrize("structured", [True, False])
def test_gates_get_no_gradient_from_the_task_at_first(structured: bool) -> None:
    """w = 0: the first step moves w alone. The penalty moves alpha."""
    adapted = on(DiffPruning(structured=structured))
    params = map_params(lambda p: p.requires_grad_(), adapted.init(0))
    names = [(site, name) for site, own in params.items() for name in own]
    leaves = [params[site][name] for site, name in names]
    rows, plain = batch(), adapted.backbone.model(**batch().inputs).last_hidden_state
    states = adapted(params, rows, noise=Noise([1, 2, 3], [7]))
    assert torch.equal(states.hidden, plain)
    grads = torch.autograd.grad(states.hidden.square().sum(), leaves, allow_unused=True)
    for (_, name), g in zip(names, grads, strict=True):
        if name.startswith("alpha"):
            assert g is None or not g.any()
    assert any(g is not None and g.any() for g in grads)
    two = map_params(lambda p: p[None], params)
    penalty = torch.autograd.grad(adapted.method.penalty(two), leaves, allow_unused=True)  # type: ignore[arg-type]
    for (_, name), g in zip(names, penalty, strict=True):
        assert (g is not None and bool((g > 0).all())) == name.startswith("alpha")


def test_noise_is_a_tasks_own() -> None:
    adapted = on(DiffPruning(gate=0.5))
    params = noisy(adapted.init(0, tasks=2))
    rows = batch()
    both = Batch({name: torch.stack([x, x]) for name, x in rows.inputs.items()}, torch.ones(2, 3, dtype=torch.bool))
    with torch.no_grad():
        together = adapted(params, both, noise=Noise(range(6), [7, 8])).hidden
        alone = adapted(task_params(params, 1), rows, noise=Noise([9, 9, 9], [8])).hidden
        other = adapted(task_params(params, 1), rows, noise=Noise([9, 9, 9], [9])).hidden
    torch.testing.assert_close(together[1], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone, other, atol=1e-2)


# -- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "k"),
    [
        (335_143_938, 1_675_719), (333_581_314, 1_667_906), (109_483_778, 547_418), (11_171_074, 55_855),
        (4_386_178, 21_930),
    ],
)  # fmt: skip
def test_published_numbers_kept(d: int, k: int) -> None:
    """Half a percent of BERT-large uncased, cased, BERT-base, -mini and -tiny."""
    assert kept(0.005, d) == k


def test_shares_are_exact_in_decimal() -> None:
    assert [kept(f, 100) for f in (0.29, 0.57, 0.58, 1.0, 0.01)] == [29, 57, 58, 100, 1]


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, 1e-9, math.nan])
@pytest.mark.parametrize("make", [SparseDelta, MagnitudePruning, DiffPruning, FishMask])
def test_a_share_of_nothing_is_refused(make: type[SparseDelta], fraction: float) -> None:
    with pytest.raises(MethodError, match="fraction") as error:
        on(make(fraction=fraction)).init(0)
    assert "to 1" in error.value.todo


@pytest.mark.parametrize("role", ["attention", "ffn.add", "hidden_states", "embeddings", "attention.kv"])
def test_a_role_without_weights_is_refused(role: str) -> None:
    name = "gpt2" if role == "ffn.add" else "bert"
    with pytest.raises(MethodError, match=f"the role {role} has no weight of its own"):
        on(DenseDelta(roles=frozenset({role})), name).init(0)


@pytest.mark.parametrize("name", ["bert", "gpt2", "gemma2"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_pruning_keeps_the_largest_differences(name: str, deterministic: bool) -> None:
    method = DiffPruning(fraction=0.01, gate=0.5, deterministic=deterministic, draw_seed=3)
    adapted = on(method, name)
    params = noisy(adapted.init(0))
    delta = flat(method.delta(params, adapted.sites), adapted)
    done, found = method.finished(params, adapted.sites)
    assert done == SparseDelta(fraction=0.01, speed=5.0)
    index, value = found["shared"]["index"].long(), found["shared"]["value"]
    assert len(index) == len(value) == math.floor(0.01 * len(delta))
    assert torch.equal(index, delta.abs().sort(descending=True, stable=True).indices[: len(index)].sort().values)
    assert torch.equal(value, delta[index])
    assert (found["shared"]["index"].dtype, value.dtype) == (torch.int32, torch.float32)
    again = method.finished(params, adapted.sites)[1]["shared"]
    assert torch.equal(again["index"].long(), index)
    assert torch.equal(again["value"], value)
    gates = replace(method, deterministic=not deterministic).delta(params, adapted.sites)
    assert not torch.equal(flat(gates, adapted), delta)


def test_equal_differences_are_kept_in_order() -> None:
    method = MagnitudePruning(fraction=0.01)
    adapted = on(method)
    size = sum(map(size_of, adapted.sites))
    k = kept(0.01, size)
    params = map_params(torch.ones_like, adapted.init(0))
    assert torch.equal(method.finished(params, adapted.sites)[1]["shared"]["index"].long(), torch.arange(k))
    params["pooler.dense"]["dw"][3, 4] = -2
    index = method.finished(params, adapted.sites)[1]["shared"]["index"]
    at = sum(size_of(s) for s in adapted.sites if s.index < adapted.sites[-1].index) + 3 * 32 + 4
    assert adapted.sites[-1].name == "pooler.dense"
    assert index.tolist() == [*range(k - 1), at]


@pytest.mark.parametrize("name", ["bert", "gpt2", "gemma2", "t5", "clip"])
def test_a_sparse_difference_is_the_dense_one(name: str) -> None:
    """`finished` of everything but k zeros answers as the dense difference does, alone and in a stack."""
    method = MagnitudePruning(fraction=0.02)
    adapted = on(method, name, torch.float64)
    rows = Batch(
        {n: x.double() if x.is_floating_point() else x for n, x in batch(3, name).inputs.items()}, batch().row_mask
    )
    each = []
    for seed in range(2):
        dense = map_params(
            lambda p, s=seed: p + 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(s)),
            adapted.init(0),
        )
        done, found = method.finished(dense, adapted.sites)
        index = found["shared"]["index"].long()
        masked = torch.zeros_like(flat(dense, adapted)).index_put((index,), flat(dense, adapted)[index])
        parts = iter(masked.split([math.prod(x) for s in adapted.sites for x in tensors_of(s).values()]))
        only = {s.name: {n: next(parts).reshape(x) for n, x in tensors_of(s).items()} for s in adapted.sites}
        sparse = attach(adapted.backbone, done)
        with torch.no_grad():
            expected = adapted(only, rows)
            torch.testing.assert_close(sparse(found, rows).hidden, expected.hidden)
        each.append((found, expected.hidden))
    two = Batch({n: torch.stack([x, x]) for n, x in rows.inputs.items()}, torch.ones(2, 3, dtype=torch.bool))
    with torch.no_grad():
        together = sparse(stack_params([found for found, _ in each]), two).hidden
    torch.testing.assert_close(together, torch.stack([expected for _, expected in each]))


def test_fresh_masks_are_random_and_a_tasks_own() -> None:
    adapted = on(SparseDelta(fraction=0.1))
    index = adapted.init(0, tasks=3)["shared"]["index"]
    size = sum(map(size_of, adapted.sites))
    assert index.shape == (3, kept(0.1, size))
    assert (index.diff() > 0).all()
    assert not torch.equal(index[0], index[1])
    assert torch.equal(index[1], adapted.init(1)["shared"]["index"])
    halves = (index < size // 2).double().mean(1)
    assert ((halves - 0.5).abs() < 0.05).all()


def test_fish_keeps_the_largest_information() -> None:
    method = FishMask(fraction=0.01)
    assert (method.first, method.refit) == ("fisher", 1.0)
    adapted = on(method)
    information = map_params(Tensor.square, noisy(adapted.init(0)))
    done, found = method.finished(information, adapted.sites)
    assert done == SparseDelta(fraction=0.01)
    score = flat(information, adapted)
    chosen = torch.zeros(len(score), dtype=torch.bool)
    chosen[found["shared"]["index"].long()] = True
    assert int(chosen.sum()) == kept(0.01, len(score))
    assert score[chosen].min() > score[~chosen].max()
    assert not found["shared"]["value"].any()


@pytest.mark.parametrize("name", ["bert", "gpt2", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_outside_the_mask_stay_to_the_bit(name: str, dtype: torch.dtype) -> None:
    """After training with AdamW and weight decay, in merged weights; the touched ones come back to the bit."""
    adapted = on(SparseDelta(fraction=0.02), name, dtype)
    start = adapted.init(0, tasks=1)
    start["head"] = {"weight": torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(0)).to(dtype)}

    def model(params: Params, each: Batch, noise: Noise | None = None) -> Tensor:
        own = {site: p for site, p in params.items() if site != "head"}
        return adapted(own, each).hidden[:, :, 0] @ params["head"]["weight"].mT

    rows = Rows(batch(6, name), torch.arange(6)[None], torch.tensor([[0, 1] * 3]), torch.ones(1, 2, dtype=torch.bool))
    schedule = Schedule(steps=8, lr=0.05, weight_decay=0.1)
    trained, _ = fit(model, start, rows, cross_entropy, schedule, seed=0, method=adapted.method)
    params = task_params({site: own for site, own in trained.items() if site != "head"}, 0)
    index, value = params["shared"]["index"], params["shared"]["value"]
    assert torch.equal(index, start["shared"]["index"][0])
    assert value.any()
    before = copy.deepcopy(adapted.backbone.model.state_dict())
    after = before | merge(adapted, params)
    assert all(torch.equal(tensor, before[key]) for key, tensor in adapted.backbone.model.state_dict().items())
    paths = {id(module): path for path, module in adapted.backbone.model.named_modules()}

    def in_order(state: dict[str, Tensor]) -> Tensor:
        """Every covered entry of a model's weights."""
        parts: list[Tensor] = []
        for place in adapted.places:
            for kind in ("weight", "bias")[: len(tensors_of(place.site))]:
                p = state[f"{paths[id(place.module)]}.{kind}"]
                p = p.T if kind == "weight" and is_transposed(place.module) else p
                parts.append((p if place.part is None else p.chunk(place.part.parts)[place.part.index]).flatten())
        return torch.cat(parts)

    old, new = in_order(before), in_order(after)
    touched = torch.zeros(len(old), dtype=torch.bool).index_fill(0, index.long(), True)
    assert torch.equal(new[~touched], old[~touched])
    torch.testing.assert_close(
        new[touched], old[touched] + value, rtol=1e-6 if dtype is torch.float32 else 1e-10, atol=1e-12
    )
    assert (new[touched] != old[touched]).double().mean() > 0.5  # some have no gradient
    new[index.long()] = old[index.long()]
    assert torch.equal(new, old)


# -- random projections --------------------------------------------------------------------------------------------


def dense_hadamard(n: int) -> Tensor:
    """`H[i, j] = (-1)^popcount(i & j)`."""
    return torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(n)] for i in range(n)], dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 8, 64, 128, 512])
def test_hadamard_is_the_dense_product(n: int) -> None:
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(hadamard(x), x @ dense_hadamard(n))


@pytest.mark.parametrize(("d", "size", "n"), [(5, 100, 128), (100, 5, 128), (64, 64, 64), (3, 1, 4)])
def test_fastfood_is_the_dense_product(d: int, size: int, n: int) -> None:
    """`H G Pi H B` over `sqrt(n sum G^2) sqrt(size / n)`, padded to n and cut to size."""
    from handful.methods.said import _drawn

    b, pi, g = (part.double() for part in _drawn(3, n, torch.device("cpu")))
    H, permutation = dense_hadamard(n), torch.eye(n, dtype=torch.float64)[pi.long()]
    matrix = H @ g.diag() @ permutation @ H @ b.diag() / ((n * (g @ g)).sqrt() * math.sqrt(size / n))
    assert set(b.tolist()) <= {-1.0, 1.0}
    x = torch.randn(2, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(fastfood(x, size, 3), x @ matrix[:size, :d].T)


def test_fastfood_keeps_lengths() -> None:
    """`E |P x|^2 = |x|^2`, whatever the padding."""
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for size in (40, 1000, 3000):
        lengths = torch.stack([fastfood(x, size, seed).square().sum() for seed in range(200)])
        assert float(lengths.mean() / x.square().sum()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("rank_one", [False, True])
def test_said_moves_every_tensor_by_its_projection(rank_one: bool) -> None:
    adapted = on(IntrinsicSAID(dimension=200, rank_one=rank_one), "bert", torch.float64)
    params, rows = noisy(adapted.init(0)), batch()
    from zlib import crc32

    delta: Params = {}
    for site in adapted.sites:
        delta[site.name] = {}
        for name, shape in tensors_of(site).items():
            seed, scale = crc32(f"0 {site.name} {name}".encode()), params[site.name][f"lambda_{name}"]
            if rank_one and len(shape) == 2:
                ray = fastfood(params["shared"]["theta"], sum(shape), seed)
                delta[site.name][name] = scale * torch.outer(ray[: shape[0]], ray[shape[0] :])
            else:
                ray = fastfood(params["shared"]["theta"], math.prod(shape), seed)
                delta[site.name][name] = scale * ray.reshape(shape)
    with torch.no_grad():
        expected = attach(adapted.backbone, DenseDelta())(delta, rows).hidden
        torch.testing.assert_close(adapted(params, rows).hidden, expected)
    assert adapted.num_parameters() == 200


def test_said_without_structure_trains_one_vector() -> None:
    adapted = on(IntrinsicSAID(dimension=70, structure=False))
    params = adapted.init(0)
    trained = [(s, n) for s, own in params.items() for n, p in own.items() if p.is_floating_point()]
    assert trained == [("shared", "theta")]
    assert adapted.num_parameters() == 70


def test_said_refuses_what_cannot_move() -> None:
    roles = frozenset({"ffn.in"})
    with pytest.raises(MethodError, match="never move"):
        on(IntrinsicSAID(dimension=50, rank_one=True, roles=roles), "llama").init(0)
    adapted = on(IntrinsicSAID(dimension=50, rank_one=True, roles=roles, start=0.01), "llama")
    tree = map_params(lambda p: p.requires_grad_(), adapted.init(0))
    adapted(tree, batch(3, "llama")).hidden.sum().backward()
    assert tree["shared"]["theta"].grad is not None
    assert tree["shared"]["theta"].grad.any()
    with pytest.raises(MethodError, match=r"3 dimensions.*scales"):
        on(IntrinsicSAID(dimension=3)).init(0)
