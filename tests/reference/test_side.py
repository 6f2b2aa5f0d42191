"""Networks beside the backbone, and approximated prompts, against their papers' equations written out here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from handful.attach import Adapted, States, attach
from handful.backbone import Backbone, from_model
from handful.errors import MethodError
from handful.forward import run_backbone
from handful.methods import Method
from handful.methods.apt import APT
from handful.methods.ladder import LadderSide
from handful.methods.last import LAST
from handful.methods.lora import LoRA
from handful.methods.losa import LoSA
from handful.side import attention, attention_mask, pruned
from handful.sites import all_places
from handful.types import Batch, Params, map_params
from tiny import TINY, build, tiny_inputs

ROWS, TOKENS = 3, 6
BESIDE = {
    "ladder": LadderSide(reduction=4, layers=2),
    "last": LAST(rank=2, layers=2),
    "losa": LoSA(rank=2, num_tokens=40, layers=2),
}


def moved(adapted: Adapted, seed: int = 1) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return map_params(lambda p: p + 0.2 * torch.randn(p.shape, generator=generator).to(p), adapted.init(0))


def double(name: str) -> Backbone:
    return from_model(TINY[name]().double(), id=name)


def rows(name: str, side: str = "right") -> Batch:
    inputs = tiny_inputs(name, ROWS, TOKENS, side=side)
    floats = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
    return Batch(floats, torch.ones(ROWS, dtype=torch.bool))


def frozen_states(adapted: Adapted, batch: Batch) -> tuple[list[Tensor], Tensor, Tensor]:
    """`z_0` to `z_L`, the final states, and the mask."""
    *states, final = adapted.freeze(batch).unbind(-2)
    return states, final, run_backbone(adapted.backbone, batch.inputs)[1]


def same(states: States, hidden: Tensor) -> None:
    torch.testing.assert_close(states.hidden[states.mask], hidden[states.mask], rtol=1e-10, atol=1e-10)


def vit(depth: int, **options: Any) -> Any:
    """A tiny ViT of `depth` blocks."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
    return build("vit", {**sizes, "num_hidden_layers": depth, **options})


def meta(model_type: str, **options: Any) -> Backbone:
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(model_type, **options))
    return from_model(model, id=model_type, fingerprint="none")


# Ladder side tuning


def ladder_on_vit(**options: Any) -> tuple[Adapted, Params, Batch]:
    model = vit(2, layer_norm_eps=1e-5).double()
    adapted = attach(from_model(model, id="vit"), LadderSide(reduction=1, start="magnitude", **options))
    params = adapted.init(0)
    (own,) = params.values()
    for i, block in enumerate(model.layers):
        for j, norm in enumerate((block.layernorm_before, block.layernorm_after)):
            own["norm"][i, j], own["norm_bias"][i, j] = norm.weight.detach(), norm.bias.detach()
    own["down"][0], own["up"] = torch.eye(32), torch.eye(32)
    return adapted, params, rows("vit")


def test_taps_start_half_open() -> None:
    (own,) = attach(double("bert"), LadderSide(reduction=4)).init(0).values()
    assert torch.equal(torch.sigmoid(own["alpha"] / 0.1), torch.full((2,), 0.5, dtype=torch.float64))


def test_a_ladder_of_full_width_without_taps_is_the_backbone() -> None:
    """`r = 1`, all blocks, `D_0 = I`, weights copied, `mu = 1`: the side network computes the backbone's own output."""
    adapted, params, batch = ladder_on_vit()
    params["vision#hidden_states"]["alpha"].fill_(100)
    states, final, _ = frozen_states(adapted, batch)
    same(adapted(params, batch), final + F.layer_norm(states[-1], (32,)))


def test_closed_gates_leave_only_the_last_tap() -> None:
    adapted, params, batch = ladder_on_vit()
    params["vision#hidden_states"]["alpha"].fill_(-100)
    down = params["vision#hidden_states"]["down"].requires_grad_()
    (grad,) = torch.autograd.grad(adapted(params, batch).hidden.sin().sum(), down)
    assert grad[-1].abs().max() > 0
    assert grad[:-1].abs().max() == 0


def test_the_released_wiring_mixes_both_answers() -> None:
    adapted = attach(double("bert"), LadderSide(reduction=4, wiring="gated"))
    plain, params, batch = attach(adapted.backbone, LadderSide(reduction=4)), moved(adapted), rows("bert")
    (own,) = params.values()
    final = frozen_states(adapted, batch)[1]
    side = plain({site: {n: p for n, p in own.items() if n != "alpha_last"} for site in params}, batch).hidden - final
    mix = torch.sigmoid(own["alpha_last"] / 0.1)
    same(adapted(params, batch), mix * side + (1 - mix) * final)
    assert 0.01 < mix < 0.99


def test_ladder_beside_a_decoder_with_a_gate() -> None:
    """Llama: root-mean-square norms, a gated feed-forward network, no biases, causal attention."""
    adapted, batch = attach(double("llama"), LadderSide(reduction=4, layers=(1,), activation="silu")), rows("llama")
    params = moved(adapted)
    (p,) = (
        {n: x[0] if n not in ("down", "last", "up", "up_bias") else x for n, x in own.items()}
        for own in params.values()
    )
    states, final, mask = frozen_states(adapted, batch)

    def norm(h: Tensor) -> Tensor:
        return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    taps = [states[j] @ p["down"][i].T + params["decoder#hidden_states"]["down_bias"][i] for i, j in enumerate((0, 2))]
    gate = torch.sigmoid(p["alpha"] / 0.1)
    u = gate * taps[0] + (1 - gate) * taps[1]
    q, k, v = ((norm(u) * p["norm"][0]) @ p["qkv"].T).unflatten(-1, (3, 4, 1)).permute(2, 0, 3, 1, 4)
    seen = mask[:, None, None] & torch.ones(TOKENS, TOKENS).tril().bool()
    weights = (q @ k.mT).masked_fill(~seen, -torch.inf).softmax(-1)
    u = u + (weights @ v).transpose(1, 2).flatten(2) @ p["out"].T
    h = norm(u) * p["norm"][1]
    u = u + (F.silu(h @ p["ffn_gate"].T) * (h @ p["ffn_in"].T)) @ p["ffn_out"].T
    same(adapted(params, batch), final + (norm(u) * p["last"]) @ p["up"].T + p["up_bias"])


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_pruning_to_full_width_copies(name: str) -> None:
    place = next(p for p in all_places(double(name)) if p.kind == "states")
    whole = pruned(place.site, (0, 1), 32, 8, 48)
    first = place.site.extra["blocks"][0]
    parts = [first[f"attention.{part}"] for part in ("query", "key", "value")]
    assert torch.equal(whole["qkv"][0], torch.cat([part.weight for part in parts]))
    assert torch.equal(whole["qkv_bias"][0], torch.cat([part.bias for part in parts]))
    for ours, role in {"out": "attention.out", "ffn_in": "ffn.in", "ffn_out": "ffn.out"}.items():
        assert torch.equal(whole[ours][0], first[role].weight)
        assert torch.equal(whole[f"{ours}_bias"][0], first[role].bias)


def test_pruning_gives_grouped_keys_to_their_queries() -> None:
    place = next(p for p in all_places(double("llama")) if p.kind == "states")
    first, whole = place.site.extra["blocks"][0], pruned(place.site, (0,), 32, 6, 48)
    _, key, _ = whole["qkv"][0].chunk(3)
    assert torch.equal(key.unflatten(0, (2, 2, 6))[:, 1], first["attention.key"].weight.unflatten(0, (2, 6)))
    assert torch.equal(whole["ffn_gate"][0], first["ffn.gate"].weight)


def test_pruning_keeps_what_is_large() -> None:
    """Channels, one dimension of each head's scores, and inner units that were made ten times as large are kept."""
    frozen = double("bert")
    stream, score, inner = [3, 4, 9, 20, 21, 22, 30, 31], [1, 2], [0, 5, 7, 11, 13, 17, 40, 41, 42, 45, 46, 47]
    with torch.no_grad():
        for block in frozen.model.encoder.layer:  # type: ignore[union-attr]
            attention_ = block.attention
            for layer in (attention_.self.query, attention_.self.key, attention_.self.value, block.intermediate.dense):
                layer.weight[:, stream] *= 10
            for layer in (attention_.output.dense, block.output.dense):
                layer.weight[stream] *= 10
            attention_.self.query.weight.view(4, 8, 32)[:, score] *= 10
            block.intermediate.dense.weight[inner] *= 10
    place = next(p for p in all_places(frozen) if p.kind == "states")
    cut, block = pruned(place.site, (1,), 8, 2, 12), place.site.extra["blocks"][1]
    query = block["attention.query"].weight.view(4, 8, 32)[:, score][:, :, stream].flatten(0, 1)
    assert torch.equal(cut["qkv"][0].chunk(3)[0], query)
    assert torch.equal(cut["ffn_in"][0], block["ffn.in"].weight[inner][:, stream])
    assert torch.equal(cut["ffn_out"][0], block["ffn.out"].weight[stream][:, inner])
    assert torch.equal(cut["ffn_in_bias"][0], block["ffn.in"].bias[inner])


def test_ladder_counts_of_t5_base() -> None:
    """LST on T5-base, r = 8, blocks 0, 4 and 8 dropped: 3.88 M or 1.74 % with both stacks, as the paper says.

    Here a side network stands beside the stack that gives the output. The two stacks' networks and the cross-attention
    between them, which there is none of here, make up the paper's count, but for its tables of relative positions.
    """
    frozen = meta("t5", d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
    method = LadderSide(reduction=8, layers=(1, 2, 3, 5, 6, 7, 9, 10, 11), activation="relu")
    sites = [place.site for place in all_places(frozen) if place.kind == "states"]
    encoder, decoder = (sum(p.numel() for p in method.init(s, torch.Generator()).values()) for s in sites)
    block, taps, up, gates, last = 36_864 + 73_728 + 192, 10 * 73_824, 74_496, 9, 96
    assert encoder == decoder == 9 * block + taps + up + gates + last == attach(frozen, method).num_parameters()
    cross = 9 * (36_864 + 96)
    both = encoder + decoder - up + cross
    assert both == 3_877_728 + 2 * (gates + last)  # the sheet's 3.88 M counts neither gates nor last norms
    assert round(100 * both / 222_903_552, 2) == 1.74


@pytest.mark.parametrize(
    ("name", "method", "said"),
    [
        ("bert", LadderSide(reduction=64), "reduction=64"),
        ("bert", LadderSide(reduction=4, layers=3), r"layers=3.*1 to 2"),
        ("bert", LadderSide(reduction=4, layers=(1, 0)), "ascending"),
        ("bert", LadderSide(reduction=4, start="fisher"), "'random' or 'magnitude'"),  # type: ignore[arg-type]
        ("bert", LadderSide(reduction=4, start="magnitude", num_heads=2), "num_heads=None"),
        ("wavlm", LadderSide(reduction=4, start="magnitude"), r"attention\.query"),
        ("bert", LAST(rank=33), r"rank=33.*1 to 32"),
        ("bert", LoSA(rank=33), r"rank=33.*1 to 32"),
        ("bert", LoSA(num_tokens=0), "num_tokens=0"),
        ("bert", APT(rank=33), r"rank=33.*1 to 32"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name: str, method: Method, said: str) -> None:
    with pytest.raises(MethodError, match=said) as error:
        attach(from_model(TINY[name](), id=name), method).init(0)
    assert type(method).__name__ in str(error.value)


def test_attention_without_stored_scores() -> None:
    """Values, gradients and second derivatives of the textbook's formula."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 2, 3, 12, generator=generator).double().requires_grad_()
    real = torch.tensor([[[1, 1, 1], [1, 1, 0]], [[1, 0, 0], [1, 1, 1]]]).bool()
    mask = attention_mask(real, qkv, causal=True)

    def run(x: Tensor) -> Tensor:
        return attention(x, mask, 2)

    q, k, v = (part.unflatten(-1, (2, 2)).transpose(-2, -3) for part in qkv.chunk(3, -1))
    seen = real[..., None, None, :] & torch.ones(3, 3).tril().bool()
    expected = (q @ k.mT / 2**0.5).masked_fill(~seen, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(run(qkv), expected.transpose(-2, -3).flatten(-2))
    assert torch.autograd.gradcheck(run, qkv)
    assert torch.autograd.gradgradcheck(run, qkv)


# LAST and LoSA


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2"])
def test_last(name: str) -> None:
    """`u` as the paper's recursion carries it, with the sum of the states taken out at the end."""
    adapted, batch = attach(double(name), LAST(rank=3, affine=True)), rows(name)
    params = moved(adapted)
    (p,) = params.values()
    z, final, mask = frozen_states(adapted, batch)
    seen = mask[:, None]
    if name == "gpt2":
        seen = seen & torch.ones(TOKENS, TOKENS).tril().bool()
    u, low = torch.zeros_like(final), torch.zeros_like(final)
    for i in range(2):
        v = u + z[i]
        normed = F.layer_norm(v, (32,), p["scale"][i], p["shift"][i])
        w_q, w_k, w_v = p["qkv"][i].mT.chunk(3, -1)
        scores = (normed @ w_q) @ (normed @ w_k).mT / 3**0.5
        lsa = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ (normed @ w_v) @ p["out"][i].T
        u, low = v + lsa, low + lsa
    torch.testing.assert_close(u - z[0] - z[1], low)
    same(adapted(params, batch), final + u - z[0] - z[1])
    for options, expected in (
        ({"corrected": False}, final + u),
        ({"with_backbone": False}, low),
        ({"with_backbone": False, "corrected": False}, u),
    ):
        same(attach(adapted.backbone, LAST(rank=3, affine=True, **options))(params, batch), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_losa(name: str) -> None:
    adapted, batch = attach(double(name), LoSA(rank=3, num_tokens=20)), rows(name)
    params = moved(adapted)
    (p,) = params.values()
    z, final, mask = frozen_states(adapted, batch)
    expected = final.clone()
    for b in range(ROWS):  # each row by itself, without its padding
        real = mask[b]
        S = int(real.sum())
        y = z[0][b, real]
        for i in range(2):
            x = y + z[i + 1][b, real]
            c = F.gelu(x @ p["A_c"][i]) @ p["B_c"][i]
            t = (F.gelu((x + c).T @ p["A_t"][i, :S]) @ p["B_t"][i, :, :S]).T
            y = y + c + t
        expected[b, real] = final[b, real] + y - z[0][b, real]
    same(adapted(params, batch), expected)


def test_only_token_mixing_knows_the_order_of_patches() -> None:
    adapted, batch = attach(double("vit"), LoSA(rank=3, num_tokens=17)), rows("vit")
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    straight = batch.with_inputs(states=adapted.freeze(batch))
    turned = batch.with_inputs(states=straight.inputs["states"][:, order])
    for token_mixing in (False, True):
        params = moved(adapted)
        if not token_mixing:
            params["vision#hidden_states"]["B_t"].zero_()
        a, b = (adapted(params, each).hidden for each in (straight, turned))
        assert torch.allclose(a[:, order], b) == (not token_mixing)


def test_tokens_are_numbered_from_the_first_real_one() -> None:
    """Padding on the left, as decoders have it, gives what padding on the right gives."""
    adapted = attach(double("bert"), LoSA(rank=3, num_tokens=6))
    params, right = moved(adapted), rows("bert")
    states, mask = adapted.freeze(right), right.inputs["attention_mask"].bool()
    left = states.clone()
    left[mask.flip(1)] = states[mask]
    other = right.with_inputs(states=left, attention_mask=mask.flip(1).long())
    a, b = adapted(params, right), adapted(params, other)
    torch.testing.assert_close(b.hidden[b.mask], a.hidden[a.mask])


def test_longer_rows_than_there_are_positions_are_refused() -> None:
    adapted = attach(double("bert"), LoSA(rank=3, num_tokens=5))
    with pytest.raises(MethodError, match=r"up to 6 tokens.*num_tokens=5.*num_tokens=6"):
        adapted(adapted.init(0), rows("bert"))
    short = tiny_inputs("bert", ROWS, 5)
    padded = Batch({name: F.pad(x, (0, 2)) for name, x in short.items()}, torch.ones(ROWS, dtype=torch.bool))
    plain = Batch(short, padded.row_mask)
    params = moved(adapted)
    a, b = adapted(params, plain), adapted(params, padded)  # seven positions, of which five are real
    torch.testing.assert_close(b.hidden[:, :5][a.mask], a.hidden[a.mask])


# What being beside is for


def saved_bytes(frozen: Backbone, method: Method) -> int:
    """What autograd keeps for the backward pass of one step, each storage counted once."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    adapted = attach(frozen, method)
    params = map_params(lambda p: p.requires_grad_(), moved(adapted))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = adapted(params, Batch(tiny_inputs("vit", ROWS, TOKENS), torch.ones(ROWS, dtype=torch.bool)))
    kept = sum(storages.values())
    loss.hidden.sum().backward()
    assert all(p.grad is None for p in frozen.model.parameters())
    return kept


def test_memory_is_flat_in_the_depth_of_the_backbone() -> None:
    shallow, deep = (from_model(vit(depth), id="vit") for depth in (4, 8))
    for method in BESIDE.values():
        assert saved_bytes(deep, method) == saved_bytes(shallow, method) > 0
    assert saved_bytes(deep, LoRA(rank=2)) > 1.8 * saved_bytes(shallow, LoRA(rank=2))


@pytest.mark.parametrize("method", BESIDE.values(), ids=BESIDE)
def test_training_from_the_cache_runs_no_backbone(method: Method) -> None:
    """Twenty steps online and from the cache: the same losses, and the backbone runs once for the cache."""
    frozen = double("bert")
    adapted, batch = attach(frozen, method), rows("bert")
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = frozen.model.register_forward_hook(count)
    curves, counts = [], []
    for cached in (False, True):
        calls = 0
        each = batch.with_inputs(states=adapted.freeze(batch)) if cached else batch
        params = map_params(lambda p: p.requires_grad_(), adapted.init(0))
        flat = [p for own in params.values() for p in own.values()]
        optimizer, curve = torch.optim.AdamW(flat, lr=1e-2), []
        for _ in range(20):
            states = adapted(params, each)
            loss = (states.hidden[states.mask] - 1).square().mean()
            curve.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        curves.append(torch.tensor(curve))
        counts.append(calls)
    hook.remove()
    torch.testing.assert_close(*curves, rtol=1e-10, atol=1e-10)
    assert curves[0][-1] < 0.95 * curves[0][0]
    assert counts == [20, 1]


# Approximated prompt tuning


def prompts(x: Tensor, y: Tensor, p: dict[str, Tensor], weight: Tensor | None = None) -> Tensor:
    """The module as released, for `[B, n, d]`; `weight` in the place of the detached maximum."""
    keys = p["M"] + p["M"] @ p["D"] @ p["U"]
    scores = F.relu(torch.einsum("bnd,pd->bnp", x, keys))
    weight = scores.max(-1, keepdim=True).values.detach() if weight is None else weight
    return p["g"].exp() * (y + weight * torch.einsum("bnp,pd->bnd", scores, p["M"]))


def with_prompts(model: Any, params: Params, places: Iterator[tuple[nn.Module, nn.Module, str]]) -> None:
    """Adds them by hooks from the input of a query projection to the output of an output projection."""

    def hook(query: nn.Module, out: nn.Module, own: dict[str, Tensor]) -> None:
        entered: list[Tensor] = []

        def enter(_: nn.Module, args: tuple[Tensor]) -> None:
            entered.append(args[0])

        def leave(_: nn.Module, __: tuple[Tensor], y: Tensor) -> Tensor:
            return prompts(entered.pop(), y, own)

        query.register_forward_pre_hook(enter)
        out.register_forward_hook(leave)

    for query, out, name in places:
        hook(query, out, params[name])


@pytest.mark.parametrize("name", ["bert", "vit", "t5"])
def test_apt(name: str) -> None:
    """In BERT the bank reads the residual itself, elsewhere its norm; in T5 at self- and cross-attention."""
    method = APT(num_tokens=7, rank=2, roles=frozenset({"attention", "cross"} if name == "t5" else {"attention"}))
    adapted, batch = attach(double(name), method), rows(name)
    params = moved(adapted)
    with torch.no_grad():
        states = adapted(params, batch)
    model: Any = double(name).model
    places: list[tuple[nn.Module, nn.Module, str]] = []
    if name == "bert":
        for i, b in enumerate(model.encoder.layer):
            places.append((b.attention.self.query, b.attention.output.dense, f"encoder.layer.{i}#attention"))
    elif name == "vit":
        for i, b in enumerate(model.layers):
            places.append((b.attention.q_proj, b.attention.o_proj, f"layers.{i}#attention"))
    else:
        for stack in ("encoder", "decoder"):
            for i, b in enumerate(getattr(model, stack).block):
                a = b.layer[0].SelfAttention
                places.append((a.q, a.o, f"{stack}.block.{i}#attention"))
                if stack == "decoder":
                    a = b.layer[1].EncDecAttention
                    places.append((a.q, a.o, f"{stack}.block.{i}#cross"))
    assert {place for *_, place in places} == set(params)
    with_prompts(model, params, iter(places))
    with torch.no_grad():
        same(states, model(**batch.inputs).last_hidden_state)


class Frozen:
    """A layer without weights, for `apply` alone."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.sin()

    def dropout(self, x: Tensor, p: float) -> Tensor:
        return x


def test_apt_gradients_go_where_the_paper_lets_them() -> None:
    site = next(p.site for p in all_places(double("bert")) if p.site.role == "attention")
    method, generator = APT(num_tokens=7, rank=2), torch.Generator().manual_seed(0)
    fresh = {name: p.double().requires_grad_() for name, p in method.init(site, generator).items()}
    x = torch.randn(2, 5, 32, generator=generator).double()

    def gradients(p: dict[str, Tensor], out: Tensor) -> dict[str, Tensor]:
        return dict(zip(p, torch.autograd.grad(out.cos().sum(), list(p.values())), strict=True))

    start = gradients(fresh, method.apply(fresh, x, Frozen(), site))  # type: ignore[arg-type]
    assert {name for name, g in start.items() if g.abs().max() > 0} == {"M", "U", "g"}  # D only once U is not zero
    p = {name: (v + 0.3).detach().requires_grad_() for name, v in fresh.items()}
    weight = F.relu(x @ (p["M"] + p["M"] @ p["D"] @ p["U"]).T).amax(-1, keepdim=True)
    found = gradients(p, method.apply(p, x, Frozen(), site))  # type: ignore[arg-type]
    constant, through = (gradients(p, prompts(x, x.sin(), p, w)) for w in (weight.detach(), weight))
    for name in p:
        torch.testing.assert_close(found[name], constant[name])
        assert found[name].abs().max() > 0
    assert not torch.allclose(found["M"], through["M"])


def test_apt_of_an_empty_bank_is_the_backbone() -> None:
    adapted, batch = attach(double("bert"), APT(num_tokens=7, rank=2)), rows("bert")
    params = adapted.init(0)
    for own in params.values():
        own["M"].zero_()
    assert torch.equal(adapted(params, batch).hidden, run_backbone(adapted.backbone, batch.inputs)[0])


def test_apt_costs_what_it_says() -> None:
    """`2 n p d` multiply-adds, linear in the tokens, and `2 p d h` for the keys."""
    site = next(p.site for p in all_places(double("bert")) if p.site.role == "attention")
    method = APT(num_tokens=7, rank=2)
    params = method.init(site, torch.Generator())
    for n in (5, 10):
        with FlopCounterMode(display=False) as counter:
            method.apply(params, torch.randn(n, 32), Frozen(), site)  # type: ignore[arg-type]
        assert counter.get_total_flops() == 2 * (2 * n * 7 * 32 + 2 * 7 * 32 * 2)
