"""The role tables against the code of transformers: every claim is looked up, or observed, in a tiny model."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from handful.errors import BackboneError
from handful.families import Family, Slice, Stack, families, family_of, locate
from tiny import DUAL, SPEECH, TINY, VARIANTS, lengths_of, num_samples, tiny_inputs

CASES = {**TINY, **VARIANTS}
ROWS, TOKENS = 3, 9

ROLE = re.compile(
    r"(attention|cross)\.(query|key|value|out|norm|query_norm|key_norm|post_norm|core)|ffn\.(in|gate|out|norm|post_norm)"
)
OUTER_ROLE = re.compile(
    r"embeddings|embeddings\.norm|embeddings\.projection(\.norm)?|final\.norm|projection|pooler(\.norm|\.in|\.out)?"
)

CONV_FEATURES = {r"^feature_extractor\.": "the convolutions over the wave, frozen as a whole"}
UNCOVERED: dict[str, dict[str, str]] = {
    "deberta-v2": {
        r"\.pos_(key|query)_proj$": "projects relative positions, not rows",
        r"^encoder\.LayerNorm$": "normalises the relative position table",
        r"^encoder\.conv\.": "the convolution beside the first block of some v2 checkpoints",
    },
    "gemma3": {r"^(vision_tower|multi_modal_projector)\.": "images stay frozen"},
    "siglip": {r"\.head\.attention\.out_proj$": "read by torch's attention without a call"},
    "wav2vec2": CONV_FEATURES,
    "hubert": CONV_FEATURES,
    "wavlm": {
        **CONV_FEATURES,
        r"\.attention\.[kvq]_proj$|\.attention\.out_proj$": "read by torch's attention without a call",
        r"\.gru_rel_pos_linear$": "gates the relative position bias, on heads",
    },
}
NO_CORE = {"mpnet", "deberta-v2", "wavlm"}
NOT_RESUMABLE = {"t5", "mt5", "wavlm"}


# WavLM masks its attention with a boolean beside a float bias.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small only lose time to threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def tiny(case: str) -> PreTrainedModel:
    return CASES[case]()


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """One shared model per case: tests leave no hook and no changed weight behind."""
    return tiny(request.param)


@pytest.fixture
def family(model: PreTrainedModel) -> Family:
    return family_of(model.config)


def blocks_of(model: nn.Module, stack: Stack) -> nn.ModuleList:
    path = locate(model, stack.blocks)
    assert isinstance(path, str)
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def places(model: nn.Module, stack: Stack) -> Iterator[tuple[str, str | Slice, nn.Module]]:
    """(role, place, module) of every block and of what is outside the blocks."""
    roots = [(block, stack.roles) for block in blocks_of(model, stack)] + [(model, stack.outer)]
    for root, roles in roots:
        for role, path in roles.items():
            place = locate(root, path)
            if place is not None:
                yield role, place, root.get_submodule(place.path if isinstance(place, Slice) else place)


def run(model: PreTrainedModel, **inputs: Tensor) -> dict[str, Tensor]:
    """All output tensors by name, for full inputs of this model when none are given."""
    inputs = inputs or tiny_inputs(model.config.model_type, ROWS, TOKENS, modality="both")
    with torch.no_grad():
        outputs = model(**inputs)
    return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}


def states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def width_in_out(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def config_of(model: PreTrainedModel, stack: Stack) -> Any:
    if model.config.model_type in DUAL:
        return getattr(model.config, f"{stack.name}_config")
    return model.config.get_text_config()


def ffn_width(config: Any) -> int:
    if config.model_type == "dinov2":
        width = int(config.hidden_size * config.mlp_ratio)
        return (int(width * 2 / 3) + 7) // 8 * 8 if config.use_swiglu_ffn else width
    names = ("intermediate_size", "d_ff", "encoder_ffn_dim", "hidden_dim", "n_inner")
    return next(getattr(config, name) for name in names if hasattr(config, name))


def is_norm(module: nn.Module) -> bool:
    """Norms of states, by name: neither `_WeightNorm` of a convolution nor a whole `...EncoderStableLayerNorm`."""
    return re.fullmatch(r"[A-Z]\w*Norm", type(module).__name__) is not None and not list(module.children())


def test_every_known_model_type_has_a_tiny_model() -> None:
    assert set(families()) == set(TINY)


def test_an_unknown_architecture_is_refused_by_name() -> None:
    class Unknown:
        model_type = "abacus"

    with pytest.raises(BackboneError, match=r"abacus.*bert.*add a table"):
        family_of(Unknown())


def test_every_role_resolves_in_every_block(model: PreTrainedModel, family: Family) -> None:
    assert family.stacks
    assert len({stack.name for stack in family.stacks}) == len(family.stacks)
    for stack in family.stacks:
        config, blocks = config_of(model, stack), blocks_of(model, stack)
        depth = getattr(config, "decoder_layers", None) if stack.name == "decoder" else None
        assert len(blocks) == (depth or config.num_hidden_layers)
        assert all(ROLE.fullmatch(role) for role in stack.roles)
        assert all(OUTER_ROLE.fullmatch(role) for role in stack.outer)
        found = [{role: locate(block, path) for role, path in stack.roles.items()} for block in blocks]
        assert all(each == found[0] for each in found)
        outer = {role: locate(model, path) for role, path in stack.outer.items()}
        for role, place in [*found[0].items(), *outer.items()]:
            assert place is not None or isinstance({**stack.roles, **stack.outer}[role], tuple)
        assert {"ffn.in", "ffn.out", "ffn.norm", "attention.norm"} <= {r for r, place in found[0].items() if place}


def test_projections_have_the_widths_of_the_configuration(model: PreTrainedModel, family: Family) -> None:
    for stack in family.stacks:
        config = config_of(model, stack)
        hidden, heads, ffn = config.hidden_size, config.num_attention_heads, ffn_width(config)
        head = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or hidden // heads
        query, key = heads * head, (getattr(config, "num_key_value_heads", None) or heads) * head
        expected = {"query": (hidden, query), "key": (hidden, key), "value": (hidden, key), "out": (query, hidden)}
        expected = {f"{place}.{name}": io for place in ("attention", "cross") for name, io in expected.items()}
        expected |= {"ffn.in": (hidden, ffn), "ffn.gate": (hidden, ffn), "ffn.out": (ffn, hidden)}
        for role, place, module in places(model, stack):
            if role in expected:
                d_in, d_out = width_in_out(module)
                if isinstance(place, Slice):
                    assert d_out % place.parts == 0
                    assert 0 <= place.index < place.parts
                    d_out //= place.parts
                assert (d_in, d_out) == expected[role], role


def test_every_projection_and_norm_has_a_role_or_a_reason(model: PreTrainedModel, family: Family) -> None:
    covered: dict[int, list[tuple[str, str | Slice]]] = {}
    for stack in family.stacks:
        for role, place, module in places(model, stack):
            covered.setdefault(id(module), []).append((role, place))
    reasons = UNCOVERED.get(model.config.model_type, {})
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) or is_norm(module):
            excused = any(re.search(pattern, name) for pattern in reasons)
            assert (id(module) in covered) != excused, name
    for found in covered.values():  # a module has one role, or is cut into all its slices
        slices = [place for _, place in found if isinstance(place, Slice)]
        assert len(found) == 1 or len(slices) == len(found) == slices[0].parts
        assert sorted(place.index for place in slices) == list(range(len(slices)))


@pytest.mark.parametrize("model_type", UNCOVERED)
def test_no_reason_is_stale(model_type: str) -> None:
    models = [m for m in map(tiny, CASES) if m.config.model_type == model_type]
    names = [name for model in models for name, _ in model.named_modules()]
    for pattern in UNCOVERED[model_type]:
        assert any(re.search(pattern, name) for name in names), pattern


def test_every_role_is_called_once_with_all_rows(model: PreTrainedModel, family: Family) -> None:
    calls: dict[str, list[int]] = {}
    hooks: list[Any] = []
    for stack in family.stacks:
        for number, (role, place, module) in enumerate(places(model, stack)):
            seen = calls.setdefault(f"{stack.name} {number} {role} {place}", [])

            def note(_: nn.Module, args: Any, kwargs: Any, seen: list[int] = seen) -> None:
                seen.append(states(args, kwargs).shape[0])

            hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
    run(model)
    for hook in hooks:
        hook.remove()
    for name, seen in calls.items():
        twice = getattr(model.config, "share_att_key", False) and re.search(r"attention\.(query|key) ", name)
        assert seen == ([ROWS, 1] if twice else [ROWS]), name


def changed(output: Any, place: str | Slice, factor: float) -> Tensor:
    """The output of a projection with one of its slices multiplied by a factor."""
    index, parts = (place.index, place.parts) if isinstance(place, Slice) else (0, 1)
    pieces = list(output.chunk(parts, -1))
    pieces[index] = pieces[index] * factor
    return torch.cat(pieces, -1)


@pytest.mark.parametrize("case", CASES)
def test_the_core_attends_with_query_key_and_value(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cores, and nothing else, call the attention function, and what a projection gives is its argument."""
    model = CASES[case]()
    function = ALL_ATTENTION_FUNCTIONS["sdpa"]
    found = [each for stack in family_of(model.config).stacks for each in places(model, stack)]
    cores = [module for role, _, module in found if role.endswith(".core")]
    assert bool(cores) != (model.config.model_type in NO_CORE)
    called: list[int] = []
    zero: list[list[bool]] = []

    def spy(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        called.append(id(module))
        zero.append([not tensor.any() for tensor in (query, key, value)])
        kwargs["softcap"] = None  # sdpa refuses Gemma 2's
        return function(module, query, key, value, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "spy", spy)
    model.set_attn_implementation("spy")
    for wanted in ("query", "key", "value"):
        hooks = [
            module.register_forward_hook(lambda _, __, output, at=place: changed(output, at, 0.0))
            for role, place, module in found
            if role.endswith(f".{wanted}")
        ]
        run(model)
        for hook in hooks:
            hook.remove()
        assert sorted(called) == sorted(map(id, cores))
        assert all(each == [wanted == name for name in ("query", "key", "value")] for each in zero)
        called.clear()
        zero.clear()


def test_norms_stand_where_post_norm_says(model: PreTrainedModel, family: Family) -> None:
    """Pre-norm: a norm feeds its sub-layer. Post-norm: it feeds the next one, and the last gives the block's output."""
    for stack in family.stacks:
        for block in blocks_of(model, stack):
            enters: dict[str, Tensor] = {}
            leaves: dict[str, Tensor] = {}
            hooks: list[Any] = []
            for role in ["block", *stack.roles]:
                place = locate(block, "" if role == "block" else stack.roles[role])

                def note(_: Any, args: Any, kwargs: Any, output: Any, at: Any = (enters, leaves, role)) -> None:
                    at[0].setdefault(at[2], states(args, kwargs).clone())
                    at[1].setdefault(at[2], first(output).clone())

                if place is not None:
                    module = block.get_submodule(place.path if isinstance(place, Slice) else place)
                    hooks.append(module.register_forward_hook(note, with_kwargs=True))
            run(model)
            for hook in hooks:
                hook.remove()
            parts = {"attention": "attention.query", "cross": "cross.query", "ffn": "ffn.in"}
            chain = [part for part in parts if f"{part}.norm" in leaves]
            for part, following in zip(chain, [*chain[1:], None], strict=True):
                fed = parts[following] if stack.post_norm and following else parts[part]
                if stack.post_norm and not following:
                    assert torch.equal(leaves[f"{part}.norm"], leaves["block"])
                elif fed in enters:
                    assert torch.equal(leaves[f"{part}.norm"], enters[fed])
                if f"{part}.post_norm" in enters:
                    assert torch.equal(enters[f"{part}.post_norm"], leaves[f"{part}.out"])
            assert torch.equal(enters["attention.norm"], enters["block"]) != stack.post_norm


def test_the_gate_is_the_activated_half(model: PreTrainedModel, family: Family) -> None:
    """Turning the sign of `ffn.in` turns that of what enters `ffn.out` exactly where there is a gate."""
    for stack in family.stacks:
        block = blocks_of(model, stack)[-1]
        place = locate(block, stack.roles["ffn.in"])
        assert place is not None
        gated = "ffn.gate" in stack.roles and locate(block, stack.roles["ffn.gate"]) is not None
        inner = block.get_submodule(place.path if isinstance(place, Slice) else place)
        out = locate(block, stack.roles["ffn.out"])
        seen: list[Tensor] = []

        def note(_: nn.Module, args: tuple[Tensor, ...], seen: list[Tensor] = seen) -> None:
            seen.append(args[0])

        hooks = [block.get_submodule(str(out)).register_forward_pre_hook(note)]
        run(model)

        hooks.append(inner.register_forward_hook(lambda _, __, output, at=place: changed(output, at, -1.0)))
        run(model)
        for hook in hooks:
            hook.remove()
        assert torch.allclose(seen[1], -seen[0], atol=1e-6) == gated


def test_norms_multiply_by_their_weight_plus_the_offset(model: PreTrainedModel, family: Family) -> None:
    for stack in family.stacks:
        for role, _, module in places(model, stack):
            if "norm" in role and not isinstance(module, nn.Identity):
                assert is_norm(module)
                norm = copy.deepcopy(module).requires_grad_(False)
                assert isinstance(norm.weight, Tensor)
                norm.weight.fill_(-family.norm_offset)
                output = norm(torch.randn(2, norm.weight.shape[0], generator=torch.Generator().manual_seed(0)))
                bias = getattr(norm, "bias", None)
                assert torch.equal(
                    output, torch.zeros(()).expand_as(output) if bias is None else bias.expand_as(output)
                )


def resume(model: PreTrainedModel, block: nn.Module, earlier: list[nn.Module], output: Any) -> dict[str, Tensor]:
    """Run the model with earlier blocks passing states through and `block` giving only the states of `output`."""

    def passed(state: Tensor) -> Any:
        return (state, *[None] * (len(output) - 1)) if isinstance(output, tuple) else state

    try:
        for each in earlier:
            each.forward = lambda *args, **kwargs: passed(states(args, kwargs))
        block.forward = lambda *args, **kwargs: passed(first(output))
        return run(model)
    finally:
        for each in [*earlier, block]:
            del each.__dict__["forward"]


def test_resumable_stacks_resume_from_every_block(model: PreTrainedModel, family: Family) -> None:
    expected = run(model)
    for stack in family.stacks:
        assert stack.resumable != (model.config.model_type in NOT_RESUMABLE)
        blocks = list(blocks_of(model, stack))
        for index, block in enumerate(blocks[:-1]):
            seen: list[Any] = []
            hook = block.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
            run(model)
            hook.remove()
            try:
                resumed = resume(model, block, blocks[:index], seen[0])
            except AttributeError:  # WavLM's later blocks have no table to compute the missing bias from
                assert not stack.resumable
                continue
            same = all(torch.equal(resumed[name], value) for name, value in expected.items())
            assert same == stack.resumable


def test_the_entry_of_a_name_runs_the_stacks_inside_it(model: PreTrainedModel, family: Family) -> None:
    for name, path in family.entry.items():
        text = "text" if name == "input_ids" else None
        inputs = tiny_inputs(model.config.model_type, ROWS, TOKENS, modality=text)
        if path:
            inputs = {key: value for key, value in inputs.items() if not key.startswith("decoder_")}
        assert next(entry for entry in family.entry if entry in inputs) == name
        ran: set[str] = set()
        hooks = [
            blocks_of(model, stack)[0].register_forward_hook(lambda *_, ran=ran, name=stack.name: ran.add(name))
            for stack in family.stacks
        ]
        with torch.no_grad():
            output = model.get_submodule(path)(**inputs)
        for hook in hooks:
            hook.remove()
        assert ran == {stack.name for stack in family.stacks if str(stack.blocks).startswith(path)}
        assert output.last_hidden_state.shape[0] == ROWS
        assert family.pooling != "pooler" or output.pooler_output is not None


@pytest.mark.parametrize("case", CASES)
def test_tiny_models_and_inputs_are_deterministic(case: str) -> None:
    state = torch.random.get_rng_state()
    one, two = tiny(case), CASES[case]()
    inputs = tiny_inputs(one.config.model_type, ROWS, TOKENS, seed=3)
    again = tiny_inputs(one.config.model_type, ROWS, TOKENS, seed=3)
    other = tiny_inputs(one.config.model_type, ROWS, TOKENS, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    assert not all(torch.equal(inputs[name], other[name]) for name in inputs)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    first_run, second_run = run(one), run(two)
    assert first_run
    for name, value in first_run.items():
        assert value.isfinite().all()
        assert torch.equal(value, second_run[name])


@pytest.mark.parametrize("case", CASES)
def test_padding_does_not_change_the_real_positions(case: str) -> None:
    model = tiny(case)
    model_type = model.config.model_type
    tower = model.get_submodule("text_model") if model_type in DUAL else model
    inputs = tiny_inputs(model_type, ROWS, TOKENS, modality="text")
    if not any(name.endswith("attention_mask") for name in inputs):
        pytest.skip("images have no padding")
    with torch.no_grad():
        padded = tower(**inputs).last_hidden_state
        for row, length in enumerate(lengths_of(ROWS, TOKENS).tolist()):
            cut = num_samples(length) if model_type in SPEECH else length
            alone = {
                name: value[row : row + 1] if name == "input_features" else value[row : row + 1, :cut]
                for name, value in inputs.items()
            }
            real = tower(**alone).last_hidden_state
            assert real.shape[1] == length
            torch.testing.assert_close(padded[row : row + 1, :length], real, atol=2e-5, rtol=1e-4)
