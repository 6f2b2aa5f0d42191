"""What the laws range over: every method, every architecture, every dtype, and batches of tasks for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from handful.attach import Adapted, States, attach
from handful.backbone import Backbone, from_model
from handful.methods import Method, methods
from handful.methods.bitfit import BitFit
from handful.methods.bottleneck import Houlsby
from handful.methods.combine import Union, union
from handful.methods.hyperformer import HyperFormer
from handful.methods.ia3 import IA3
from handful.methods.ladder import LadderSide
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.methods.prefix import PrefixTuning
from handful.methods.prompt import PromptTuning
from handful.methods.said import IntrinsicSAID
from handful.methods.variants import OnLayers, OverTasks
from handful.types import LINEARS, Batch, Params, map_params
from tiny import DUAL, PADDING, SPEECH, TINY, VARIANTS, VISION, tiny_inputs

SIZES: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2},
    "dora": {"rank": 2},
    "vera": {"rank": 5},
    "houlsby": {"width": 4, "activation": "gelu"},
    "pfeiffer": {"width": 4, "activation": "tanh"},
    "parallel": {"width": 4, "activation": "silu"},
    "compacter": {"order": 4, "width": 8},
    "compacter++": {"order": 2, "width": 4, "rank": 2},
    "phm": {"order": 4, "width": 8, "roles": frozenset({"attention.out", "cross.out", "ffn.out"})},
    "lowrank": {"rank": 2, "width": 6},
    "prompt": {"num_tokens": 3},
    "prompt_mlp": {"num_tokens": 3, "width": 4},
    "prefix": {"num_tokens": 3, "std": 0.5},
    "prefix_mlp": {"num_tokens": 3, "width": 4},
    "mam": {"num_tokens": 3, "std": 0.5, "width": 4, "activation": "silu", "learned_scale": True},
    "hyperformer": {"reduction": 8, "embedding": 3, "projected": 4, "hidden": 5},
    "hyperformer++": {"reduction": 8, "embedding": 3, "projected": 4, "hidden": 5},
    "meta_adapter": {"width": 4, "meta_width": 3},
    "ladder": {"reduction": 4},
    "last": {"rank": 2, "affine": True},
    "losa": {"rank": 2, "num_tokens": 40},
    "apt": {"num_tokens": 5, "rank": 2},
    "sparse": {"fraction": 0.1},
    "diff_pruning": {"gate": 0.8},  # where gates are neither shut nor open, and have a gradient
    "said": {"dimension": 300},
}
"""Options that fit tiny models; smooth activations, so that second derivatives are compared where there are any."""
COMPOSED = frozenset({Union, OnLayers, OverTasks})

METHODS: dict[str, Method] = {
    **{name: make(**SIZES.get(name, {})) for name, make in methods().items() if make not in COMPOSED},
    "lora-everywhere": LoRA(rank=2, roles=LINEARS),
    "bitfit-added": BitFit(add_missing=True),
    "union": union(
        LoRA(rank=2, roles=frozenset({"attention.query", "ffn.out"})), LayerNormTuning(), Houlsby(**SIZES["houlsby"])
    ),
    "said-rank-one": IntrinsicSAID(dimension=300, structure=False, rank_one=True),
    "union-virtual": union(PromptTuning(num_tokens=2), PrefixTuning(num_tokens=3, std=0.5), IA3()),
    "top-layer": OnLayers(method=Houlsby(**SIZES["houlsby"]), start=-1),
    "upper-prefix": OnLayers(method=PrefixTuning(num_tokens=3, std=0.5), start=1),
    "hyperformer-positions": HyperFormer(networks="position", **SIZES["hyperformer"]),
    "hyperformer-kept": HyperFormer(networks="none", reduction=8),
    "ladder-released": LadderSide(reduction=4, num_heads=2, layers=1, wiring="gated"),
    "half-shared": OverTasks(method=Houlsby(**SIZES["houlsby"]), names=frozenset({"up", "up_bias"})),
}
NOT_IDENTITY = frozenset(
    {"prompt", "prompt_mlp", "prefix", "prefix_mlp", "mam", "union-virtual", "upper-prefix", "apt", "ladder-released"}
)

FAMILIES: dict[str, tuple[str, str | None]] = {
    **{name: (name, "vision" if name in DUAL else None) for name in TINY},
    **{name: (make.args[0], None) for name, make in VARIANTS.items()},  # type: ignore[attr-defined]
    **{f"{name}-text": (name, "text") for name in sorted(DUAL)},
}
"""case -> (model type, modality)"""

_NO_WORDS = VISION | DUAL | SPEECH | {"whisper"}
_NO_CORE = frozenset({"mpnet", "deberta-v2", "wavlm"})
_NO_BIAS = frozenset(
    {"modernbert", "t5", "mt5", "umt5", "llama", "mistral", "qwen3", "gemma2", "gemma3_text", "gemma3", "smollm3"}
)
REFUSED: dict[str, frozenset[str]] = {
    "lora": frozenset({"wavlm"}),
    "dora": frozenset({"wavlm"}),
    "vera": frozenset({"wavlm"}),
    "bitfit": _NO_BIAS,
    "prompt": _NO_WORDS,
    "prompt_mlp": _NO_WORDS,
    "prefix": _NO_CORE,
    "prefix_mlp": _NO_CORE,
    "apt": frozenset({"wavlm"}),
    "mam": _NO_CORE,
    "union-virtual": _NO_WORDS | _NO_CORE,
    "upper-prefix": _NO_CORE,
}
"""method -> model types that have no place for it"""

RMS_NORMS = frozenset({"t5", "mt5", "umt5", "llama", "mistral", "qwen2", "qwen3", "smollm3"}) | {
    "gemma2", "gemma3_text", "gemma3"
}  # fmt: skip

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
ROWS, TOKENS = (2, 1, 2), (6, 5, 7)
"""Rows and tokens of three ragged tasks."""


class Case(NamedTuple):
    method: str
    family: str
    dtype: str

    def __str__(self) -> str:
        return "-".join(self)

    @property
    def model_type(self) -> str:
        return FAMILIES[self.family][0]

    def adapted(self, **options: Any) -> Adapted:
        return _adapted(*self, tuple(options.items()))

    @property
    def tolerance(self) -> dict[str, float]:
        exact = 1e-5 if self.model_type in RMS_NORMS else 1e-10  # they compute in single precision
        return {
            "float32": {"rtol": 1e-4, "atol": 1e-4},
            "bfloat16": {"rtol": 0.1, "atol": 0.3},
            "float64": {"rtol": exact, "atol": exact},
        }[self.dtype]


def applies(method: str, family: str) -> bool:
    return FAMILIES[family][0] not in REFUSED.get(method, ())


def cases(
    *dtypes: str, only: Iterable[str] = tuple(METHODS), without: Iterable[str] = (), variants: bool = True
) -> Any:
    """Parametrises `case` over every method that an architecture can take; variants in all but the dearest laws."""
    chosen = [
        Case(method, family, dtype)
        for family in FAMILIES
        for method in METHODS
        for dtype in dtypes
        if method in only and method not in without and applies(method, family)
        if family not in VARIANTS or (variants and dtype != "bfloat16")
    ]
    return pytest.mark.parametrize("case", chosen, ids=str)


@cache
def backbone(family: str, dtype: str) -> Backbone:
    model = {**TINY, **VARIANTS}[family.removesuffix("-text")]()
    if family == "gemma2" and dtype == "float64":
        # Its eager softmax is in single precision, where the minimum that masks in double precision is -inf.
        model.config._attn_implementation_internal = "sdpa"
        for layer in model.layers:
            layer.self_attn.attn_logit_softcapping = None
    return from_model(model.to(DTYPES[dtype]), id=family)


@cache
def _adapted(method: str, family: str, dtype: str, options: tuple[tuple[str, Any], ...]) -> Adapted:
    return attach(backbone(family, dtype), METHODS[method], **dict(options))


@cache
def random_params(case: Case, tasks: int | None) -> Params:
    """Away from the start, where most methods are the identity and laws could not fail."""
    generator = torch.Generator().manual_seed(1)

    def moved(p: Tensor) -> Tensor:
        return p + 0.2 * torch.randn(p.shape, generator=generator).to(p) if p.is_floating_point() else p

    return map_params(moved, case.adapted().init(0, tasks))


def leaves(params: Params) -> tuple[Params, list[Tensor]]:
    """A copy that asks for gradients, and its tensors in order."""
    copy = map_params(lambda p: p.detach().clone().requires_grad_(p.is_floating_point()), params)
    return copy, [p for own in copy.values() for p in own.values() if p.requires_grad]


@cache
def rows_of(case: Case, rows: int, tokens: int, seed: int = 0) -> Batch:
    """Rows of one task, ragged in length."""
    model_type, modality = FAMILIES[case.family]
    inputs = tiny_inputs(model_type, rows, tokens, seed=seed, modality=modality)
    floats = {name: x.to(DTYPES[case.dtype]) if x.is_floating_point() else x for name, x in inputs.items()}
    return Batch(floats, torch.ones(rows, dtype=torch.bool))


def padded(case: Case, inputs: Mapping[str, Tensor], widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Inputs with more padding on the right."""
    out = {}
    for name, x in inputs.items():
        fill = PADDING.get(case.model_type, 0) if name.endswith("input_ids") else 0
        extra = widths[name] - x.shape[1]
        out[name] = x if extra == 0 else torch.cat([x, x.new_full((x.shape[0], extra, *x.shape[2:]), fill)], 1)
    return out


def stacked(case: Case, tasks: Sequence[Batch]) -> Batch:
    """Ragged tasks as one batch `[T, B, ...]`; rows that only fill up are padding from the first token on."""
    widths = {name: max(task.inputs[name].shape[1] for task in tasks) for name in tasks[0].inputs}
    rows = max(len(task.row_mask) for task in tasks)
    inputs: dict[str, list[Tensor]] = {name: [] for name in widths}
    for task in tasks:
        for name, x in padded(case, task.inputs, widths).items():
            fill = PADDING.get(case.model_type, 0) if name.endswith("input_ids") else 0
            inputs[name].append(torch.cat([x, x.new_full((rows - len(x), *x.shape[1:]), fill)]))
    mask = torch.stack([torch.arange(rows) < len(task.row_mask) for task in tasks])
    return Batch({name: torch.stack(parts) for name, parts in inputs.items()}, mask)


@cache
def three_tasks(case: Case) -> tuple[Batch, ...]:
    return tuple(rows_of(case, n, s, seed=t) for t, (n, s) in enumerate(zip(ROWS, TOKENS, strict=True)))


def assert_same_gradients(case: Case, found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    """Equal to the case's tolerance of their largest entry. Root-mean-square norms compute in single precision."""
    rough = 1e-5 if case.dtype == "float32" or case.model_type in RMS_NORMS else 1e-10
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=rough, atol=rough * max(1.0, float(b.abs().max())))


def real(states: States, like: States | None = None) -> Tensor:
    """The states of real tokens, one after the other; `like` names them where `states` is padded further."""
    like = like or states
    return states.hidden[..., : like.hidden.shape[-2], :][like.mask]


def loss(states: States, row_mask: Tensor) -> Tensor:
    """One number a task `[T?]` that weighs every coordinate of every real token differently."""
    hidden = states.hidden.to(torch.promote_types(states.hidden.dtype, torch.float32))
    S, D = hidden.shape[-2:]
    weight = torch.sin(torch.arange(S)[:, None] * 0.7 + torch.arange(D) * 1.3 + 1).to(hidden)
    keep = (states.mask & row_mask[..., None])[..., None]
    return torch.where(keep, torch.tanh(hidden * weight), 0.0).sum((-1, -2, -3))
