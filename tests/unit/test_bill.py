"""The bill: T-Few's published table from shapes, closed forms, and torch's counter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner

from handful.backbone import from_model
from handful.bill import Bill, Work, attention_flops, break_even, prompting, token_flops, tuning
from handful.cli import app
from handful.costs import count_flops
from handful.errors import BackboneError, RequestError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("found", "published", "within"),
    [
        (lambda: tuning("t0-11b", Work()).inference_flops, 1.1e12, 0.05e12),
        (lambda: tuning("t0-11b", Work()).training_flops, 2.7e16, 0.05e16),
        (lambda: prompting("gpt3-175b", Work()).inference_flops, 1.4e15, 0.05e15),
        (lambda: prompting("gpt3-13b", Work()).inference_flops, 1.0e14, 0.05e14),
        (lambda: prompting("gpt3-6.7b", Work()).inference_flops, 5.4e13, 0.1e13),  # of 41 x 98 tokens in the paper
        (lambda: prompting("t0-11b", Work()).inference_flops, 4.5e13, 0.05e13),  # T5+LM has that shape
        (lambda: prompting("gpt3-175b", Work()).disk_bytes, 16e3, 0.5e3),
        (lambda: tuning("t0-11b", Work()).disk_bytes, 4 * 1_081_344, 0),
        (lambda: prompting("gpt3-175b", Work(shots=32, tokens=512)).kv_cache_bytes / 2**30, 144.0, 0),
    ],
)
def test_the_published_table(found, published: float, within: float) -> None:
    assert abs(found() - published) <= within


def test_tuning_has_paid_for_itself_after_about_twenty_answers() -> None:
    answers = break_even(tuning("t0-11b", Work()), prompting("gpt3-175b", Work()))
    assert answers == 19  # the paper: 20
    assert break_even(tuning("gpt2", Work()), prompting("gpt2", Work(shots=0))) is None


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "vocab_size": 100}),
        ("gpt2", {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 100}),
        ("bert", {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
                  "vocab_size": 100}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tokens", [16, 96])
def test_the_formula_is_what_torch_counts(kind: str, settings: dict[str, int], tokens: int) -> None:
    model = AutoModel.from_config(AutoConfig.for_model(kind, **settings)).eval()
    backbone = from_model(model, id=kind, fingerprint="none")
    ids = torch.zeros(1, tokens, dtype=torch.long)
    with torch.no_grad():
        counted = count_flops(lambda: model(input_ids=ids))
    formula = token_flops(backbone) * tokens + attention_flops(backbone, tokens)
    assert formula == pytest.approx(counted, rel=0.05)


def test_an_encoder_decoder_is_counted_half_a_token_each() -> None:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
    model = AutoModel.from_config(AutoConfig.for_model("t5", **sizes)).eval()
    backbone = from_model(model, id="t5", fingerprint="none")
    weights = (2 * 4 + 2 * 8) * 64 * 64 + 4 * 2 * 64 * 128  # 4 attention layers a block and 4 of cross-attention
    assert token_flops(backbone) == weights


def test_a_cached_prompt_leaves_the_question() -> None:
    work = Work(shots=10, tokens=20, query=40)
    decoder, both = prompting("gpt2", work), prompting("t5-small", work)
    assert decoder.inference_flops == 6 * decoder.cached_flops
    assert both.inference_flops == both.cached_flops
    assert decoder.kv_cache_bytes == 4 * 200 * 12 * 2 * 768
    assert prompting("llama-3-8b", work).kv_cache_bytes == 4 * 200 * 32 * 2 * 1024  # grouped queries keep less


def test_what_is_pruned_is_stored_pruned() -> None:
    kept = tuning("gpt2", Work(), "sparse:fraction=0.01").disk_bytes
    assert 0 < kept < tuning("gpt2", Work(), "full").disk_bytes / 50


def test_what_cannot_be_asked_is_said() -> None:
    with pytest.raises(BackboneError, match="'encoder' alone"):
        prompting("bert-base", Work())
    with pytest.raises(RequestError, match=r"query = 0 .* at least 1"):
        Work(query=0)
    with pytest.raises(RequestError, match=r"shots = -1 .* at least 0"):
        Work(shots=-1)


def test_the_command() -> None:
    asked = ["bill", "--backbone", "T0-11B", "--prompted", "gpt3-175b"]
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert Bill(**found["tuning"]) == tuning("t0-11b", Work())
    assert Bill(**found["prompting"]) == prompting("gpt-3", Work())
    assert found["break_even_queries"] == 19
    shown = CliRunner().invoke(app, asked).output
    assert all(said in shown for said in ("1.1e+12", "1.4e+15", "2.7e+16", "4.1 MiB", "from 19 answers on"))
    assert replace(Work(), shots=0).context == 0


def test_the_committed_page_is_what_the_shapes_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import cost_page

    assert cost_page.page() == cost_page.PAGE.read_text(encoding="utf-8"), "run python benchmarks/cost_page.py"
