"""Methods that `peft` does not have, against modules and dense products written here without `handful`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.attach import States, attach
from handful.backbone import Backbone, from_model
from handful.methods.bottleneck import Houlsby, ParallelAdapter, Pfeiffer
from handful.methods.kronecker import KroneckerAdapter, kronecker_product
from handful.methods.ladder import LadderSide
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


def test_kronecker_is_the_dense_product() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, x = (torch.randn(*s, generator=generator).double() for s in ((3, 3, 3), (3, 4, 2), (7, 12)))
    dense = sum(torch.kron(a[i], b[i]) for i in range(3))
    torch.testing.assert_close(kronecker_product(x, a, b), x @ dense)
    stacked = kronecker_product(torch.stack([x, 2 * x]), torch.stack([a, a]), torch.stack([b, -b]))
    torch.testing.assert_close(stacked, torch.stack([x @ dense, -2 * x @ dense]))


def test_kronecker_on_bert() -> None:
    states, params, frozen, inputs = setting("bert", KroneckerAdapter(order=4, width=8))
    a = params["shared"]["A"]

    def dense(b: Tensor) -> Tensor:
        return torch.stack([torch.kron(a[i], b[i]) for i in range(4)]).sum(0).T.contiguous()

    model: Any = copy.deepcopy(frozen.model)
    for i, block in enumerate(model.encoder.layer):
        for output, name in ((block.attention.output, f"{i}.attention.output"), (block.output, f"{i}.output")):
            own = params[f"encoder.layer.{name}.dense"]
            full = {**own, "down": dense(own["down"]), "up": dense(own["up"])}
            output.dense = Serial(output.dense, Adapter(full, F.gelu))
    same(states, answer(model, inputs))


@pytest.mark.parametrize("name", ["bert", "llama", "vit"])
def test_ladder(name: str) -> None:
    """torch's own pre-norm encoder layers, gated by sigmoid(alpha / 0.1), on the frozen hidden states."""
    states, params, frozen, inputs = setting(name, LadderSide(reduction=4, num_heads=2))
    (p,) = params.values()
    d = p["up"].shape[1]
    with torch.no_grad():
        model: Any = frozen.model
        seen: list[Tensor] = []
        blocks = {"bert": "encoder.layer", "llama": "layers", "vit": "layers"}[name]

        def note(_: nn.Module, args: Any, kwargs: Any) -> None:
            seen.append(args[0] if args else kwargs["hidden_states"])

        hooks = [b.register_forward_pre_hook(note, with_kwargs=True) for b in model.get_submodule(blocks)]
        last = model.get_submodule(blocks)[-1].register_forward_hook(lambda _, __, out: seen.append(out))
        final = model(**inputs).last_hidden_state
        for hook in [*hooks, last]:
            hook.remove()
        padding = ~inputs["attention_mask"].bool() if "attention_mask" in inputs else None
        side = seen[0] @ p["down"][0].T
        for i in range(len(seen) - 1):
            layer = nn.TransformerEncoderLayer(
                d, 2, 4 * d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
            )
            layer.load_state_dict(
                {
                    **{key: torch.zeros_like(value) for key, value in layer.state_dict().items()},
                    "self_attn.in_proj_weight": p["qkv"][i],
                    "self_attn.out_proj.weight": p["out"][i],
                    "linear1.weight": p["ffn_in"][i],
                    "linear2.weight": p["ffn_out"][i],
                    "norm1.weight": torch.ones(d),
                    "norm2.weight": torch.ones(d),
                }
            )
            gate = torch.sigmoid(p["alpha"][i] / 0.1)
            side = layer.train()(
                gate * side + (1 - gate) * seen[i + 1] @ p["down"][i + 1].T, src_key_padding_mask=padding
            )
    same(states, final + side @ p["up"].T)
