"""Mixtures of tasks that end in text: how they are read, shared and drawn, and what pretraining on them comes to."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful.choices import NOTHING
from handful.errors import DataError, HandfulWarning, MethodError, RequestError, RunError
from handful.mixtures import Source, draw, hold_out, read_mixture, shares
from handful.pretraining import Pretraining, mixed_rows, pretrain
from handful.prior import load_prior, save_prior
from handful.recipes import recipe
from handful.templates import Template
from handful.types import Example, Task
from tinytext import tiny_task, tiny_text, tiny_writer, words_of, write_task

SHARED = Path(__file__).parents[3] / "shared" / "data"
BARE, ASKED = Template(prompt="{{ text }} is", name="bare"), Template(prompt="what is {{ text }}", name="asked")
SMALL = Pretraining(steps=6, batch=4, lr=1e-2, validation=2, looks=3)


def sorting(rows: int = 20, *, seed: int = 0, name: str = "sorting", share: float | None = None) -> Source:
    """Texts of two kinds, which are asked in two ways."""
    examples = [Example(f"{t} {i}", None, ("up", "down")[c]) for c in (0, 1) for i, t in enumerate(words_of(c, rows, seed))]  # fmt: skip  # noqa: E501
    return Source(Task(name, examples, ("up", "down"), templates=(BARE, ASKED)), f"{name}.csv", share)


def choosing(rows: int = 20, *, seed: int = 5, name: str = "choosing", share: float | None = None) -> Source:
    """Rows that bring their own choices, three in every other one."""
    examples = [
        Example(f"{text} {i}", None, "left", choices=("right", "left", "back")[: 2 + i % 2])
        for i, text in enumerate(words_of(2, rows, seed))
    ]
    return Source(Task(name, examples, (), "choice", templates=(BARE,)), f"{name}.jsonl", share)


def writing(rows: int = 20, *, name: str = "writing") -> Source:
    examples = [Example(f"{text} {i}", None, ("one", "two")) for i, text in enumerate(words_of(3, rows))]
    return Source(Task(name, examples, (), "generation", templates=(BARE,)), f"{name}.jsonl")


def pretrained(sources: Any, **options: Any):
    course = replace(SMALL, **{key: options.pop(key) for key in list(options) if hasattr(SMALL, key)})
    return pretrain(sources, backbone=options.pop("backbone", tiny_writer()), course=course, **options)


# -- how often ---------------------------------------------------------------------------------------------------------


def test_shares_follow_rows_up_to_the_cap_over_templates() -> None:
    sources = [sorting(150), choosing(100)]  # 300 rows in two templates, 100 in one
    assert shares(sources) == [0.75, 0.25]
    assert shares(sources, cap=200) == [0.5, 0.5]
    assert shares(sources, cap=50) == pytest.approx([1 / 3, 2 / 3])


def test_stated_shares_are_parts_of_one_or_all_of_it() -> None:
    assert shares([sorting(share=0.1), choosing(30), writing(90)]) == pytest.approx([0.1, 0.225, 0.675])
    assert shares([sorting(share=1), choosing(share=3)]) == [0.25, 0.75]
    folder = [replace(sorting(10), spec="both", share=0.5), replace(choosing(60), spec="both", share=0.5), writing()]
    assert shares(folder) == pytest.approx([0.125, 0.375, 0.5])
    with pytest.raises(RequestError, match=r"Shares of 1\.0 were asked for\. They leave nothing for choosing\.jsonl\."):
        shares([sorting(share=1.0), choosing()])


def test_what_is_drawn_follows_seed_and_shares() -> None:
    sources = [sorting(20), choosing(30), writing(10)]
    drawn = draw(sources, [0.5, 0.3, 0.2], 4000, seed=3)
    assert np.array_equal(drawn, draw(sources, [0.5, 0.3, 0.2], 4000, seed=3))
    assert not np.array_equal(drawn, draw(sources, [0.5, 0.3, 0.2], 4000, seed=4))
    assert np.bincount(drawn[:, 0]) / 4000 == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    own = drawn[drawn[:, 0] == 0]
    assert np.bincount(own[:, 1]) / len(own) == pytest.approx([0.5, 0.5], abs=0.05)
    for s, source in enumerate(sources):  # no row comes again before all others have come
        rows = drawn[drawn[:, 0] == s, 2]
        times = Counter(rows.tolist())
        assert set(times) == set(range(source.size))
        assert max(times.values()) - min(times.values()) <= 1
        assert sorted(rows[: source.size].tolist()) == list(range(source.size))


def test_rows_that_are_held_out_are_in_no_source() -> None:
    one, other = sorting(20), sorting(20, name="the same again")
    train, held = hold_out([one, other, writing(4)], 3, seed=0)
    assert [source.size for source in held] == [3, 3]  # of four rows a tenth is none
    texts = {example.text for source in held for example in source.task.examples}
    assert texts.isdisjoint(example.text for source in train for example in source.task.examples)
    assert train[0].size == train[1].size == 40 - len(texts)
    for source in (*train[:2], *held):
        assert source.rows is not None
        assert [one.task.examples[row - 1] for row in source.rows] == list(source.task.examples)


# -- rows --------------------------------------------------------------------------------------------------------------


def test_only_what_was_drawn_is_read_and_only_the_right_choice_is_spoken() -> None:
    sources = [sorting(200), choosing(), writing()]
    drawn = np.array([[0, 0, 7], [1, 0, 4], [0, 1, 7], [2, 0, 1], [1, 0, 4]])
    rows = mixed_rows(tiny_writer(), sources, drawn, SMALL)
    assert rows.pool.row_mask.shape == (4,)
    batch = rows.take(torch.zeros(1, dtype=torch.long), torch.arange(5)[None])
    reader: Any = tiny_writer().tokenizer
    assert batch.inputs["targets"].shape[2] == 1
    said = [reader.decode(own[0][own[0] != NOTHING]) for own in batch.inputs["targets"][0]]
    assert [text.replace(" ##", "") for text in said] == ["up", "left", "up", "one", "left"]
    first, second = (batch.inputs["input_ids"][0, i] for i in (0, 2))
    assert not torch.equal(first, second)
    assert rows.labels.tolist() == [[0] * 5]


def test_with_other_losses_all_choices_are_spoken_but_of_rows_with_answers() -> None:
    drawn = np.array([[0, 0, 39], [1, 0, 1], [2, 0, 1]])
    rows = mixed_rows(tiny_writer(), [sorting(), choosing(), writing()], drawn, replace(SMALL, losses="lm+ul+ln"))
    spoken = (rows.pool.inputs["targets"] != NOTHING).any(-1).sum(-1)
    assert spoken.tolist() == [2, 3, 1]
    assert rows.labels.tolist() == [[1, 1, 0]]


def test_warnings_and_errors_name_the_task_and_the_row_of_its_file() -> None:
    long = sorting(20)
    long.task.examples[30] = replace(long.task.examples[30], text="very " * 40)  # type: ignore[index]
    with pytest.warns(HandfulWarning, match=r"^sorting: Cut their longest column of 1 of 1 prompts"):
        mixed_rows(tiny_writer(), [long.part([3, 30])], np.array([[0, 0, 1]]), replace(SMALL, length=20))
    lacking = replace(long, task=replace(long.task, templates=(Template(prompt="{{ topic }}"),)))
    with pytest.raises(DataError, match=r"^sorting: The template 'default' was to be filled from row 31\."):
        mixed_rows(tiny_writer(), [lacking.part([3, 30])], np.array([[0, 0, 1]]), SMALL)


# -- pretraining -------------------------------------------------------------------------------------------------------


def test_it_learns_and_says_how_well() -> None:
    prior = pretrained(
        [sorting(), choosing(), writing()], steps=60, looks=20, lr=3e-2, optimizer="adamw", method="lora:rank=2",
        held_out=[choosing(name="other", seed=9)],
    )  # fmt: skip
    assert [look["step"] for look in prior.curve] == [0, 20, 40, 60]
    assert prior.curve[-1]["loss"] < 0.9 * prior.curve[0]["loss"]
    assert prior.curve[-1]["held_out_loss"] < 0.9 * prior.curve[0]["held_out_loss"]
    assert set(prior.curve[-1]) == {"step", "training_loss", "loss", "accuracy", "held_out_loss", "held_out_accuracy"}
    assert sum(own["share"] for own in prior.data) == pytest.approx(1, abs=1e-3)
    assert sum(own["drawn"] for own in prior.data) == prior.cost["rows"] == 240
    assert [own["name"] for own in prior.course["held_out"]] == ["other"]
    assert "validation_accuracy" not in prior.data[2]  # answers are not ranked
    assert prior.cost["training_flops"] > 0


def test_what_was_written_comes_back_and_a_fit_starts_there(tmp_path: Path) -> None:
    prior = pretrained([sorting()])
    back = load_prior(save_prior(prior, tmp_path / "prior"))
    assert back.algorithm is None
    assert back.data == prior.data
    task = replace(tiny_task(2), templates=(BARE,))
    (fitted,) = recipe("tfew:steps=0", prior=back)([task], tiny_writer(), seed=0)
    for site, own in prior.params.items():
        for name, p in own.items():
            assert torch.equal(fitted.params[site][name], p)
    card = (tmp_path / "prior" / "README.md").read_text()
    for said in ("6 steps of 4 rows with the losses lm", "| sorting | 38 | 100.0% |", "| step | loss | accuracy |"):
        assert said in card
    assert "held out from pretraining" in card
    with pytest.raises(RequestError, match="It was pretrained, not meta-trained"):
        recipe("adapt", prior=back)([task], tiny_writer(), seed=0)


def test_without_rows_to_look_at_there_is_no_curve(tmp_path: Path) -> None:
    prior = pretrained([writing()], validation=0)
    assert prior.curve == []
    save_prior(prior, tmp_path / "prior")


def test_the_seed_decides() -> None:
    one, same, other = (pretrained([sorting(), choosing()], seed=seed).digest for seed in (1, 1, 2))
    assert one == same != other


class Killed(Exception):  # noqa: N818
    """The process was killed."""


def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handful.checkpoint.Checkpoint.due", True)
    kept, sources = tmp_path / "progress" / "pretraining.safetensors", [sorting(), choosing()]

    def dying(what: str, share: float) -> None:
        if what.startswith("step 5"):
            raise Killed

    with pytest.raises(Killed):
        pretrained(sources, checkpoint=kept, progress=dying)
    again, whole = pretrained(sources, checkpoint=kept), pretrained(sources)
    assert again.digest == whole.digest
    assert (again.curve, again.data) == (whole.curve, whole.data)


@pytest.mark.parametrize(
    ("said", "options"),
    [
        (r"method: IA3\(\), and now BitFit\(\)\.", {"method": "bitfit"}),
        ("seed: 0, and now 1", {"seed": 1}),
        (r"steps: 6, and now 7\.", {"steps": 7}),
        (r"data\.", {"held_out": [writing()]}),
        ("backbone: writer, [0-9a-f]+, and now tiny, ", {"backbone": tiny_text()}),
    ],
)
def test_progress_of_another_request_is_not_continued(said: str, options: dict[str, Any], tmp_path: Path) -> None:
    kept = tmp_path / "pretraining.safetensors"
    pretrained([sorting()], checkpoint=kept)
    with pytest.raises(
        RequestError, match=rf"was to be continued\. It was started with another {said}.*Ask for the same"
    ):
        pretrained([sorting()], checkpoint=kept, **options)


def test_what_cannot_be_pretrained_is_said() -> None:
    with pytest.raises(
        RunError, match=r"2 steps of pretraining were to be taken\. It diverged.*Lower the learning rate"
    ):
        pretrained([sorting()], steps=2, lr=1e30, optimizer="sgd")
    with pytest.raises(MethodError, match=r"was to be pretrained\. It chooses by a task"):
        pretrained([sorting()], method="fish")
    with pytest.raises(RequestError, match="'mse' is none of lm, ul, ln"):
        Pretraining(losses="lm+mse")
    with pytest.raises(RequestError, match=r"asked for\. lr is 0\. Give a number above 0"):
        Pretraining(lr=0)
    with pytest.raises(RequestError, match="no optimizer 'adam'"):
        Pretraining(optimizer="adam")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="No data was given"):
        pretrained([])


def test_rows_of_what_is_held_out_are_refused() -> None:
    same = replace(choosing(name="other"), spec="other.jsonl")
    with pytest.raises(
        DataError, match=r"other was to be measured on after pretraining on choosing\. 20 of its 20 rows"
    ):
        pretrained([choosing()], held_out=[same])
    assert pretrained([choosing()], held_out=[same], force=True).course["held_out"]


# -- what the command line gives ---------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_task(Path("kinds.csv"))
    rows = [{"premise": f"{text} {i}", "choice1": "a b", "choice2": "c d", "question": "cause", "label": i % 2} for i, text in enumerate(words_of(1, 12))]  # fmt: skip  # noqa: E501
    Path("causes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("tags.conll").write_text("a B-X\nb O\n\nc O\nd B-X\n")
    write_task(Path("tasks/one/train.csv"), seed=1)
    write_task(Path("tasks/two/train.csv"), seed=2)
    return tmp_path


@pytest.mark.filterwarnings("ignore::handful.errors.HandfulWarning")
def test_data_is_named_as_elsewhere(place: Path) -> None:
    said = ["kinds.csv:share=0.5:template={{ text }}:", "copa=causes.jsonl:template=asked", "tasks"]
    kinds, causes, one, two = read_mixture(said)
    assert (kinds.name, kinds.share, kinds.templates[0].prompt) == ("kinds", 0.5, "{{ text }}:")
    assert (causes.name, causes.task.kind, [own.name for own in causes.templates]) == ("copa", "choice", ["asked"])
    assert {one.name, two.name} == {"tasks/one", "tasks/two"}
    assert one.spec == two.spec == "tasks"
    assert list(causes.right) == [0, 1] * 6


@pytest.mark.filterwarnings("ignore::handful.errors.HandfulWarning")
@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (["nope=kinds.csv"], r"task definition nope\. .*one of anli"),
        (
            ["copa"],
            r"asked for\. It is a task definition, and no rows were given\. Name the rows that it reads: copa=FILE",
        ),
        (["copa=causes.jsonl:label=x"], "through the definition copa"),
        (["copa=causes.jsonl:template=shouted"], "It has no such template"),
        (["kinds.csv:template=quick {text}"], r"is not in Jinja\. Write columns as"),
        (["kinds.csv:ways=3"], r"'ways' is no option\. Its options are share, template"),
        (["kinds.csv:share=0"], "The share 0 is no number above 0"),
        (["kinds.csv", "kinds.csv"], "It was given twice"),
        (["tags.conll"], r"tags\.conll was to be asked in words\. tags is a tagging task\. Leave it out"),
        (["absent.csv"], r"absent\.csv"),
    ],
)
def test_data_that_cannot_be_had_is_said(specs: list[str], said: str, place: Path) -> None:
    with pytest.raises(RequestError, match=said):
        read_mixture(specs)


def test_a_backbone_that_cannot_write_these_words_is_refused() -> None:
    with pytest.raises(RequestError, match="has no mask to fill in"):
        pretrained([sorting()], backbone=tiny_text())


@pytest.mark.parametrize(
    ("said", "classes"),
    [
        ("banking77=banking77/test.jsonl", 77),
        ("clinc150=clinc150/val.jsonl", 150),
        ("snips=snips/test.jsonl", 7),
        ("query-wellformedness=query_wellformedness/dev.jsonl", 2),
        ("multiemo=multiemo_sentiment/hotels_en/test.jsonl", 4),
    ],
)
def test_shipped_definitions_word_their_sets(said: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (SHARED / said.partition("=")[2]).exists():
        pytest.skip("the data is not there")
    monkeypatch.chdir(SHARED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HandfulWarning)  # two labels for one text
        (source,) = read_mixture([said])
    assert len(source.task.labels) == classes
    for template in source.templates:
        found = template.render(source.task.examples[0], source.task.labels)
        assert len(found.choices) == classes
        assert not any("_" in choice or choice != choice.strip() for choice in found.choices)
        assert source.task.examples[0].text in found.text
