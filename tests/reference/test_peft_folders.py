"""PEFT's folders both ways: what `peft` wrote answers the same here, and what was written here the same in `peft`."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from handful import artifact as artifacts
from handful.attach import Adapted, attach
from handful.backbone import from_model
from handful.errors import ArtifactError, HandfulWarning, MethodError
from handful.methods import Method, OnLayers, Union, union
from handful.methods.bitfit import BitFit
from handful.methods.bottleneck import Houlsby
from handful.methods.dora import DoRA
from handful.methods.ia3 import IA3
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.methods.prefix import PrefixTuning
from handful.methods.prompt import PromptTuning
from handful.methods.vera import VeRA
from handful.peft_format import load_peft, save_peft
from handful.predictor import Predictor
from handful.prompts import encode, targets
from handful.recipes.tune import tune
from handful.types import CROSS_ATTENTION, LINEARS, Batch, Params, map_params
from tiny import TINY, tiny_inputs
from tinytext import tiny_task, tiny_text, tokenizer

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

QV = frozenset({"attention.query", "attention.value"})
FIRST = {"num_virtual_tokens": 3, "task_type": "FEATURE_EXTRACTION"}
SOME = {"layers_to_transform": [0, 2], "layers_pattern": "layers"}
FEED_FORWARD = {"feedforward_modules": r".*\.\d+\.output\.dense"}


def lora(targets: Any, **options: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": targets} | options)


WRITTEN: dict[str, tuple[str, Any, Method | None]] = {
    "suffixes": ("bert", lora(["query", "value"]), LoRA(rank=4, alpha=6)),
    "all-linear": ("llama", lora("all-linear"), LoRA(rank=4, alpha=6, roles=LINEARS - CROSS_ATTENTION)),
    "expression": ("t5", lora(r".*(SelfAttention|EncDecAttention)\.(q|v)"), None),
    "layers": ("llama", lora(["q_proj"], layers_to_transform=[1], layers_pattern="layers"), None),
    "one layer": ("bert", lora(["key"], layers_to_transform=0, layers_pattern="layer"), None),
    "apart": ("gemma2", lora(["q_proj", "k_proj"], layers_to_transform=[0, 2, 3], layers_pattern=["layers"]), None),
    "excluded": ("bert", lora(["query", "dense"], exclude_modules=["pooler.dense", "intermediate.dense"]), None),
    "rank-stabilised": ("bert", lora(["query"], use_rslora=True), None),
    "patterns": (
        "bert",
        lora(["query", "value"], rank_pattern={"value": 2}, alpha_pattern={r"layer\.1\..*query": 3}),
        None,
    ),
    "fused": ("gpt2", lora(["c_attn", "c_fc"], fan_in_fan_out=True), None),
    "dropout": ("bert", lora(["query"], lora_dropout=0.1, init_lora_weights="gaussian"), None),
    "dora": ("bert", lora(["query", "value"], use_dora=True), DoRA(rank=4, alpha=6)),
    "dora-fused": ("gpt2", lora(["c_attn"], use_dora=True, fan_in_fan_out=True), None),
    "vera": ("bert", peft.VeraConfig(r=5, target_modules=["query", "intermediate.dense"], projection_prng_key=3), None),
    "vera-seed": ("llama", peft.VeraConfig(r=5, target_modules=["q_proj", "up_proj"]), None),
    "vera-apart": ("gemma2", peft.VeraConfig(r=5, target_modules=["q_proj"], **SOME), None),
    "ia3": ("bert", peft.IA3Config(target_modules=r".*\.(key|value|\d+\.output\.dense)", **FEED_FORWARD), IA3()),
    "ia3-fused": (
        "gpt2", peft.IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]), None
    ),
    "norms": ("bert", peft.LNTuningConfig(target_modules=["LayerNorm"]), LayerNormTuning()),
    "norms-scale": ("gemma2", peft.LNTuningConfig(target_modules=["input_layernorm"]), None),
    "prompt": ("bert", peft.PromptTuningConfig(**FIRST), PromptTuning(num_tokens=3)),
    "prefix": ("llama", peft.PrefixTuningConfig(**FIRST), PrefixTuning(num_tokens=3)),
    "prefix-mlp": ("bert", peft.PrefixTuningConfig(**FIRST, prefix_projection=True, encoder_hidden_size=8), None),
}  # fmt: skip


def moved(model: torch.nn.Module, seed: int = 0) -> None:
    """All that is trained, moved away from its start, where most methods say nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.2 * torch.randn(p.shape, generator=generator)


def written_by_peft(folder: Path, model: PreTrainedModel, config: Any) -> Any:
    theirs = peft.get_peft_model(model, copy.deepcopy(config)).eval()
    moved(theirs)
    theirs.save_pretrained(str(folder))
    return theirs


def same_answers(adapted: Adapted, params: Params, theirs: Any, name: str, method: str) -> None:
    inputs = tiny_inputs(name, 3, 6)
    asked = dict(inputs)
    if method == "prefix":  # peft's real tokens start behind the prefix
        asked["position_ids"] = (torch.arange(6) + 3).expand(3, -1)
    with torch.no_grad():
        ours = adapted(params, Batch(asked, torch.ones(3, dtype=torch.bool)))
        hidden = theirs(**inputs).last_hidden_state[:, 3 if method == "prompt" else 0 :]
        frozen = adapted.backbone.model(**inputs).last_hidden_state
    torch.testing.assert_close(ours.hidden[ours.mask], hidden[ours.mask], rtol=1e-4, atol=2e-5)
    assert (frozen - ours.hidden)[ours.mask].abs().max() > 1e-2


@pytest.mark.parametrize("case", WRITTEN)
def test_what_peft_wrote_answers_the_same_here(case: str, tmp_path: Path) -> None:
    name, config, expected = WRITTEN[case]
    config.save_projection = case != "vera-seed"
    theirs = written_by_peft(tmp_path, TINY[name](), config)
    backbone = from_model(TINY[name](), id=name)
    if case.startswith("prefix"):
        with pytest.warns(HandfulWarning, match="position_ids"):
            method, params = load_peft(tmp_path, backbone)
    else:
        method, params = load_peft(tmp_path, backbone)
    assert expected in (None, method)
    same_answers(attach(backbone, method), params, theirs, name, case.partition("-")[0])


def test_what_a_model_with_a_head_learned_fits_the_bare_backbone(tmp_path: Path) -> None:
    """Names start with that of the backbone inside; the head is left on request only."""
    for kind, name in ((AutoModelForSequenceClassification, "bert"), (AutoModelForCausalLM, "llama")):
        backbone, whole = from_model(TINY[name](), id=name), kind.from_config(TINY[name]().config).eval()
        inner = getattr(whole, whole.base_model_prefix)
        inner.load_state_dict(backbone.model.state_dict(), strict=False)
        task = "SEQ_CLS" if name == "bert" else "CAUSAL_LM"
        targets = ["query", "value"] if name == "bert" else "all-linear"
        written_by_peft(tmp_path / name, whole, lora(targets, task_type=task))
        if name == "bert":
            with pytest.raises(MethodError, match=r"modules_to_save: classifier.*leave=\('classifier',\)"):
                load_peft(tmp_path / name, backbone)
        method, params = load_peft(tmp_path / name, backbone, leave=("classifier",))
        same_answers(attach(backbone, method), params, inner, name, "lora")


def test_layers_of_two_stacks_come_apart_by_their_roles_only(tmp_path: Path) -> None:
    written_by_peft(tmp_path, TINY["t5"](), lora(r"decoder.*SelfAttention\.q"))
    with pytest.raises(MethodError, match=r"leaves out encoder\.block\.0.*choose by role and block"):
        load_peft(tmp_path, from_model(TINY["t5"](), id="t5"))


def test_different_options_become_a_union(tmp_path: Path) -> None:
    name, config, _ = WRITTEN["patterns"]
    written_by_peft(tmp_path, TINY[name](), config)
    method, _ = load_peft(tmp_path, from_model(TINY[name](), id=name))
    query = {"roles": frozenset({"attention.query"}), "rank": 4}
    assert isinstance(method, Union)
    assert set(method.methods) == {
        OnLayers(method=LoRA(alpha=6.0, **query), start=0, stop=1),
        OnLayers(method=LoRA(alpha=3.0, **query), start=1, stop=2),
        LoRA(rank=2, alpha=6.0, roles=frozenset({"attention.value"})),
    }


# -- refused by name ---------------------------------------------------------------------------------------------------


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        found = load_file(file)
        change(found)
        save_file(found, file)

    return changed


QUERY = "base_model.model.encoder.layer.0.attention.self.query."
REFUSED: dict[str, tuple[Any, Callable[[Path], object], str]] = {
    "kind": (lora(["query"]), edit(peft_type="ADALORA"), r"'ADALORA'; handful reads IA3, LN_TUNING, LORA"),
    "bias": (lora(["query"], bias="lora_only"), edit(), "bias = 'lora_only'"),
    "option": (lora(["query"]), edit(alora_invocation_tokens=[1]), r"alora_invocation_tokens = \[1\]"),
    "start": (lora(["query"]), edit(init_lora_weights="pissa"), "'pissa', which changes the backbone's own weights"),
    "embeddings": (lora(["word_embeddings"]), edit(), r"word_embeddings.*no parameter of handful's lora"),
    "role": (peft.IA3Config(), edit(), r"rescales the input of .*attention\.output\.dense \(attention\.out\)"),
    "projections": (
        peft.VeraConfig(r=5, target_modules=["query"]),
        edit(projection_prng_key=9),
        "vera_A and vera_B are not those that projection_prng_key = 9 gives",
    ),
    "decoder prompt": (peft.PromptTuningConfig(**FIRST), edit(num_transformer_submodules=2), "for a decoder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_handful_cannot_hold_is_refused_by_name(case: str, tmp_path: Path) -> None:
    config, change, expected = REFUSED[case]
    written_by_peft(tmp_path, TINY["bert"](), config)
    change(tmp_path)
    with pytest.raises(MethodError, match=expected) as error:
        load_peft(tmp_path, from_model(TINY["bert"](), id="bert"))
    assert str(tmp_path) in error.value.asked
    assert error.value.todo


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tensors": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
    "no object": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "no JSON object"),
    "cut": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "cannot be read"),
    "a layer lost": (
        tensors(lambda t: [t.pop(f"{QUERY}lora_{name}.weight") for name in "AB"]),
        r"has no tensors for encoder\.layer\.0\.attention\.self\.query",
    ),
    "half a layer": (tensors(lambda t: t.pop(f"{QUERY}lora_B.weight")), r"no lora_B\.weight for"),
    "more layers": (edit(target_modules=["1.attention.self.query"]), r"does not name .*query"),
    "rank": (edit(r=3), r"rank is 4, and its configuration says 3"),
    "shape": (
        tensors(lambda t: t.update({f"{QUERY}lora_A.weight": torch.zeros(4, 5)})),
        r"A of .*query has the shape \(4, 5\), not \(4, 32\)",
    ),
    "not finite": (
        tensors(lambda t: t[f"{QUERY}lora_A.weight"].fill_(torch.nan)),
        r"A of .*query holds values that are not finite",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_said(case: str, tmp_path: Path) -> None:
    change, expected = DAMAGED[case]
    written_by_peft(tmp_path, TINY["bert"](), lora(["query"]))
    change(tmp_path)
    with pytest.raises(ArtifactError, match=expected):
        load_peft(tmp_path, from_model(TINY["bert"](), id="bert"))


def test_another_backbone_is_said(tmp_path: Path) -> None:
    written_by_peft(tmp_path, TINY["bert"](), lora(["query"]))
    with pytest.raises(ArtifactError, match=r"backbone 'llama' has no such module.*Load the backbone"):
        load_peft(tmp_path, from_model(TINY["llama"](), id="llama"))


# -- there -------------------------------------------------------------------------------------------------------------

EXPORTED: dict[str, tuple[str, Method]] = {
    "lora": ("bert", LoRA(rank=2)),
    "lora-top": ("llama", OnLayers(method=LoRA(rank=2, roles=LINEARS), start=-1)),
    "lora-conv1d": ("gpt2", LoRA(rank=2, roles=frozenset({"ffn.in", "attention.out"}))),
    "dora": ("bert", DoRA(rank=2)),
    "dora-conv1d": ("gpt2", DoRA(rank=2, roles=frozenset({"ffn.in"}))),
    "vera": ("llama", VeRA(rank=5, projection_seed=3, roles=frozenset({"attention.query", "ffn.in"}))),
    "vera-top": ("bert", OnLayers(method=VeRA(rank=5, roles=QV | {"ffn.out"}), start=-1)),
    "ia3": ("t5", IA3()),
    "layernorm": ("gemma2", LayerNormTuning()),
    "layernorm-shift": ("bert", LayerNormTuning()),
    "prompt": ("llama", PromptTuning(num_tokens=3)),
    "prefix": ("llama", PrefixTuning(num_tokens=3)),
}


def made(name: str, method: Method) -> tuple[Adapted, Params]:
    adapted = attach(from_model(TINY[name](), id=name), method)
    generator = torch.Generator().manual_seed(1)

    def move(p: Tensor) -> Tensor:
        return p + 0.2 * torch.randn(p.shape, generator=generator) if p.is_floating_point() else p

    return adapted, map_params(move, adapted.init(0))


@pytest.mark.parametrize("case", EXPORTED)
def test_what_was_written_here_answers_the_same_in_peft_and_comes_back(case: str, tmp_path: Path) -> None:
    name, method = EXPORTED[case]
    adapted, params = made(name, method)
    folder = save_peft(adapted, params, tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(TINY[name](), str(folder)).eval()
        back, same = load_peft(folder, adapted.backbone)
    same_answers(adapted, params, theirs, name, case.partition("-")[0])
    again = attach(adapted.backbone, back)
    assert [site.name for site in again.sites] == [site.name for site in adapted.sites]
    for site, own in params.items():
        assert same[site].keys() == own.keys()
        for key, p in own.items():
            torch.testing.assert_close(same[site][key], p, rtol=1e-5, atol=1e-6)


def test_an_artifact_keeps_what_needs_no_weights_in_pefts_form(tmp_path: Path) -> None:
    """VeRA's projections are not stored; DoRA and LayerNorm tuning are kept in handful's own form, and read again."""
    (task,) = [tiny_task()]
    for method in (VeRA(rank=5), DoRA(rank=2), LayerNormTuning()):
        (fitted,) = tune([task], tiny_text(), method=method, num_folds=2, steps=2, batch_size=4)
        folder = artifacts.save(fitted, tmp_path / type(method).__name__)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["peft_type"] is None) == (not isinstance(method, VeRA))
        loaded = artifacts.load(folder)
        assert loaded.params.keys() == fitted.params.keys()
        assert all(
            torch.equal(loaded.params[site][key], p) for site, own in fitted.params.items() for key, p in own.items()
        )
        back, params = load_peft(folder, tiny_text())
        assert params.keys() == fitted.params.keys()
        assert type(back) is type(method)


NOT_PEFTS: dict[str, tuple[str, Method, str]] = {
    "houlsby": ("bert", Houlsby(width=4), "PEFT has no houlsby"),
    "union": ("bert", union(LoRA(rank=2), BitFit()), "PEFT has no union"),
    "fused": ("gpt2", LoRA(rank=2), r"c_attn#attention\.query is a part of a fused layer"),
    "some prefixes": ("llama", OnLayers(method=PrefixTuning(), start=-1), "prefixes in every layer"),
    "two attentions": ("t5", PrefixTuning(), "for several attentions"),
    "positions": ("deberta-v2", LoRA(rank=2), "relative positions"),
}


@pytest.mark.parametrize("case", NOT_PEFTS)
def test_what_peft_cannot_hold_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, method, expected = NOT_PEFTS[case]
    adapted, params = made(name, method)
    with pytest.raises(MethodError, match=expected):
        save_peft(adapted, params, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_stack_of_tasks_and_a_strange_folder_are_refused(tmp_path: Path) -> None:
    adapted, params = made("bert", LoRA(rank=2))
    with pytest.raises(ArtifactError, match=r"shape \(2, 2, 32\), not \(2, 32\)"):
        save_peft(adapted, adapted.init(0, tasks=2), tmp_path / "a")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    with pytest.raises(ArtifactError, match="no folder of PEFT's"):
        save_peft(adapted, params, tmp_path / "thesis")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError):
        save_peft(adapted, params, tmp_path / "file" / "a")


# -- trained on either side --------------------------------------------------------------------------------------------


def test_a_lora_trained_here_answers_the_same_in_peft(tmp_path: Path) -> None:
    """The fitted task's own head on the states of peft's model gives the fitted task's scores."""
    task = tiny_task(3, rows=8)
    (fitted,) = tune([task], tiny_text(), method=LoRA(rank=4), num_folds=2, steps=40, batch_size=8, lr=1e-2)
    folder = artifacts.save(fitted, tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(TINY["bert"](), str(folder))
    changed = from_model(theirs.merge_and_unload().eval(), tokenizer(), id="merged by peft")
    fresh = attach(tiny_text(), LoRA(rank=4)).init(0)  # changes nothing
    head_alone = replace(fitted, params=fresh, fingerprint=changed.fingerprint)
    ours, other = Predictor(fitted, tiny_text()), Predictor(head_alone, changed)
    plain = Predictor(replace(head_alone, fingerprint=tiny_text().fingerprint), tiny_text())
    found = ours.scores(task.examples).logits
    torch.testing.assert_close(other.scores(task.examples).logits, found, rtol=1e-4, atol=1e-4)
    assert (found.argmax(-1) == targets(task)).float().mean() > 0.9
    assert (plain.scores(task.examples).logits - found).abs().max() > 0.5


@pytest.mark.parametrize("dora", [False, True])
def test_a_lora_trained_in_peft_answers_the_same_here(dora: bool, tmp_path: Path) -> None:
    """Trained as peft's documentation shows; here it gives the same scores under the same head."""
    task = tiny_task(3, rows=8)
    batch, labels = encode(tiny_text(), task.examples), targets(task)
    torch.manual_seed(0)
    theirs = peft.get_peft_model(TINY["bert"](), lora(["query", "value"], use_dora=dora)).train()
    head = torch.nn.Linear(32, 3)
    trained = [*(p for p in theirs.parameters() if p.requires_grad), *head.parameters()]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), list[float]()

    def scores(states: Tensor, mask: Tensor) -> Tensor:
        return head((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    for _ in range(40):
        logits = scores(theirs(**batch.inputs).last_hidden_state, batch.inputs["attention_mask"])
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    theirs.eval().save_pretrained(str(tmp_path))
    method, params = load_peft(tmp_path, tiny_text())
    with torch.no_grad():
        ours = attach(tiny_text(), method)(params, batch)
        expected = scores(theirs(**batch.inputs).last_hidden_state, batch.inputs["attention_mask"])
        found = scores(ours.hidden, ours.mask)
        frozen = scores(tiny_text().model(**batch.inputs).last_hidden_state, ours.mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (frozen - found).abs().max() > 0.1
