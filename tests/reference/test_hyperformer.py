"""HyperFormer and HyperFormer++ against modules written here, their published counts, and what becomes of a task."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.attach import Adapted, attach
from handful.backbone import Backbone, from_model
from handful.batches import stack
from handful.counting import count, shape
from handful.episodes import mixture
from handful.errors import MethodError, RequestError
from handful.fit import Schedule, fit
from handful.losses import cross_entropy
from handful.methods import from_spec, to_spec
from handful.methods.hyperformer import HyperFormer, HyperFormerPP
from handful.scoring import Classifier
from handful.types import Batch, Params, map_params, task_params
from tiny import HIDDEN, TINY, tiny_inputs
from tinytext import random_params, tiny_text, token_pool

SMALL: dict[str, Any] = {"reduction": 8, "embedding": 5, "projected": 6, "hidden": 7}
WIDTH = HIDDEN // 8


class Linears(nn.ModuleDict):
    """The linear layers whose weights are `{prefix}{name}.W` and `.b`."""

    def __init__(self, params: dict[str, Tensor], prefix: str, *names: str) -> None:
        super().__init__()
        for name in names:
            weight, bias = params[f"{prefix}{name}.W"], params[f"{prefix}{name}.b"]
            self[name] = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
            self[name].load_state_dict({"weight": weight, "bias": bias})


class Hypernetwork(nn.Module):
    """Embedding -> the tensors of an adapter (the paper's equations 3 to 6)."""

    def __init__(self, params: dict[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.heads = Linears(params, prefix, "U", "D", "b_up", "b_down", "gamma", "beta")

    def forward(self, v: Tensor) -> dict[str, Tensor]:
        made = {name: head(v) for name, head in self.heads.items()}
        return made | {"U": made["U"].view(HIDDEN, WIDTH), "D": made["D"].view(WIDTH, HIDDEN)}


class WithAdapter(nn.Module):
    """A sub-layer's last projection, and after it the adapter."""

    def __init__(self, layer: nn.Module, p: dict[str, Tensor]) -> None:
        super().__init__()
        self.layer, self.p, self.weight = layer, p, layer.weight  # T5 asks for the dtype of the weight

    def forward(self, x: Tensor) -> Tensor:
        x, p = self.layer(x), self.p
        inner = F.gelu(F.linear(x, p["D"], p["b_down"]), approximate="tanh")
        v = F.linear(inner, p["U"], p["b_up"])
        centred = v - v.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return p["gamma"] * unit + p["beta"] + x


def generated(method: HyperFormer, params: Params, adapted: Adapted) -> dict[str, dict[str, Tensor]]:
    """Each site's adapter by `Hypernetwork`s of one task's params."""
    shared, made = params["shared"], {}
    for site in adapted.sites:
        stack, z = f"{site.stack}.", shared["z"][0]
        if method.networks == "site":
            mlp = Linears(shared, "", "I1", "I2")
            v = mlp["I2"](mlp["I1"](z).relu())
            network = Hypernetwork(params[site.name], "")
        else:
            parts = [z, shared[f"{stack}l"][site.layer]]
            if method.networks == "stack":
                parts.append(shared[f"{stack}p"][{"ffn.out": 0, "attention.out": 1}[site.role]])
            mlp = Linears(shared, stack, "I1", "I2")
            norm = nn.LayerNorm(6, eps=1e-6, dtype=z.dtype)
            norm.load_state_dict({"weight": shared[f"{stack}LN.W"], "bias": shared[f"{stack}LN.b"]})
            v = norm(mlp["I2"](mlp["I1"](torch.cat(parts)).relu()))
            network = Hypernetwork(shared, stack if method.networks == "stack" else f"{stack}{site.role}.")
        made[site.name] = network(v)
    return made


METHODS = {
    "site": HyperFormer(**SMALL),
    "stack": HyperFormerPP(**SMALL),
    "position": HyperFormerPP(networks="position", **SMALL),
}


def setting(name: str, method: HyperFormer) -> tuple[Adapted, Params, Batch]:
    """Two tasks with the same networks and embeddings of their own, away from the start."""
    adapted = attach(from_model(TINY[name]().double(), id=name), method)
    one = random_params(adapted.init(0))
    params = map_params(lambda p: torch.stack([p, p]), one)
    params["shared"]["z"][1] = torch.randn(1, 5, generator=torch.Generator().manual_seed(7))
    inputs = {key: x.unflatten(0, (2, 3)) for key, x in tiny_inputs(name, 6, 5).items()}
    return adapted, params, Batch(inputs, torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize("networks", METHODS)
@pytest.mark.parametrize("name", ["t5", "bert", "bart"])
def test_two_tasks_equal_their_modules(name: str, networks: str) -> None:
    adapted, params, batch = setting(name, METHODS[networks])
    with torch.no_grad():
        states = adapted(params, batch)
        for t in range(2):
            model: Any = copy.deepcopy(adapted.backbone.model)
            for site, p in generated(METHODS[networks], task_params(params, t), adapted).items():
                path, _, leaf = site.rpartition(".")
                setattr(model.get_submodule(path), leaf, WithAdapter(model.get_submodule(site), p))
            hidden = model(**{key: x[t] for key, x in batch.inputs.items()}).last_hidden_state
            mask = states.mask[t]
            exact = 1e-5 if name == "t5" else 1e-10  # its norms compute in single precision
            torch.testing.assert_close(states.hidden[t][mask], hidden[mask], rtol=exact, atol=exact)
    assert not torch.allclose(states.hidden[0][:1], states.hidden[1][:1], atol=1e-2)


def test_there_are_no_adapters_after_cross_attention() -> None:
    adapted = attach(from_model(TINY["t5"](), id="t5"), METHODS["stack"])
    found = [(site.stack, site.layer, site.role) for site in adapted.sites]
    assert sorted(found) == sorted(
        (stack, layer, role)
        for stack in ("encoder", "decoder")
        for layer in (0, 1)
        for role in ("attention.out", "ffn.out")
    )


@pytest.mark.parametrize("networks", METHODS)
def test_what_is_kept_answers_the_same(networks: str) -> None:
    """The adapters alone, in single precision, also read back from their description."""
    adapted, params, batch = setting("t5", METHODS[networks])
    adapted = attach(from_model(TINY["t5"](), id="t5"), METHODS[networks])
    params = map_params(Tensor.float, params)
    alone, wide = [], []
    for t in range(2):
        method, kept = adapted.method.finished(task_params(params, t), adapted.sites)
        assert from_spec(to_spec(method)) == method
        assert {n: tuple(p.shape) for n, p in kept[adapted.sites[0].name].items()} == {
            "D": (WIDTH, HIDDEN), "U": (HIDDEN, WIDTH), "b_down": (WIDTH,), "b_up": (HIDDEN,),
            "gamma": (HIDDEN,), "beta": (HIDDEN,),
        }  # fmt: skip
        assert method.finished(kept, adapted.sites) == (method, kept)
        own = Batch({key: x[t] for key, x in batch.inputs.items()}, batch.row_mask[t])
        with torch.no_grad():
            alone.append(attach(adapted.backbone, method)(kept, own).hidden)
            wide.append(adapted(task_params(params, t), own).hidden)
        assert not any(method.tied(name) for own in kept.values() for name in own)
    torch.testing.assert_close(torch.stack(alone), torch.stack(wide), rtol=1e-6, atol=1e-6)


# -- what the networks read --------------------------------------------------------------------------------------------


def test_layer_position_and_task_change_what_is_written() -> None:
    adapted, params, _ = setting("bert", METHODS["stack"])
    one = task_params(params, 0)["shared"]
    sites = {(site.layer, site.role): site for site in adapted.sites}
    method = METHODS["stack"]
    made = {key: method.generated(one, site)["U"] for key, site in sites.items()}
    other = method.generated(task_params(params, 1)["shared"], sites[0, "ffn.out"])["U"]
    several = [*made.values(), other]
    assert all(not torch.allclose(a, b) for i, a in enumerate(several) for b in several[:i])
    swapped = one | {"encoder.l": one["encoder.l"].flip(0), "encoder.p": one["encoder.p"].flip(0)}
    torch.testing.assert_close(method.generated(swapped, sites[1, "ffn.out"])["U"], made[0, "attention.out"])


@pytest.mark.parametrize("networks", METHODS)
def test_the_start_is_common_but_for_the_embedding(networks: str) -> None:
    """Whatever the seeds; and the first step already moves gamma and beta at every site."""
    adapted = attach(from_model(TINY["bert"](), id="bert"), METHODS[networks])
    params = adapted.init(3, tasks=2)
    for site, own in params.items():
        for name, p in own.items():
            assert torch.equal(p[0], p[1]) == METHODS[networks].tied(name) == (name != "z"), f"{site} {name}"
    other = attach(adapted.backbone, replace(METHODS[networks], hyper_seed=1)).init(3)
    same = [torch.equal(p, params[s][n][0]) for s, own in other.items() for n, p in own.items() if n.endswith("U.W")]
    assert same
    assert not any(same)
    leaves = map_params(lambda p: p.clone().requires_grad_(), params)
    inputs = {key: torch.stack([x, x]) for key, x in tiny_inputs("bert", 2, 5).items()}
    (adapted(leaves, Batch(inputs, torch.ones(2, 2, dtype=torch.bool))).hidden ** 3).sum().backward()
    biases = [p for own in leaves.values() for n, p in own.items() if n.endswith(("gamma.b", "beta.b", "gamma.W"))]
    assert len(biases) == 3 * {"site": 4, "stack": 1, "position": 2}[networks]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in biases)


def test_gradients_reach_the_embedding_of_the_rows_task_alone() -> None:
    """The networks get theirs from every task."""
    adapted, params, batch = setting("t5", METHODS["stack"])
    leaves = map_params(lambda p: p.clone().requires_grad_(), params)
    adapted(leaves, batch).hidden[1].square().sum().backward()
    z = leaves["shared"]["z"].grad
    assert z is not None
    assert z[0].abs().max() == 0
    assert z[1].abs().max() > 0
    common = map_params(lambda p: p[0].clone().requires_grad_(), params)["shared"]
    for t in range(2):
        one = {"shared": common | {"z": params["shared"]["z"][t]}, **{site.name: {} for site in adapted.sites}}
        own = Batch({key: x[t] for key, x in batch.inputs.items()}, batch.row_mask[t])
        grads = torch.autograd.grad(
            adapted(one, own).hidden.square().sum(), [common["encoder.U.W"], common["encoder.l"]]
        )
        assert all(grad.abs().max() > 0 for grad in grads)


# -- training ----------------------------------------------------------------------------------------------------------


POOL = token_pool([5, 9, 3, 7, 4, 6, 8, 2, 6, 5, 3, 4])
INDEX, LABELS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], torch.tensor([0, 1, 0, 1])


def learned(method: HyperFormer, params: Params, tasks: list[int], steps: int = 20) -> tuple[Params, Tensor]:
    model = Classifier(attach(tiny_text(), method), "mean", 4.0)
    head = {"weight": torch.zeros(len(tasks), 2, HIDDEN), "bias": torch.zeros(len(tasks), 2)}
    head["weight"][:, 1] = 0.5 * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(3))
    rows = stack(POOL, [INDEX[t] for t in tasks], [LABELS] * len(tasks), [2] * len(tasks))
    schedule = Schedule(steps=steps, lr=2e-2, head_lr=0.0)
    params, history = fit(model, params | {"head": head}, rows, cross_entropy, schedule, seed=0, method=method)
    return params, history.losses


@pytest.mark.parametrize("networks", METHODS)
def test_tasks_learn_one_network_and_an_embedding_each(networks: str) -> None:
    """Although all start alike: with equal seeds even the embeddings do."""
    adapted = attach(tiny_text(), METHODS[networks])
    before = map_params(lambda p: torch.stack([p, p, p]), adapted.init(5))
    after, losses = learned(METHODS[networks], before, [0, 1, 2])
    assert losses[-1].mean() < losses[0].mean()
    after.pop("head")
    for site, own in after.items():
        for name, p in own.items():
            assert not torch.equal(p, before[site][name]), f"{site} {name}"
            assert torch.equal(p[0], p[1]) == torch.equal(p[0], p[2]) == (name != "z"), f"{site} {name}"


@pytest.mark.parametrize("networks", METHODS)
def test_a_new_task_learns_from_its_embedding_alone(networks: str) -> None:
    adapted = attach(tiny_text(), METHODS[networks])
    trained, _ = learned(METHODS[networks], adapted.init(5, tasks=2), [0, 1])
    trained.pop("head")
    method = replace(METHODS[networks], only_embedding=True)
    start = map_params(lambda p: p[:1], trained)
    start["shared"]["z"] = attach(tiny_text(), method).init(9)["shared"]["z"][None]
    after, losses = learned(method, start, [2])
    after.pop("head")
    changed = {name for site, own in after.items() for name, p in own.items() if not torch.equal(p, start[site][name])}
    assert changed == {"z"}
    assert losses[-1] < losses[0]


# -- counts ------------------------------------------------------------------------------------------------------------

EIGHT = 8
PROJECTOR = 64 * 128 + 128 + 128 * 64 + 64
COUNTS = [
    ("t5-base", HyperFormerPP(), 5_163_440),
    ("t5-small", HyperFormerPP(), 2_399_392),
    ("t5-base", HyperFormer(), 122_279_040 + PROJECTOR + EIGHT * 64),  # the published ones are of the networks alone
    ("t5-small", HyperFormer(), 27_980_160 + PROJECTOR + EIGHT * 64),
    ("t5-base", HyperFormerPP(networks="position"), 10_241_760),  # what the released hyperformer.json makes
]


@pytest.mark.parametrize(("name", "method", "expected"), COUNTS)
def test_counts_of_eight_tasks(name: str, method: HyperFormer, expected: int) -> None:
    """The networks once and an embedding for each task; the hyperformer rows of the paper's table 1."""
    assert count(shape(name), method, tasks=EIGHT).trainable == expected
    assert count(shape(name), method, tasks=1).trainable == expected - 7 * 64


PER_TASK = [("t5-base", HyperFormerPP(), 0.290), ("t5-small", HyperFormerPP(), 0.496)]


@pytest.mark.parametrize(("name", "method", "percent"), PER_TASK)
def test_shares_of_a_task_are_the_published_ones(name: str, method: HyperFormer, percent: float) -> None:
    found = count(shape(name), method, tasks=EIGHT)
    assert round(100 * found.trainable / EIGHT / found.total, 3) == percent


def test_what_is_kept_of_a_task_is_an_adapter() -> None:
    """`2 h d + d + 3 h` at 48 sites: a Houlsby adapter and a norm."""
    kept = HyperFormer(networks="none")
    assert count(shape("t5-base"), kept).trainable == 48 * (2 * 768 * 24 + 24 + 3 * 768)


@pytest.mark.parametrize("reduction", [0, 33])
def test_a_reduction_beyond_the_width_is_refused(reduction: int) -> None:
    frozen: Backbone = from_model(TINY["bert"](), id="bert")
    for make in (HyperFormer, HyperFormerPP):
        with pytest.raises(MethodError, match=f"reduction {reduction} must be 1 to 32"):
            attach(frozen, make(reduction=reduction)).init(0)
    with pytest.raises(MethodError, match="networks 'layer'"):
        attach(frozen, HyperFormer(networks="layer")).init(0)  # type: ignore[arg-type]


# -- sampling ----------------------------------------------------------------------------------------------------------

GLUE = {"mnli": 392_702, "qqp": 363_846, "qnli": 104_743, "sst2": 67_349, "cola": 8_551, "rte": 2_490}


def test_tasks_are_drawn_by_the_root_of_their_size() -> None:
    """Karimi Mahabadi et al. 2021: `p_t ~ (n_t / sum n)^(1 / T)`, T = 10."""
    p = dict(zip(GLUE, mixture(list(GLUE.values()), temperature=10), strict=True))
    assert round(p["mnli"] / p["rte"], 2) == 1.66
    assert abs(sum(p.values()) - 1) < 1e-12
    sizes = torch.tensor(list(GLUE.values()), dtype=torch.float64)
    proportional = torch.from_numpy(mixture(list(GLUE.values()), temperature=1))
    torch.testing.assert_close(proportional, sizes / sizes.sum())
    torch.testing.assert_close(torch.from_numpy(mixture(list(GLUE.values()), temperature=1e9)), sizes * 0 + 1 / 6)


@pytest.mark.parametrize(("sizes", "temperature"), [([3, 0], 10.0), ([], 10.0), ([3, 4], 0.0), ([3], float("nan"))])
def test_a_mixture_of_nothing_is_refused(sizes: list[int], temperature: float) -> None:
    with pytest.raises(RequestError, match="drawn"):
        mixture(sizes, temperature=temperature)
