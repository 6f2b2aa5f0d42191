"""The bill: T-Few's published table from shapes, closed forms, and torch's counter."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner

from handful.attach import attach
from handful.backbone import from_model, load
from handful.bill import Bill, Work, break_even, pass_flops, prompting, token_flops, tuning
from handful.choice_losses import summed
from handful.choices import Spoken, encode_choices, together
from handful.chooser import Chooser
from handful.cli import app
from handful.costs import count_flops
from handful.counting import method_said
from handful.errors import BackboneError, RequestError
from handful.methods import method
from handful.packaged import PACKAGED, described
from handful.shapes import shape
from handful.templates import Template
from handful.types import Example
from handful.vocabulary import output_weights, vocabulary
from handful.worded import Worded, wording_cost
from tiny import HIDDEN, TINY
from tinytext import tiny_task, tiny_writer, tokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import cost_page  # noqa: E402

# Liu et al. 2022 (arXiv 2205.05638v2), section 4.2: FLOPs an answer, FLOPs to train, bytes; T5+LM has T0's shape
TABLE = {
    "T-Few": (lambda: tuning("t0-11b", Work()), 1.1e12, 2.7e16, 4.2e6),
    "T0 zero-shot": (lambda: prompting("t0-11b", Work(shots=0)), 1.1e12, 0, 0),
    "T5+LM": (lambda: prompting("t0-11b", Work()), 4.5e13, 0, 16e3),
    "GPT-3 6.7B": (lambda: prompting("gpt3-6.7b", Work()), 5.4e13, 0, 16e3),
    "GPT-3 13B": (lambda: prompting("gpt3-13b", Work()), 1.0e14, 0, 16e3),
    "GPT-3 175B": (lambda: prompting("gpt3-175b", Work()), 1.4e15, 0, 16e3),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_published_table_within_four_percent(name: str) -> None:
    bill, inference, training, disk = TABLE[name]
    found = bill()
    assert found.inference_flops == pytest.approx(inference, rel=0.04)
    assert found.training_flops == pytest.approx(training, rel=0.04)
    assert found.disk_bytes == pytest.approx(disk, rel=0.04)


def test_the_published_figures_to_their_last_digit() -> None:
    tuned, prompted = tuning("T0-11B", Work()), prompting("gpt3-175b", Work())
    assert f"{tuned.inference_flops:.1e} {tuned.training_flops:.1e}" == "1.1e+12 2.7e+16"
    assert f"{prompted.inference_flops:.1e} {prompted.disk_bytes / 1000:.0f} kB" == "1.4e+15 16 kB"
    assert tuned.disk_bytes == 4 * 1_081_344
    assert prompting("gpt3-175b", Work(shots=32, tokens=512)).kv_cache_bytes == 144 * 2**30
    assert prompting("gpt3-175b", Work(shots=32, tokens=512)).disk_bytes == 65_536


def test_tuning_has_paid_for_itself_after_about_twenty_answers() -> None:
    answers = break_even(tuning("t0-11b", Work()), prompting("gpt3-175b", Work()))
    assert answers == 19  # the paper: 20
    assert break_even(tuning("gpt2", Work()), prompting("gpt2", Work(shots=0))) is None


@pytest.mark.parametrize("row", cost_page.kept(), ids=lambda row: f"{row.backbone}-{row.prompt}-{row.choices}")
def test_the_formula_is_what_torch_counts(row: cost_page.Counted) -> None:
    assert row.formula.total == pytest.approx(row.query, rel=0.05)
    assert row.formula.step == pytest.approx(row.step, rel=0.05)
    assert row.paper < row.query


@pytest.mark.parametrize("name", cost_page.COUNTED)
def test_what_was_counted_is_counted_again(name: str) -> None:
    (first,) = cost_page.counted(name, cost_page.SIZES[:1])
    assert first in cost_page.kept()
    assert {row.backbone: row.prompt for row in cost_page.kept()}[name] == cost_page.SIZES[-1][0]


@pytest.mark.parametrize("sizes", [(6, (2, 2)), (24, (1, 6, 3, 3)), (40, (1, 1))], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_the_scores_of_choices_cost_what_the_formula_says(name: str, sizes: tuple[int, tuple[int, ...]]) -> None:
    prompt, choices = sizes
    model = TINY[name]()
    model.config.tie_word_embeddings = True
    backbone = from_model(model, tokenizer(), id=name, fingerprint="none")
    adapted = attach(backbone, method("ia3"))
    spoken = Spoken(tuple(range(4, 4 + prompt)), tuple(tuple(range(9, 9 + size)) for size in choices))
    row = together(backbone, [spoken])
    tokens = int(row.inputs["attention_mask"].sum()) + (sum(choices) if name == "t5" else 0)
    beside = len(choices) * max(choices) if name == "t5" else 0
    with torch.no_grad():
        counted = count_flops(lambda: Chooser(adapted, vocabulary(backbone))(adapted.init(0), row))
    work = Work(query=tokens, choices=len(choices), scored=sum(choices), beside=beside)
    assert pass_flops(backbone, work, tokens).total == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "gemma2", "t5", "bart", "bert", "distilbert", "deberta-v2", "electra", "modernbert"]
)
def test_the_output_layer_is_what_states_are_multiplied_by(name: str) -> None:
    with torch.device("meta"):
        bare = from_model(AutoModel.from_config(TINY[name]().config), id=name, fingerprint="none")
    states = torch.zeros(3, HIDDEN, device="meta")
    assert count_flops(lambda: vocabulary(bare)(states)) == 2 * 3 * output_weights(bare) > 0


def test_what_has_no_words_has_no_output_layer() -> None:
    assert tuning("vit-b/16", Work()).vocabulary_flops == 0
    assert tuning("minilm", Work(scored=0)).vocabulary_flops == 0 < tuning("minilm", Work()).vocabulary_flops


def test_smollm2_itself_costs_what_its_shape_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as own:
        own.delenv("HANDFUL_CACHE", raising=False)  # where it may have been converted once
        folder = Path(described("smollm2")) if find_spec(PACKAGED["smollm2"].package) else Path("none")
    if not folder.is_dir():
        pytest.skip("smollm2 is not here, or has not been converted")
    backbone, template = load(folder), Template(prompt="{{ text }} Is it good?")
    adapted = attach(backbone, method("ia3"))
    for text in ("It is.", "It rained all day long, and then some. " * 12):
        row = encode_choices(backbone, [Example(text, None, "yes")], ["yes", "not at all"], template)
        tokens, scored = int(row.inputs["attention_mask"].sum()), int((row.inputs["targets"] >= 0).sum())
        with torch.no_grad():
            counted = count_flops(lambda row=row: Chooser(adapted, vocabulary(backbone))(adapted.init(0), row))
        formula = pass_flops(shape("smollm2"), Work(query=tokens, choices=2, scored=scored), tokens)
        assert formula.total == pytest.approx(counted, rel=0.05)


def test_a_query_is_counted_from_its_text_on() -> None:
    """Whatever of the training rows was computed beforehand, a question is new."""
    backbone, template = tiny_writer(), Template(prompt="{{ text }} so")
    worded = Worded.of([replace(tiny_task(2, 4), templates=(template,))], backbone, limit=64)
    query, training = [], []
    for start in (0, 1):
        model = Chooser(attach(backbone, method_said(f"ia3:start={start}")), vocabulary(backbone))
        pool = model.prepared(worded.rows)
        found = wording_cost(model, model.adapted.init(0), summed("lm"), pool, range(8), steps=1, batch_size=1)
        query.append(found["query_flops"])
        training.append(found["training_flops"])
    assert query[0] == query[1]
    assert training[0] > 1.2 * training[1]


def test_a_kept_prompt_is_what_is_left_of_a_whole_one() -> None:
    work = Work(shots=5, tokens=30, query=20)
    found = prompting("gpt2", work)
    width, blocks = 768, 12
    assert found.context_flops == token_flops(shape("gpt2")) * 150 + 4 * blocks * width * 150**2
    attended = 4 * blocks * width * 20 * 170
    assert found.counted_cached_flops == found.cached_flops + attended + found.vocabulary_flops
    assert found.counted_flops > found.context_flops + found.counted_cached_flops  # the counter has no causal mask
    none = prompting("t5-small", work)
    assert (none.context_flops, none.counted_cached_flops) == (0, none.counted_flops)


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


def test_the_committed_page_is_what_the_shapes_say() -> None:
    assert cost_page.page() == cost_page.PAGE.read_text(encoding="utf-8"), "run python benchmarks/cost_page.py"
