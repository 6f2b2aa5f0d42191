"""Exact match, F1 and ROUGE-L: values by hand, and what holds for any texts."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handful import textmetrics
from handful.errors import DataError, HandfulWarning, RequestError
from handful.textmetrics import METRICS, exact_match, f1, measure, normalised, rouge_l

WORDS = st.lists(st.sampled_from(["cat", "sat", "mat", "dog", "ran", "7"]), max_size=6)
TEXTS = WORDS.map(" ".join)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Cat,\tsat.", "cat sat"), ("An apple a day", "apple day"), ("theatre", "theatre"), ("it's", "its"),
        ("the", ""), ("A-B", "ab"), ("“quoted”", "“quoted”"), ("U.S.A.", "usa"), ("Ärger", "ärger"),
    ],
)  # fmt: skip
def test_normal_form(text: str, plain: str) -> None:
    assert normalised(text) == plain


@pytest.mark.parametrize(
    ("answer", "right", "value"),
    [
        ("The cat.", "cat", 1), ("cats", "cat", 0), ("", "", 1), ("the", "a", 1), ("", "cat", 0),
        ("cat sat", "sat cat", 0),
    ],
)  # fmt: skip
def test_exact_match_by_hand(answer: str, right: str, value: float) -> None:
    assert exact_match(answer, [right]) == value


@pytest.mark.parametrize(
    ("answer", "right", "value"),
    [
        ("the cat sat", "cat on mat", 0.4),  # 1 of 2 and of 3: 2 * (1/2)(1/3) / (1/2 + 1/3)
        ("cat cat cat", "cat cat", 0.8),  # 2 of 3 and of 2: a word counts as often as both have it
        ("sat cat", "cat sat", 1),
        ("dog", "cat", 0),
        ("", "", 1),
        ("the", "cat", 0),
        ("cat", "a", 0),
    ],
)
def test_f1_by_hand(answer: str, right: str, value: float) -> None:
    assert f1(answer, [right]) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "right", "value"),
    [
        ("police kill the gunman", "police killed the gunman", 0.75),  # Lin 2004: 3 of 4 words in order
        ("the gunman kill police", "police killed the gunman", 0.5),  # "the gunman": 2 of 4
        ("the cat sat", "the cat sat on the mat", 2 / 3),  # 3 of 3 and of 6
        ("Cat, sat!", "cat sat", 1),
        ("dog", "cat", 0),
        ("", "cat", 0),
    ],
)
def test_rouge_l_by_hand(answer: str, right: str, value: float) -> None:
    assert rouge_l(answer, [right]) == pytest.approx(value)


@given(answer=TEXTS, right=st.lists(TEXTS, min_size=1, max_size=3), more=TEXTS)
@pytest.mark.parametrize("name", METRICS)
def test_any_texts(name: str, answer: str, right: list[str], more: str) -> None:
    score = METRICS[name]
    value = score(answer, right)
    assert 0 <= value <= 1
    assert value == max(score(answer, [one]) for one in right) == score(answer, right[::-1])
    assert score(answer, [*right, more]) >= value
    assert score(f" {answer.upper()} .", right) == value
    assert score(answer, [more]) == pytest.approx(score(more, [answer]))
    assert exact_match(answer, right) <= f1(answer, right)
    if answer:
        assert score(answer, [more, answer]) == 1


@given(answer=WORDS, right=WORDS)
def test_rouge_l_is_at_most_the_f1_of_words(answer: list[str], right: list[str]) -> None:
    """A common subsequence has no more words than the two have in common."""
    if answer and right:
        assert rouge_l(" ".join(answer), [" ".join(right)]) <= f1(" ".join(answer), [" ".join(right)]) + 1e-12


def test_means_over_rows() -> None:
    answers = ["The cat", "sat mat", "dog"]
    right = ["cat", ("ran", "sat on mat"), ["cat", "Dog!"]]
    assert measure(answers, right) == {
        "exact_match": pytest.approx(2 / 3), "f1": pytest.approx(2.8 / 3),
        "rouge_l": pytest.approx((2 / 3 + 0.8 + 1) / 3), "n": 3,
    }  # fmt: skip
    assert measure(["a b"], ["b"], ["f1"]) == {"f1": 1.0, "n": 1}


def test_a_str_is_one_right_answer_and_not_its_letters() -> None:
    assert exact_match("t", "cat") == 0
    assert rouge_l("cat", "cat") == 1


@pytest.mark.parametrize(
    ("answers", "right", "said"),
    [
        ([], [], r"There are 0 answers and right ones for 0 rows\. Give both"),
        (["x"], ["x", "y"], r"There are 1 answers and right ones for 2 rows\. Give both"),
        (["x", "y"], ["x", ()], r"Row 2 has no right answer\. Say what is right"),
    ],
)
def test_what_cannot_be_measured(answers: list[str], right: list[str], said: str) -> None:
    with pytest.raises(DataError, match=rf"^Answers were to be measured\. {said}"):
        measure(answers, right)


def test_other_names_and_no_right_answer() -> None:
    with pytest.raises(RequestError, match=r"by 'bleu'\. There are exact_match, f1, rouge_l\. Choose among these\."):
        measure(["x"], ["x"], ["f1", "bleu"])
    with pytest.raises(DataError, match=r"No right answer was given\. Give at least one\."):
        f1("x", [])


def test_other_scripts_are_warned_of() -> None:
    with pytest.warns(HandfulWarning, match=r"1 of 2 rows have no right answer with one: they count as 0"):
        assert measure(["кот", "cat"], [["кот"], ["cat"]])["rouge_l"] == 0.5
    assert measure(["кот"], [["кот"]], ["exact_match", "f1"]) == {"exact_match": 1, "f1": 1, "n": 1}


def test_without_the_extra_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    textmetrics._scorer.cache_clear()
    with pytest.raises(RequestError, match=r"rouge-score is not installed\. Run: pip install 'handful\[text\]'"):
        rouge_l("x", ["x"])
    assert f1("x", ["x"]) == 1
