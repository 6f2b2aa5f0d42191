"""`handful bill` of fitted tasks: what was noted, the other side by hand, and what is refused in three sentences."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch

from commandline import Done, call
from handful import artifact as artifacts
from handful.bill import Work, pass_flops, prompting
from handful.shapes import shape
from tiny import TINY
from tinytext import save_tiny, save_writer, tokenizer, words_of

Bill = Callable[..., Done]
ROWS, STEPS, BATCH = 12, 3, 8
ASKED = "{{ text }} so"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tasks of a decoder, of an encoder-decoder and of an encoder with a head, fitted by the command."""
    folder = tmp_path_factory.mktemp("bill")
    rows = [{"text": text, "label": label} for c, label in enumerate(["aye", "n"]) for text in words_of(c, ROWS // 2)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_writer(folder / "decoder")
    both = TINY["t5"]()
    both.config.tie_word_embeddings = True
    both.save_pretrained(folder / "both")
    tokenizer().save_pretrained(folder / "both")
    save_tiny(folder / "encoder")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        for name in ("decoder", "both"):
            recipe = f"tfew:steps={STEPS}:batch_size={BATCH}"
            given = ("--backbone", f"./{name}", "--recipe", recipe, "--template", ASKED, "--out", f"{name}-task")
            assert call("fit", "rows.jsonl", *given).status == 0
        given = ("--backbone", "./encoder", "--recipe", "probe", "--out", "encoder-task")
        assert call("fit", "rows.jsonl", *given).status == 0
        fitted = artifacts.load("decoder-task")
        artifacts.save(replace(fitted, cost={}), "free-task")
        artifacts.save(replace(fitted, cost={**fitted.cost, "training_rows": None}), "bare-task")
        given = ("--backbone", "./decoder", "--recipe", "icl:shots=2", "--out", "shown-task")
        assert call("fit", "rows.jsonl", *given).status == 0
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def bill(place: Path) -> Bill:
    return partial(call, "bill", columns=120)


def found(bill: Bill, *arguments: object) -> dict[str, Any]:
    done = bill(*arguments, "--json")
    assert done.status == 0, done.err
    return done.json


def tokens_of(texts: list[str]) -> list[int]:
    """Without what the tokenizer puts around a text."""
    return [len(ids) for ids in tokenizer()(texts, add_special_tokens=False)["input_ids"]]


def test_what_was_noted_is_what_was_fitted(bill: Bill, place: Path) -> None:
    noted = artifacts.load("decoder-task").cost
    told = found(bill, "decoder-task")
    assert told["tuning"]["training_flops"] == noted["training_flops"] > 0
    assert told["tuning"]["inference_flops"] == noted["query_flops"]
    assert told["tuning"]["seconds"] == noted["seconds"]
    tensors = place / "decoder-task" / "adapter_model.safetensors"
    assert tensors.stat().st_size <= told["tuning"]["disk_bytes"] < tensors.stat().st_size + 200
    assert told["shape"]["decoder_blocks"] == 2
    assert told["shape"]["width"] == 32
    assert {**told["task"], "tokens": 0, "query": 0} == {
        "name": "rows", "recipe": "tfew", "backbone": "./decoder", "prompted": "./decoder",
        "training_rows": ROWS, "shots": ROWS, "tokens": 0, "query": 0,
    }  # fmt: skip


def test_a_row_in_the_prompt_is_as_long_as_the_task_s_are(place: Path) -> None:
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    prompts = tokens_of([f"{row['text']} so" for row in rows])
    answers = tokens_of([row["label"] for row in rows])
    for name, around in {"decoder": 2, "both": 4}.items():  # [CLS] and [SEP], of the prompt and of the answer
        mean = sum(map(sum, zip(prompts, answers, strict=True))) / ROWS
        noted = artifacts.load(f"{name}-task").cost
        assert mean < noted["row_tokens"] <= mean + around
        assert noted["choices"] == 2
        assert noted["scored_tokens"] == sum(tokens_of(["aye", "n"])) + (4 if name == "both" else 0)
        assert noted.get("decoder_tokens") == (2 * (3 + 2) if name == "both" else None)  # "n" is padded


@pytest.mark.parametrize("name", ["decoder", "both"])
def test_the_formula_agrees_with_what_was_counted(bill: Bill, name: str) -> None:
    told = found(bill, f"{name}-task")["tuning"]
    assert told["formula_flops"] == pytest.approx(told["inference_flops"], rel=0.05)


@pytest.mark.parametrize("name", ["decoder", "both"])
def test_the_other_side_and_the_break_even_by_hand(bill: Bill, name: str) -> None:
    noted, told = artifacts.load(f"{name}-task").cost, found(bill, f"{name}-task")
    asked = noted["query_tokens"] + (noted["scored_tokens"] if name == "both" else 0)
    assert told["task"]["query"] == asked
    context = ROWS * round(noted["row_tokens"])
    beside = noted.get("decoder_tokens", 0)
    work = Work(shots=1, tokens=context, query=asked, choices=2, scored=noted["scored_tokens"], beside=beside)
    whole = pass_flops(shape(f"./{name}"), work, context + asked).total
    prompted, tuned = told["prompting"], told["tuning"]
    assert prompted["inference_flops"] == whole
    assert prompted["kv_cache_bytes"] == 4 * context * 2 * 2 * (12 if name == "decoder" else 24)
    assert prompted["disk_bytes"] == 4 * context
    assert told["break_even_queries"] == ceil(tuned["training_flops"] / (whole - tuned["inference_flops"])) > 0
    left = tuned["training_flops"] - prompted["context_flops"]
    saved = prompted["cached_flops"] - tuned["inference_flops"]
    assert told["break_even_cached_queries"] == max(0, ceil(left / saved))
    assert (prompted["context_flops"] > 0) == (name == "decoder")


def test_what_is_said_counts(bill: Bill) -> None:
    told = found(bill, "decoder-task", "--prompted", "gpt2", "--shots", 2000, "--tokens", 7, "--query", 30)
    noted = artifacts.load("decoder-task").cost
    work = Work(shots=2000, tokens=7, query=30, choices=2, scored=noted["scored_tokens"])
    assert told["prompting"]["inference_flops"] == prompting("gpt2", work).counted_flops
    assert told["tuning"]["inference_flops"] == told["tuning"]["formula_flops"]  # of another question than was counted
    assert [note.split(",")[0] for note in told["notes"]] == [
        "gpt2 reads 1", "gpt2 is taken to have as many tokens of a text as the backbone that was tuned"
    ]  # fmt: skip
    assert found(bill, "decoder-task", "--shots", 0)["break_even_queries"] in (None, 0)
    assert found(bill, "bare-task", "--shots", 3)["task"]["shots"] == 3


def test_a_head_on_an_encoder_against_a_decoder(bill: Bill) -> None:
    told = found(bill, "encoder-task", "--prompted", "./decoder")
    noted = artifacts.load("encoder-task").cost
    assert told["task"]["training_rows"] == told["task"]["shots"] == ROWS
    assert told["task"]["tokens"] == told["task"]["query"] == round(noted["query_tokens"])
    assert told["tuning"]["formula_flops"] == pytest.approx(noted["query_flops"], rel=0.1)  # the model's own pooler
    assert told["prompting"]["inference_flops"] > told["tuning"]["inference_flops"]


def test_it_is_said_in_words(bill: Bill) -> None:
    status, out, _ = bill("decoder-task")
    assert status == 0
    assert "rows, tuned by tfew" in out
    assert "prompting the same backbone" in out
    assert "backbone: ./decoder, " in out
    assert "2 decoder blocks of width 32" in out
    assert "With the prompt cached: Tuning is cheaper from " in out
    status, out, _ = bill("both-task")
    assert (status, "With the prompt cached" in out) == (0, False)


@pytest.mark.parametrize(
    ("asked", "sentences"),
    [
        (["free-task"], ["The bill of the task 'rows' in free-task was", "training_flops, query_flops", "from shapes"]),
        (["bare-task"], ["with all its training rows", "does not note how many", "Say it by --shots."]),
        (["shown-task"], ["The bill of the task", "Nothing was tuned for it", "Give a task that was tuned"]),
        (["."], ["A fitted task was to be read from .", "There is no handful.json.", "Give the folder"]),
        (["nowhere"], ["A fitted task was to be read", "There is no such folder.", "Give the folder"]),
        (["encoder-task"], ["Prompting './encoder' with 12 examples", "'encoder' alone", "with --prompted"]),
        (["--backbone", "minilm"], ["Prompting 'minilm'", "does not go on from a prompt", "with --prompted"]),
        (["--backbone", "gpt-9"], ["The shape of 'gpt-9'", "It is no file or folder", "Use one of them"]),
        (["decoder-task", "--prompted", "gpt-9"], ["The shape of 'gpt-9'", "known are minilm", "Use one of them"]),
        (["decoder-task", "--tokens", 0], ["A bill for tokens = 0", "at least 1", "Raise it."]),
        (["decoder-task", "--query", 0], ["A bill for query = 0", "at least 1", "Raise it."]),
        (["--backbone", "gpt2", "--shots", -1], ["A bill for shots = -1", "at least 0", "Raise it."]),
        (["decoder-task", "--steps", 5, "--method", "lora"], ["with --method and --steps", "fitted already", "Leave"]),
        (["--shots", 4], ["A bill was asked for.", "Neither a fitted task nor a backbone", "or --backbone"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if value and not str(value[0])[0].isupper() else "",
)
def test_what_cannot_be_billed_is_said(bill: Bill, asked: list[object], sentences: list[str]) -> None:
    status, out, err = bill(*asked)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    places = [err.find(sentence) for sentence in sentences]
    assert -1 not in places, err
    assert places == sorted(places)
