"""In-context learning: what is shown, what is kept of it, and that neither changes an answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from handful import prefix_cache
from handful.asking import asked_in_words
from handful.choices import Spoken, together
from handful.context import CONTENT_FREE, Context, nearest
from handful.errors import RequestError
from handful.packing import positions, sees
from handful.predictor import Predictor
from handful.prefix_cache import beginning, frozen_scores
from handful.recipes import recipe
from handful.recipes.icl import icl
from handful.templates import Template
from handful.types import Example, Task
from handful.vocabulary import vocabulary
from tinytext import tiny_writer

ROWS = tuple(Example(text, label=label) for text, label in zip("abcdef", "xyxyxy", strict=True))
TASK = Task("letters", ROWS, ("x", "y"))
SHORT = Template(prompt="{{ text }}:")


def worded(**changes: object) -> Task:
    return replace(TASK, templates=(SHORT,), **changes)


def test_what_is_shown_is_the_rows_in_order_with_their_answers() -> None:
    context = Context(template=SHORT, rows=ROWS, orders=((2, 0),))
    assert context.told(tiny_writer(), TASK.labels, [Example("q")]) == [["c: x\n\na: x\n\n"]]
    assert Context.from_dict(context.to_dict()) == context


def test_the_answer_of_a_row_with_its_own_choices_is_shown() -> None:
    row = Example("a", label="two", choices=("one", "two"))
    assert Context(template=SHORT, rows=(row,), orders=()).demonstration(row, ("1", "2")) == "a: two\n\n"


@pytest.mark.parametrize("together", [8, 1024])
def test_keeping_the_beginning_changes_no_score(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    backbone = tiny_writer()
    words, common = vocabulary(backbone), (9, 8, 7, 6, 5, 4)
    rows = [
        Spoken((*common, 5, 6, 7, 8), ((11, 12), (13,), (14, 15, 16, 17))),
        Spoken((*common, 5), ((20,), (21, 22))),
        Spoken((*common, 30, 7), ((20, 31), (21, 22))),
    ]
    assert beginning(backbone, rows) == 0
    expected = frozen_scores(backbone, words, rows)
    monkeypatch.setattr(prefix_cache, "LEAST", 3)
    monkeypatch.setattr(prefix_cache, "TOGETHER", together)
    assert beginning(backbone, rows) == len(common)
    torch.testing.assert_close(frozen_scores(backbone, words, rows), expected)
    assert expected.isinf().tolist() == [[False] * 3, [False, False, True], [False, False, True]]


def test_an_answer_stands_right_after_the_prompt_and_sees_no_other() -> None:
    answer = torch.tensor([[0, 0, 1, 1, 2, 0]])
    real = torch.tensor([[1, 1, 1, 1, 1, 0]])
    assert positions(answer)[0, :5].tolist() == [0, 1, 2, 3, 2]
    assert sees(answer, real)[0, 4].tolist() == [True, True, False, False, True, False]
    assert sees(answer, real)[0, 3].tolist() == [True, True, True, True, False, False]


def test_the_scores_of_a_batch_are_those_of_each_row() -> None:
    backbone = tiny_writer()
    rows = [Spoken((5, 6, 7), ((11, 12), (13,))), Spoken((8, 9), ((20,), (21, 22)))]
    words = vocabulary(backbone)
    each = torch.cat([frozen_scores(backbone, words, [row]) for row in rows])
    torch.testing.assert_close(frozen_scores(backbone, words, rows), each)
    assert together(backbone, rows).inputs["targets"].shape == (2, 2, 2)


def test_calibration_takes_away_what_is_answered_to_nothing() -> None:
    backbone = tiny_writer()
    words = vocabulary(backbone)
    context = Context(template=SHORT, rows=ROWS, orders=((0, 1),))
    asked = [Example(text) for text in ("q", *CONTENT_FREE)]
    plain = context.scores(backbone, words, TASK.labels, asked)
    calibrated = replace(context, calibrated=True).scores(backbone, words, TASK.labels, asked)
    empty = plain[1:].exp().mean(0).log()
    torch.testing.assert_close(calibrated, (plain - empty).log_softmax(-1))


def test_prompts_are_averaged_over() -> None:
    backbone = tiny_writer()
    words, orders = vocabulary(backbone), ((0, 1), (1, 0))
    each = [
        Context(template=SHORT, rows=ROWS, orders=(order,)).scores(backbone, words, TASK.labels, ROWS[:2])
        for order in orders
    ]
    both = Context(template=SHORT, rows=ROWS, orders=orders).scores(backbone, words, TASK.labels, ROWS[:2])
    torch.testing.assert_close(both.exp(), (each[0].exp() + each[1].exp()) / 2)


def test_the_likest_row_comes_last() -> None:
    rows = [Example("blue sea"), Example("red car"), Example("a blue car")]
    assert nearest(rows, [Example("the blue car")], 2)[0] == [1, 2] or nearest(rows, [Example("blue car")], 1)[0] == [2]
    assert nearest(rows, [Example("red car"), Example("blue sea")], 1) == [[1], [0]]


def test_of_long_rows_that_are_like_a_question_fewer_are_shown() -> None:
    rows = (*ROWS, *(Example(f"blue {'car ' * size}", label="x") for size in (1, 2, 9)))
    context = Context(template=SHORT, rows=rows, orders=((),), similar=3, limit=60)
    (said,) = context.told(tiny_writer(), TASK.labels, [Example("blue car"), Example("a")])
    assert 0 < said[0].count("blue") < 3
    assert "a: x" in said[1]
    scores = context.scores(tiny_writer(), vocabulary(tiny_writer()), TASK.labels, [Example("blue car"), Example("a")])
    assert scores.isfinite().all()


def test_what_is_drawn_is_seeded_and_balanced() -> None:
    backbone = tiny_writer()
    one, again, other = (icl([worded()], backbone, shots=4, seed=seed)[0] for seed in (0, 0, 1))
    assert one.features == again.features != other.features
    (balanced,) = icl([worded()], backbone, shots=4, select="balanced")
    (order,) = balanced.features["context"]["orders"]
    assert sorted(ROWS[i].label or "" for i in order) == ["x", "x", "y", "y"]


def test_rows_that_do_not_fit_are_left_out_and_said() -> None:
    (found,) = icl([worded()], tiny_writer(), length=14)
    (order,) = found.features["context"]["orders"]
    assert 0 < len(order) < len(ROWS)
    assert f"{len(order)} of {len(ROWS)} rows fit" in found.notes[0]


@pytest.mark.parametrize(
    "said", ["icl:shots=0", "icl:shots=2", 'icl:shots=2:select="similar"', "icl:prompts=2:calibrate=true"]
)
def test_a_task_on_disk_answers_alike(said: str, tmp_path) -> None:
    from handful.artifact import load, save

    backbone = tiny_writer()
    (fitted,) = recipe(said)([worded()], backbone, seed=0)
    read = load(save(fitted, tmp_path / "task"))
    before, after = (Predictor(own, backbone).scores(ROWS).logits for own in (fitted, read))
    torch.testing.assert_close(after, before)
    assert fitted.cost["training_flops"] == 0 < fitted.cost["query_flops"]
    torch.testing.assert_close(asked_in_words(read, backbone)(ROWS, 1), before)


def test_shots_below_zero_are_refused() -> None:
    with pytest.raises(RequestError, match="at least 0"):
        icl([worded()], tiny_writer(), shots=-1)
