"""Counting without weights: methods and backbones by name, what is refused, and the page that is made of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from handful import cli
from handful.attach import attach
from handful.backbone import Backbone, aliases, from_model
from handful.counting import Check, count, count_said, method_said, published
from handful.errors import BackboneError, HandfulError, MethodError
from handful.methods import _BUILT_IN, Method, OnLayers, OverTasks, method, union
from handful.shapes import canonical, known, shape
from handful.types import LINEARS
from laws.cases import METHODS
from tiny import TINY

ROOT = Path(__file__).parents[2]
NOT_ALL_KEPT = {"sparse", "magnitude_pruning", "diff_pruning", "fish"}
"""Methods of which `count` says what is trained in the end."""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import methods_page

    return methods_page


@pytest.fixture(scope="module", params=["bert", "t5"])
def tiny(request: pytest.FixtureRequest) -> Backbone:
    return from_model(TINY[request.param](), id=request.param, fingerprint="none")


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *said: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["handful", *said])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_count_is_the_number_of_parameters(tiny: Backbone, name: str) -> None:
    try:
        adapted = attach(tiny, METHODS[name])
    except MethodError:
        with pytest.raises(MethodError):
            count(tiny, METHODS[name])
        return
    found = count(tiny, METHODS[name])
    assert found.total == tiny.num_parameters
    if name in NOT_ALL_KEPT:
        chosen = getattr(METHODS[name], "fraction") * count(tiny, method("full")).trainable  # noqa: B009
        assert chosen - 1 < (found.trainable if found.kept is None else found.kept) <= chosen
    else:
        assert found.trainable == adapted.num_parameters()


def test_what_tasks_hold_in_common_counts_once(tiny: Backbone) -> None:
    adapter = method("houlsby", width=4)
    single, common = count(tiny, adapter).trainable, OverTasks(method=adapter, names=frozenset({"up", "up_bias"}))
    sites = attach(tiny, adapter).sites
    up = sum(5 * site.d_out for site in sites)
    assert count(tiny, adapter, tasks=3).trainable == 3 * single
    assert count(tiny, common, tasks=3).trainable == 3 * (single - up) + up
    assert count(tiny, union(common, method("layernorm")), tasks=3).trainable == (
        3 * (single - up) + up + 3 * count(tiny, method("layernorm")).trainable
    )


def test_what_is_left_after_training() -> None:
    prefix = count_said("bert-base", "prefix_mlp:num_tokens=30")
    assert (prefix.trainable, prefix.kept) == (9_872_384, 552_960)
    both = count_said("bert-base", "prefix_mlp:num_tokens=30+layernorm")
    assert (both.trainable, both.kept) == (9_872_384 + 38_400, 552_960 + 38_400)
    assert count_said("bert-base", "lora").kept is None
    assert "kept" not in count_said("bert-base", "lora").to_dict()


def test_nothing_is_allocated() -> None:
    """Full fine-tuning of 11 billion parameters would be 40 GB, its gates three times as much."""
    full = count_said("t0-11b", "full")
    assert 10.8e9 < full.trainable < full.total == 11_003_736_064
    assert count_said("t0-11b", "sparse:fraction=0.01").trainable == full.trainable // 100
    pruned = count_said("t0-11b", "diff_pruning")
    assert (pruned.kept, pruned.trainable // full.trainable) == (int(0.005 * full.trainable), 2)


# -- methods by name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("lora", method("lora")),
        ("lora:rank=4:alpha=1", method("lora", rank=4, alpha=1)),
        ("compacter++", method("compacter++")),
        ("compacter+++layernorm", union(method("compacter++"), method("layernorm"))),
        (
            "compacter++:order=8+layernorm+ia3",
            union(method("compacter++", order=8), method("layernorm"), method("ia3")),
        ),
        ("prefix:std=1e+1", method("prefix", std=10.0)),
        ("bitfit:add_missing=true:roles=linears", method("bitfit", add_missing=True, roles=LINEARS)),
        ("houlsby:roles=attention.out,ffn.out", method("houlsby", roles=frozenset({"attention.out", "ffn.out"}))),
        ('houlsby:roles=["ffn.out"]', method("houlsby", roles=frozenset({"ffn.out"}))),
        ("lora:start=-2", OnLayers(method=method("lora"), start=-2)),
        ("lora:start=1:stop=3+ia3", union(OnLayers(method=method("lora"), start=1, stop=3), method("ia3"))),
        ("houlsby:tied=up,up_bias", OverTasks(method=method("houlsby"), names=frozenset({"up", "up_bias"}))),
    ],
)
def test_methods_are_said(said: str, expected: Method) -> None:
    assert method_said(said) == expected


@pytest.mark.parametrize(
    ("backbone", "said", "words"),
    [
        ("bert-base", "lra", "'lra' was asked for. Known are lora, "),
        ("bert-base", "lora+lra", "'lra'"),
        ("bert-base", "lora:rank", "'lora:rank' was asked for. 'rank' is not an option"),
        ("bert-base", "lora:rnk=4", "lora has no option 'rnk'; it has alpha, "),
        ("bert-base", "lora:rank=four", "rank is a whole number, and 'four' is none"),
        ("bert-base", "lora:rank=4.5", "rank is a whole number, and 4.5 is none"),
        ("bert-base", "lora:alpha=much", "alpha is a number, and 'much' is none"),
        ("bert-base", "bitfit:add_missing=1", "add_missing is true or false, and 1 is neither"),
        ("bert-base", "houlsby:activation=step", "activation is one of relu, gelu, "),
        ("bert-base", "lora:start=first", "start and stop are whole numbers"),
        ("bert-base", "lora:rank=1000", "rank 1000 must be from 1 to the smaller width, 768"),
        ("bert-base", "lora:rank=0", "rank 0 must be"),
        ("bert-base", "compacter:order=5", "order 5 must divide"),
        ("bert-base", "houlsby:roles=attention.out,cross.out", "no place of the role cross.out; there is attention, "),
        ("bert-base", "houlsby:tied=A", "no parameter A; there is down, down_bias, up, up_bias"),
        ("bert-base", "lora:start=12", "has no such place"),
        ("bert-base", "houlsby:width=wide", "It says: "),
        ("t5-base", "bitfit", "add_missing=True"),
        ("bert-base", "sparse:fraction=1.5", "no share"),
        ("bert-base", "full:roles=attention", "no weight of its own"),
        ("bert-base", "ladder+lora", "one after the other"),
    ],
)
def test_what_does_not_fit_is_said(backbone: str, said: str, words: str) -> None:
    with pytest.raises(MethodError) as caught:
        count_said(backbone, said)
    assert words in str(caught.value)
    assert caught.value.asked
    assert caught.value.found
    assert caught.value.todo


# -- backbones by name -------------------------------------------------------------------------------------------------


def test_the_default_backbone_is_counted_with_and_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise BackboneError("minilm", "The package is not installed.", "Install it.")

    found = shape("minilm")
    monkeypatch.setitem(aliases(), "minilm", missing)
    alone = shape.__wrapped__("minilm")
    assert alone.num_parameters == found.num_parameters == 22_713_216
    assert count(alone, method("houlsby")) == count(found, method("houlsby"))


def test_a_configuration_is_a_shape(tmp_path: Path) -> None:
    config = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    for said in (tmp_path, file):
        assert count_said(str(said), "lora:rank=2").trainable == 2 * 2 * 2 * 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "It is no file or folder, and known are minilm, t5-small, "),
        ("{", "is not the configuration of a model: JSONDecodeError"),
        ("[]", "it has no model_type"),
        ('{"model_type": "nonesuch"}', "transformers makes no model of it"),
        (
            '{"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 4, "vocab_size": 9}',
            "No family has",
        ),
    ],
)
def test_what_is_no_backbone_is_said(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "own.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(BackboneError) as caught:
        count_said(str(file), "lora")
    assert words in str(caught.value)


# -- the command line --------------------------------------------------------------------------------------------------


def test_methods_are_listed_with_shares(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(monkeypatch, capsys, "methods", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert list(rows)[: len(_BUILT_IN)] == list(_BUILT_IN)
    assert rows["lora"]["share"] == rows["lora"]["trainable"] / 22_713_216 == 73_728 / 22_713_216
    assert all(row["does"] and row["source"] for row in rows.values())
    status, out, _ = command(monkeypatch, capsys, "methods")
    assert (status, "0.325%" in out) == (0, True)


def test_a_count_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ("methods", "count", "--backbone", "gpt2-medium", "--method", "lora:rank=4")
    status, out, _ = command(monkeypatch, capsys, *ask, "--json")
    assert (status, json.loads(out)) == (
        0, {"trainable": 393_216, "total": 354_823_168, "share": 393_216 / 354_823_168}
    )  # fmt: skip
    status, out, _ = command(monkeypatch, capsys, *ask, "--tasks", "3", "--json")
    assert json.loads(out)["trainable"] == 3 * 393_216
    status, out, _ = command(monkeypatch, capsys, *ask)
    assert all(word in out for word in ("393,216", "354,823,168", "0.1108%", "published", "0.35M"))
    status, _, err = command(monkeypatch, capsys, *ask[:3], "gpt-5", *ask[4:])
    assert (status, err.startswith("error: The shape of 'gpt-5' was asked for.")) == (2, True)


def test_what_papers_print_is_found() -> None:
    (ia3,) = published("t0-3b", "ia3")
    assert ia3.startswith("540K (Liu et al. 2022")
    assert published("t5-v1.1-xl", "ia3") == [ia3]
    assert published("t0-3b", "ia3:roles=attention.key") == []


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_is_what_it_is_made_of(page: ModuleType) -> None:
    made, problems = page.page()
    assert problems == []
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == made, "run python benchmarks/methods_page.py"


def test_every_method_has_a_formula_and_a_source(page: ModuleType) -> None:
    rows = [[cell.strip() for cell in line.split(" | ")] for line in page.method_rows()]
    assert [row[0] for row in rows] == [f"| `{name}`" for name in _BUILT_IN]
    assert [row[0] for row in rows if "-" in row[2:3] or len(row[-1].rstrip(" |")) < 10] == []


def test_every_shape_is_used() -> None:
    used = {canonical(row["backbone"]) for group in known()["group"] for row in group["rows"]}
    costed = {"gpt3-6.7b", "gpt3-13b", "smollm2"}  # of docs/cost.md
    assert {canonical(name) for name in known()["shape"]} - used == {"minilm"} | costed


GOOD = Check(what="LoRA", backbone="gpt-3", spec="lora:rank=8", count=37_748_736, printed="37.7M")


@pytest.mark.parametrize(
    ("change", "equal", "problem"),
    [
        ({}, "yes", ""),
        ({"count": 37_748_737}, "no", "37,748,736, 37.75M here, and no `why`"),
        ({"count": 37_748_737, "why": "miscounted"}, "no", ""),
        ({"why": "miscounted"}, "yes", "equal, and yet a `why`"),
        ({"printed": "37.6M"}, "no", "37,748,736, 37.75M here, and no `why`"),
        ({"printed": "0.022 %", "count": None}, "yes", ""),
        ({"printed": "1.00x"}, "yes", ""),
        ({"spec": "lara:rank=8"}, "**cannot be counted**", "lara:rank=8 cannot be counted: The method 'lara' was"),
        ({"spec": "", "missing": "not here"}, "-", ""),
    ],
)
def test_a_row_says_whether_it_agrees(page: ModuleType, change: dict[str, Any], equal: str, problem: str) -> None:
    line, found = page.row(replace(GOOD, **change))
    assert line.split(" | ")[5] == equal
    assert (found == problem) if not problem else found.startswith(problem)


@pytest.mark.parametrize(
    ("printed", "trained", "tasks", "agrees"),
    [
        ("540K", 540_672, 1, True),
        ("807K", 870_400, 1, False),
        ("0.29 % a task", 5_163_440, 8, True),
        ("0.29 % a task", 5_163_440, 1, False),
        ("1.065x", 14_459_904, 8, True),
        ("2.85B", 2_849_757_184, 1, True),
    ],
)
def test_printed_figures(page: ModuleType, printed: str, trained: int, tasks: int, agrees: bool) -> None:
    found = count_said("t5-base", "layernorm")
    assert page.figure(printed, replace(found, trainable=trained), tasks)[1] is agrees


def test_a_figure_is_one(page: ModuleType) -> None:
    with pytest.raises(ValueError, match="'lots' is no figure"):
        page.figure("lots", count_said("bert-tiny", "lora"), 1)
    assert issubclass(MethodError, HandfulError)
