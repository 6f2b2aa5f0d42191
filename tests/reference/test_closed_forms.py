"""Methods that `peft` does not have, against modules and dense products written here without `handful`."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModel

from handful.attach import States, attach
from handful.backbone import Backbone, from_model
from handful.errors import MethodError
from handful.methods import Method
from handful.methods.bottleneck import Houlsby, ParallelAdapter, Pfeiffer
from handful.methods.kronecker import (
    Compacter,
    CompacterPlusPlus,
    KroneckerAdapter,
    PHMAdapter,
    kronecker_product,
    low_rank_kronecker_product,
)
from handful.methods.ladder import LadderSide
from handful.methods.lora import LoRA
from handful.methods.lowrank_adapter import LowRankAdapter
from handful.methods.prefix import PrefixTuning
from handful.methods.ssf import SSF
from handful.types import Batch, Params, map_params
from tiny import TINY, tiny_inputs

ROWS, TOKENS = 3, 6


def setting(name: str, method: Any) -> tuple[States, Params, Backbone, dict[str, Tensor]]:
    """What `handful` answers with random params, in double precision, and what it was asked."""
    frozen = from_model(TINY[name]().double(), id=name)
    adapted = attach(frozen, method)
    generator = torch.Generator().manual_seed(1)
    params = map_params(lambda p: p + 0.2 * torch.randn(p.shape, generator=generator).to(p), adapted.init(0))
    inputs = tiny_inputs(name, ROWS, TOKENS)
    with torch.no_grad():
        states = adapted(params, Batch(inputs, torch.ones(ROWS, dtype=torch.bool)))
    return states, params, frozen, inputs


class Adapter(nn.Module):
    """Houlsby et al. 2019, figure 2, without the inner residual."""

    def __init__(self, p: dict[str, Tensor], activation: Any) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(*p["down"].shape[::-1]), nn.Linear(*p["up"].shape[::-1])
        self.down.weight, self.down.bias = nn.Parameter(p["down"]), nn.Parameter(p["down_bias"])
        self.up.weight, self.up.bias = nn.Parameter(p["up"]), nn.Parameter(p["up_bias"])
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        return self.up(self.activation(self.down(h)))


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.forward = function


class Serial(nn.Module):
    def __init__(self, layer: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.layer, self.adapter = layer, adapter

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return h + self.adapter(h)


def answer(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def same(states: States, hidden: Tensor) -> None:
    torch.testing.assert_close(states.hidden[states.mask], hidden[states.mask], rtol=1e-10, atol=1e-10)


def test_houlsby_on_bert() -> None:
    states, params, frozen, inputs = setting("bert", Houlsby(width=5, activation="relu"))
    model: Any = copy.deepcopy(frozen.model)
    for i, block in enumerate(model.encoder.layer):
        for output, name in ((block.attention.output, f"{i}.attention.output"), (block.output, f"{i}.output")):
            output.dense = Serial(output.dense, Adapter(params[f"encoder.layer.{name}.dense"], F.relu))
    same(states, answer(model, inputs))


def test_pfeiffer_on_bert() -> None:
    """`norm(x + A(norm(x)))` at the residual sum x after the feed-forward network."""

    class Added(nn.Module):
        def __init__(self, norm: nn.Module, adapter: nn.Module) -> None:
            super().__init__()
            self.norm, self.adapter = norm, adapter

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x + self.adapter(self.norm(x)))

    states, params, frozen, inputs = setting("bert", Pfeiffer(width=5, activation="gelu"))
    model: Any = copy.deepcopy(frozen.model)
    for i, block in enumerate(model.encoder.layer):
        adapter = Adapter(params[f"encoder.layer.{i}.output.LayerNorm#add"], F.gelu)
        block.output.LayerNorm = Added(block.output.LayerNorm, adapter)
    same(states, answer(model, inputs))


def test_pfeiffer_on_gpt2() -> None:
    """A pre-norm block has no norm there: its output h becomes `h + A(h)`."""

    states, params, frozen, inputs = setting("gpt2", Pfeiffer(width=5, activation="tanh"))
    model: Any = copy.deepcopy(frozen.model)
    for i, block in enumerate(model.h):
        adapter = Adapter(params[f"h.{i}#ffn.add"], torch.tanh)
        block.register_forward_hook(lambda _, __, out, adapter=adapter: out + adapter(out))
    same(states, answer(model, inputs))


@pytest.mark.parametrize(("name", "ffn"), [("llama", "layers.{}.mlp"), ("gpt2", "h.{}.mlp")])
def test_parallel(name: str, ffn: str) -> None:
    """`FFN(x) + s A(x)` around the whole feed-forward module."""

    class Parallel(nn.Module):
        def __init__(self, module: nn.Module, adapter: nn.Module) -> None:
            super().__init__()
            self.module, self.adapter = module, adapter

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x) + 4.0 * self.adapter(x)

    states, params, frozen, inputs = setting(name, ParallelAdapter(width=5, activation="silu"))
    model: Any = copy.deepcopy(frozen.model)
    for i in range(2):
        path, _, leaf = ffn.format(i).rpartition(".")
        block = model.get_submodule(path)
        setattr(block, leaf, Parallel(getattr(block, leaf), Adapter(params[f"{path}#ffn"], F.silu)))
    same(states, answer(model, inputs))


def kron(a: Tensor, b: Tensor) -> Tensor:
    """`sum_i kron(a_i, b_i)`, built."""
    return torch.stack([torch.kron(a[i], b[i]) for i in range(len(a))]).sum(0)


@pytest.mark.parametrize(
    ("n", "p", "q", "r", "tokens"),
    [(4, 192, 6, 1, 9), (4, 6, 192, 1, 9), (12, 64, 2, 1, 3), (3, 4, 5, 2, 7), (2, 3, 3, 3, 2), (4, 5, 2, 2, 40)],
)
def test_kronecker_is_the_dense_product(n: int, p: int, q: int, r: int, tokens: int) -> None:
    """Factor by factor, by small matrices in either order, and by the dense one where that is cheaper."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((n, n, n), (n, p, r), (n, r, q), (tokens, n * p))
    a, s, t, x = (torch.randn(*shape, generator=generator).double() for shape in shapes)
    dense = x @ kron(a, s @ t)
    two = tuple(torch.stack(each) for each in ([x, 2 * x], [a, -a], [s, s], [t, 3 * t]))
    torch.testing.assert_close(kronecker_product(x, a, s @ t), dense)
    torch.testing.assert_close(low_rank_kronecker_product(x, a, s, t), dense)
    x, a, s, t = two
    torch.testing.assert_close(kronecker_product(x, a, s @ t), torch.stack([dense, -6 * dense]))
    torch.testing.assert_close(low_rank_kronecker_product(x, a, s, t), torch.stack([dense, -6 * dense]))


def test_no_matrix_is_built_where_factors_are_cheaper() -> None:
    """T5-base's adapter of rank one never holds 768 x 24 numbers, however many tokens there are."""
    seen: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            seen.extend(part.numel() for part in (out if isinstance(out, tuple) else (out,)))
            return out

    for tokens in (1, 8):
        a, s, t, x = torch.ones(4, 4, 4), torch.ones(4, 192, 1), torch.ones(4, 1, 6), torch.ones(tokens, 768)
        with Watch():
            low_rank_kronecker_product(x, a, s, t)
        assert max(seen) <= tokens * 768 < 768 * 24


@pytest.mark.parametrize("rank", [1, 2, None])
@pytest.mark.parametrize("shared", [True, False])
def test_kronecker_on_bert(rank: int | None, shared: bool) -> None:
    """Adapters with dense matrices give the same answers; the gradient of a shared A is the sum over its places."""
    method = KroneckerAdapter(order=4, width=8, rank=rank, shared_factors=shared)
    states, params, frozen, inputs = setting("bert", method)
    gelu = functools.partial(F.gelu, approximate="tanh")
    copies: list[Tensor] = []

    def dense(own: dict[str, Tensor], part: str) -> Tensor:
        a = (params["shared"]["A"] if shared else own[f"A_{part}"]).clone().requires_grad_()
        copies.append(a)
        return kron(a, own[f"{part}_B"] if rank is None else own[f"{part}_s"] @ own[f"{part}_t"]).T

    def tuned(own: dict[str, Tensor]) -> Any:
        down, up = dense(own, "down"), dense(own, "up")
        return lambda h: F.linear(gelu(F.linear(h, down, own["down_bias"])), up, own["up_bias"])

    model: Any = copy.deepcopy(frozen.model)
    for i, block in enumerate(model.encoder.layer):
        for output, name in ((block.attention.output, f"{i}.attention.output"), (block.output, f"{i}.output")):
            output.dense = Serial(output.dense, Function(tuned(params[f"encoder.layer.{name}.dense"])))
    hidden = model(**inputs).last_hidden_state
    same(states, hidden.detach())
    if not shared:
        assert "shared" not in params
        return
    params["shared"]["A"].requires_grad_()
    ours = attach(frozen, method)(params, Batch(inputs, torch.ones(ROWS, dtype=torch.bool)))
    grad = torch.autograd.grad((ours.hidden[ours.mask] ** 3).sum(), params["shared"]["A"])[0]
    each = torch.autograd.grad((hidden[ours.mask] ** 3).sum(), copies)
    assert len(each) == 8
    torch.testing.assert_close(grad, torch.stack(each).sum(0), rtol=1e-8, atol=1e-8)


def test_a_kronecker_adapter_of_order_one_is_a_plain_one() -> None:
    """With `n = 1` and `A = [[1]]`; and of full rank, products of factors reach what full factors do."""
    x, b = torch.randn(5, 6).double(), torch.randn(1, 6, 4).double()
    torch.testing.assert_close(kronecker_product(x, torch.ones(1, 1, 1).double(), b), x @ b[0])
    u, s, v = torch.linalg.svd(b, full_matrices=False)
    full = low_rank_kronecker_product(x, torch.ones(1, 1, 1).double(), u * s[:, None], v)
    torch.testing.assert_close(full, x @ b[0])


def test_low_rank_adapter_on_bert() -> None:
    states, params, frozen, inputs = setting("bert", LowRankAdapter(rank=3, width=6, activation="silu"))
    model: Any = copy.deepcopy(frozen.model)
    for i, block in enumerate(model.encoder.layer):
        for output, name in ((block.attention.output, f"{i}.attention.output"), (block.output, f"{i}.output")):
            own = params[f"encoder.layer.{name}.dense"]
            full = {part: (own[f"{part}_left"] @ own[f"{part}_right"]).T.contiguous() for part in ("down", "up")}
            output.dense = Serial(output.dense, Adapter(own | full, F.silu))
    same(states, answer(model, inputs))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (Compacter(order=5, width=10), "Compacter.*0.attention.output.dense.*order 5 must divide .* 32, .* 10"),
        (CompacterPlusPlus(order=4, width=6), "CompacterPlusPlus.*0.output.dense.*order 4 must divide .* 32, .* 6"),
        (PHMAdapter(width=0), "PHMAdapter.*order 4 must divide .* 32, .* 0, at least once"),
        (Compacter(order=4, width=8, rank=3), "rank 3 is outside 1 to 2, the smaller side of 8 x 2 factors"),
        (LowRankAdapter(rank=5, width=4), "LowRankAdapter.*rank 5 is outside 1 to 4"),
        (LowRankAdapter(rank=0), "rank 0 is outside 1 to 24"),
    ],
)
def test_bad_options_are_refused_by_name(method: Method, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        attach(from_model(TINY["bert"](), id="bert"), method).init(0)


@pytest.mark.parametrize("name", ["vit", "clip", "siglip", "dinov2"])
def test_ssf_on_images(name: str) -> None:
    """`gamma y + beta` after every linear layer, norm and patch embedding, put there by hooks of torch's own."""
    states, params, frozen, inputs = setting(name, SSF())
    model: Any = copy.deepcopy(frozen.model)
    for site, own in params.items():
        module = model.get_submodule(site)
        shape = (-1, 1, 1) if isinstance(module, nn.Conv2d) else (-1,)
        gamma, beta = own["gamma"].view(shape), own["beta"].view(shape)
        module.register_forward_hook(lambda _, __, out, gamma=gamma, beta=beta: gamma * out + beta)
    assert any(isinstance(model.get_submodule(site), nn.Conv2d) for site in params)
    tower = model.get_submodule(frozen.family.entry["pixel_values"]) if frozen.family.entry else model
    same(states, answer(tower, inputs))


def test_lora_on_patches() -> None:
    """A convolution of patches is a linear layer: its update is a convolution with `B A` as kernels."""
    states, params, frozen, inputs = setting("vit", LoRA(rank=2, roles=frozenset({"embeddings.projection"})))
    model: Any = copy.deepcopy(frozen.model)
    ((site, own),) = params.items()
    module = model.get_submodule(site)
    with torch.no_grad():
        module.weight += (16 / 2 * own["B"] @ own["A"]).view_as(module.weight)
    same(states, answer(model, inputs))


def frozen_states(frozen: Backbone, blocks: str, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    """What enters the first block, every block's output, and the final states."""
    model: Any = frozen.model
    seen: list[Tensor] = []

    def note(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    every = model.get_submodule(blocks)
    hooks = [every[0].register_forward_pre_hook(note, with_kwargs=True)]
    hooks += [
        b.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for b in every
    ]
    final = answer(model, inputs)
    for hook in hooks:
        hook.remove()
    return seen, final


@pytest.mark.parametrize(("name", "blocks"), [("bert", "encoder.layer"), ("gpt2", "h"), ("vit", "layers")])
def test_ladder(name: str, blocks: str) -> None:
    """torch's own pre-norm encoder layers, gated by sigmoid(alpha / 0.1), on the frozen hidden states."""
    states, params, frozen, inputs = setting(name, LadderSide(reduction=4, num_heads=2))
    (p,) = params.values()
    d, tokens = p["up"].shape[1], states.mask.shape[1]
    seen, final = frozen_states(frozen, blocks, inputs)
    padding = ~inputs["attention_mask"].bool() if "attention_mask" in inputs else None
    causal = torch.ones(tokens, tokens, dtype=torch.bool).triu(1) if name == "gpt2" else None
    side = seen[0] @ p["down"][0].T + p["down_bias"][0]
    with torch.no_grad():
        for i in range(len(seen) - 1):
            layer = nn.TransformerEncoderLayer(
                d, 2, 48 // 4, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
            )
            taken = {
                "self_attn.in_proj_": "qkv",
                "self_attn.out_proj.": "out",
                "linear1.": "ffn_in",
                "linear2.": "ffn_out",
            }
            weights = {f"{theirs}weight": p[ours][i] for theirs, ours in taken.items()}
            weights |= {f"{theirs}bias": p[f"{ours}_bias"][i] for theirs, ours in taken.items()}
            weights |= {f"norm{j + 1}.weight": p["norm"][i, j] for j in range(2)}
            layer.load_state_dict(weights | {f"norm{j + 1}.bias": p["norm_bias"][i, j] for j in range(2)})
            gate = torch.sigmoid(p["alpha"][i] / 0.1)
            tap = seen[i + 1] @ p["down"][i + 1].T + p["down_bias"][i + 1]
            side = layer.train()(
                gate * side + (1 - gate) * tap,
                src_mask=causal,
                src_key_padding_mask=padding,
            )
    side = F.layer_norm(side, (d,), p["last"], p["last_bias"])
    same(states, final + side @ p["up"].T + p["up_bias"])


@pytest.mark.parametrize("heads", [1, 4])
def test_prefixes_are_a_weighted_sum_of_two_attentions(heads: int) -> None:
    """`Attn(X, [P; X]) = (1 - l) Attn(X, X) + l Attn(X, P)`: `l` is the weight that a token's head gives the prefix.

    Wu et al. 2023 (arXiv 2306.15706) start from it. Under a padding mask, in every layer of the model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": heads, "intermediate_size": 48}
        model: Any = AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=101, **config)).double().eval()
    frozen = from_model(model, id="bert")
    adapted = attach(frozen, PrefixTuning(num_tokens=3, std=0.5))
    params, inputs = adapted.init(0), tiny_inputs("bert", ROWS, TOKENS)
    with torch.no_grad():
        states = adapted(params, Batch(inputs, torch.ones(ROWS, dtype=torch.bool)))
    hidden_keys = ~inputs["attention_mask"].bool()[:, None, None]

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(-2, -3)

    def composed(layer: Any, prefix: dict[str, Tensor]) -> Any:
        def attention(_: nn.Module, args: Any, out: Any) -> Any:
            q, k, v = (split(project(args[0])) for project in (layer.query, layer.key, layer.value))
            p_k, p_v = split(prefix["key"]), split(prefix["value"])
            own = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden_keys, -torch.inf)
            to_prefix = q @ p_k.mT / q.shape[-1] ** 0.5
            weight = torch.sigmoid(to_prefix.logsumexp(-1, keepdim=True) - own.logsumexp(-1, keepdim=True))
            assert ((weight > 0) & (weight < 1)).all()
            mixed = (1 - weight) * (own.softmax(-1) @ v) + weight * (to_prefix.softmax(-1) @ p_v)
            return (mixed.transpose(1, 2).flatten(2), *out[1:])

        return attention

    hooked = copy.deepcopy(model)
    for i, block in enumerate(hooked.encoder.layer):
        (own,) = (p for name, p in params.items() if name.startswith(f"encoder.layer.{i}#"))
        block.attention.self.register_forward_hook(composed(block.attention.self, own))
    same(states, answer(hooked, inputs))
    assert not torch.allclose(states.hidden, answer(model, inputs))
