"""Against the `adapters` library on its own weights: the same outputs and gradients, and its folders read here.

The library pins an older transformers: `make_adapters_golden.py` says how the golden numbers were made. Where its
placement differs from ours:

* Compacter++ is its Pfeiffer adapter with Kronecker products, at the residual sum; the paper's, and ours, is Houlsby's
  after the feed-forward network (`compacter_ffn`). Both are compared; `Compacter` at `ffn.add` is the library's.
* Its Compacter uses the exact GELU, ours by default the authors' tanh form. Its Houlsby adapter uses SiLU.
* Its parallel adapter reads what enters the residual branch. In pre-norm blocks that is the states before the norm,
  ours (as in the paper) reads what the feed-forward network reads: such folders are refused.
* Its learned scalings are one number or one a channel; here they are part of the last matrix. Gradients are compared
  through that product, with respect to the library's own tensors.
"""

from __future__ import annotations

import functools
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from handful.adapters_format import from_adapters, read_folder
from handful.attach import attach
from handful.backbone import Backbone, from_model
from handful.errors import ArtifactError, MethodError
from handful.methods import Method, OnLayers, from_spec, to_spec, union
from handful.methods.bottleneck import Houlsby, ParallelAdapter, Pfeiffer
from handful.methods.kronecker import Compacter
from handful.types import Batch

GOLDEN = Path(__file__).parent / "golden" / "adapters"
OUT, FFN = frozenset({"attention.out", "ffn.out"}), frozenset({"ffn.out"})
PHM = Compacter(order=4, width=8, rank=None, activation="gelu", roles=FFN)
CASES: dict[tuple[str, str], Method] = {
    ("bert", "houlsby"): Houlsby(width=3, activation="silu", roles=OUT),
    ("bert", "pfeiffer"): Pfeiffer(width=4),
    ("bert", "parallel"): ParallelAdapter(width=4, scale=4.0),
    ("bert", "compacter"): Compacter(order=4, width=8, activation="gelu"),
    ("bert", "compacter_pp"): Compacter(order=4, width=8, activation="gelu", roles=frozenset({"ffn.add"})),
    ("bert", "compacter_ffn"): Compacter(order=4, width=8, activation="gelu", roles=FFN),
    ("bert", "compacter_rank_2"): OnLayers(
        method=Compacter(order=3, width=6, rank=2, activation="gelu"), start=1, stop=2
    ),
    ("bert", "phm"): OnLayers(method=PHM, start=0, stop=1),
    ("bert", "phm_own"): OnLayers(
        method=Compacter(order=4, width=8, rank=None, shared_factors=False, activation="gelu", roles=FFN),
        start=0, stop=1,
    ),
    ("bert", "widths"): union(
        OnLayers(method=Houlsby(width=2, activation="gelu", roles=FFN), start=0, stop=1),
        OnLayers(method=Houlsby(width=3, activation="gelu", roles=FFN), start=1, stop=2),
    ),
    ("bert", "upper"): OnLayers(
        method=Pfeiffer(width=3, activation="tanh", scale=0.5, roles=frozenset({"attention.add", "ffn.add"})),
        start=1, stop=2,
    ),
    ("bert", "plus"): Houlsby(width=2, activation="gelu", roles=frozenset({"ffn.norm"})),
    ("llama", "houlsby"): Houlsby(width=3, activation="silu", roles=OUT),
    ("llama", "pfeiffer"): Pfeiffer(width=4),
    ("vit", "pfeiffer"): Pfeiffer(width=4),
    ("vit", "plus"): Pfeiffer(width=2, activation="gelu"),
    ("t5", "houlsby"): Houlsby(width=3, activation="silu", roles=frozenset({"ffn.out", "cross.out"})),
    ("t5", "pfeiffer"): Pfeiffer(width=2),
    ("t5", "compacter"): Compacter(order=2, width=6, activation="gelu"),
    ("bart", "houlsby"): Houlsby(width=2, activation="silu"),
    ("bart", "parallel"): ParallelAdapter(width=2, scale=4.0, roles=frozenset({"ffn", "cross"})),
}  # fmt: skip


@functools.cache
def backbone_of(name: str, dtype: torch.dtype = torch.float64) -> Backbone:
    return from_model(AutoModel.from_pretrained(GOLDEN / name).to(dtype), id=name)


def batch_of(name: str, dtype: torch.dtype = torch.float64) -> Batch:
    inputs = load_file(GOLDEN / name / "inputs.safetensors")
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    return Batch(inputs, torch.ones(3, dtype=torch.bool))


def files(name: str, case: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = GOLDEN / name / case
    config = json.loads((folder / "adapter_config.json").read_text())
    if (folder / "adapter.safetensors").exists():
        return config, load_file(folder / "adapter.safetensors")
    return config, torch.load(folder / "pytorch_adapter.bin", weights_only=True)


def test_every_golden_case_is_compared() -> None:
    assert {(file.parts[-3], file.parts[-2]) for file in GOLDEN.glob("*/*/answers.safetensors")} == set(CASES)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_same_outputs_and_gradients(name: str, case: str) -> None:
    config, tensors = files(name, case)
    tensors = {key: value.double().requires_grad_() for key, value in tensors.items()}
    answers = {key: value.double() for key, value in load_file(GOLDEN / name / case / "answers.safetensors").items()}
    method, params = from_adapters(config, tensors, backbone_of(name))
    states = attach(backbone_of(name), method)(params, batch_of(name))
    hidden = answers.pop("hidden")
    torch.testing.assert_close(states.hidden[states.mask], hidden[states.mask], rtol=1e-5, atol=1e-5)
    weights = torch.arange(hidden.numel(), dtype=hidden.dtype).cos().view_as(hidden)
    (weights * states.hidden)[states.mask].sum().backward()
    assert answers.keys() == tensors.keys()
    for key, expected in answers.items():
        torch.testing.assert_close(
            tensors[key].grad, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max()))
        )


@pytest.mark.parametrize(("name", "case"), CASES)
def test_folder_answers_the_same(name: str, case: str) -> None:
    backbone = backbone_of(name, torch.float32)
    method, params = read_folder(GOLDEN / name / case, backbone)
    assert method == CASES[name, case]
    assert from_spec(to_spec(method)) == method
    assert {p.dtype for own in params.values() for p in own.values()} == {torch.float32}
    states = attach(backbone, method)(params, batch_of(name, torch.float32))
    hidden = load_file(GOLDEN / name / case / "answers.safetensors")["hidden"]
    torch.testing.assert_close(states.hidden[states.mask], hidden[states.mask], rtol=1e-5, atol=1e-5)


def test_the_two_places_of_compacter_pp_differ() -> None:
    found = [
        load_file(GOLDEN / "bert" / case / "answers.safetensors")["hidden"]
        for case in ("compacter_pp", "compacter_ffn")
    ]
    assert float((found[0] - found[1]).abs().max()) > 0.1


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("bert", "houlsby", {"ln_before": True}, "ln_before=True"),
    ("bert", "houlsby", {"ln_after": True}, "ln_after=True"),
    ("bert", "houlsby", {"use_gating": True}, "use_gating=True"),
    ("bert", "houlsby", {"inv_adapter": "nice"}, "inv_adapter='nice'"),
    ("bert", "houlsby", {"architecture": "lora"}, "architecture='lora'"),
    ("bert", "houlsby", {"original_ln_after": False}, "original_ln_after=False"),
    ("bert", "houlsby", {"non_linearity": "leakyrelu"}, "non_linearity='leakyrelu'"),
    ("bert", "houlsby", {"non_linearity": "gelu_new"}, "non_linearity='gelu_new'"),
    ("bert", "pfeiffer", {"residual_before_ln": "post_add"}, "residual_before_ln=post_add"),
    ("bert", "pfeiffer", {"residual_before_ln": False}, "residual_before_ln=False"),
    ("bert", "parallel", {"original_ln_after": False}, "is_parallel=True"),
    ("bert", "compacter", {"shared_W_phm": True}, "shared_W_phm=True"),
    ("bert", "compacter", {"scaling": "learned"}, "scaling='learned'"),
    ("bert", "compacter", {"is_parallel": True}, "phm_layer=True with is_parallel=True"),
    ("llama", "pfeiffer", {"is_parallel": True, "original_ln_before": False}, "is_parallel=True"),
    ("llama", "houlsby", {"original_ln_before": True}, "mh_adapter=True"),
]


@pytest.mark.parametrize(("name", "case", "change", "named"), REFUSED)
def test_what_no_method_has_is_refused_by_name(name: str, case: str, change: dict[str, Any], named: str) -> None:
    config, tensors = files(name, case)
    config["config"] |= change
    with pytest.raises(MethodError) as refused:
        from_adapters(config, tensors, backbone_of(name))
    assert named in refused.value.asked
    assert refused.value.found
    assert refused.value.todo


def test_blocks_that_differ_between_stacks_are_refused() -> None:
    config, tensors = files("t5", "pfeiffer")
    config["config"]["leave_out"] = [0]
    kept = {key: value for key, value in tensors.items() if "encoder.block.0" not in key}
    with pytest.raises(MethodError, match=r"leave_out=\[0\]"):
        from_adapters(config, kept, backbone_of("t5"))


def test_a_shared_rule_for_blocks_that_differ_is_refused() -> None:
    config, tensors = files("bert", "compacter")
    for key, value in tensors.items():
        if ".layer.1." in key:  # half as wide
            own = key.partition(".task.")[2]
            axis = {"adapter_down.0.W_right": 2, "adapter_up.W_left": 1, "adapter_down.0.b": 0}.get(own)
            tensors[key] = value if axis is None else value.narrow(axis, 0, value.shape[axis] // 2)
    with pytest.raises(MethodError, match="shared_phm_rule=True"):
        from_adapters(config, tensors, backbone_of("bert"))


def test_names_of_the_first_version() -> None:
    config, tensors = files("bert", "houlsby")
    old = {
        key.replace("attention.output.adapters", "attention.output.attention_text_task_adapters").replace(
            "output.adapters", "output.layer_text_task_adapters"
        ): value
        for key, value in tensors.items()
    }
    assert not old.keys() & tensors.keys()
    method, params = from_adapters(config, old, backbone_of("bert"))
    same, others = from_adapters(config, tensors, backbone_of("bert"))
    assert method == same
    torch.testing.assert_close(params, others, rtol=0, atol=0)
    del config["version"]
    config["config"]["non_linearity"] = "gelu_orig"
    assert from_adapters(config, old, backbone_of("bert"))[0] == Houlsby(width=3, activation="gelu", roles=OUT)


Damage = Callable[[dict[str, Any], dict[str, Tensor]], None]


def _lost(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    del tensors["bert.encoder.layer.1.output.adapters.task.adapter_up.b"]


def _lost_block(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for key in [key for key in tensors if ".layer.1.output." in key]:
        del tensors[key]


def _lost_rule(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    del tensors["bert.shared_parameters.task.phm_rule"]


def _not_finite(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["bert.shared_parameters.task.phm_rule"][0, 0, 0] = torch.nan


def _too_deep(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for key in [key for key in tensors if ".layer.1." in key]:
        tensors[key.replace(".layer.1.", ".layer.7.")] = tensors.pop(key)


def _other_width(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    key = "bert.encoder.layer.0.output.adapters.task.adapter_up.b"
    tensors[key] = torch.zeros(20)


def _unused_rule(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    config["config"]["shared_phm_rule"] = False
    rule = tensors["bert.shared_parameters.task.phm_rule"]
    for key in [key for key in tensors if key.endswith("W_left")]:
        tensors[key.replace("W_left", "phm_rule")] = rule.clone()


def _other_type(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    config["model_type"] = "roberta"


def _other_name(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    config["config"] = "houlsby"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_lost, "up_bias"), (_lost_block, "encoder.layer.1.output"), (_lost_rule, "loses the shared rule"),
        (_not_finite, "not finite"), (_too_deep, "7"), (_other_width, "20"), (_other_type, "roberta"),
        (_other_name, "no configuration"), (_unused_rule, "tensors for shared"),
    ],
)  # fmt: skip
def test_damage_is_found(damage: Damage, says: str, tmp_path: Path) -> None:
    config, tensors = files("bert", "compacter")
    damage(config, tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter.safetensors")
    with pytest.raises(ArtifactError, match=says) as found:
        read_folder(tmp_path, backbone_of("bert"))
    assert str(tmp_path) in found.value.asked


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArtifactError, match=r"adapter_config\.json"):
        read_folder(tmp_path, backbone_of("bert"))
    shutil.copy(GOLDEN / "bert" / "pfeiffer" / "adapter_config.json", tmp_path)
    (tmp_path / "pytorch_adapter.bin").write_bytes(pickle.dumps(_Code(), protocol=2))
    with pytest.raises(ArtifactError, match="Reading it failed"):
        read_folder(tmp_path, backbone_of("bert"))
    assert "must not run" not in capsys.readouterr().out
    (tmp_path / "adapter.safetensors").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="Reading it failed"):
        read_folder(tmp_path, backbone_of("bert"))
    (tmp_path / "adapter_interface.json").write_text("{}")
    shutil.copy(GOLDEN / "bert" / "houlsby" / "adapter.safetensors", tmp_path)
    with pytest.raises(MethodError, match="adapter_interface"):
        read_folder(tmp_path, backbone_of("bert"))
