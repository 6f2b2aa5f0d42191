"""Templates: rows become prompts, and nothing that a template says runs code, reads files or fills the memory."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handful.errors import DataError, HandfulWarning, RequestError
from handful.templates import (
    CHOICE,
    CLASSIFICATION,
    LONGEST,
    Prompt,
    Template,
    asked_for,
    check_choices,
    compiled,
    fill,
    prefixes,
    prompts_of,
)
from handful.types import Example

ROW = Example("the text", label="b", fields={"premise": "It rained.", "empty": ""}, choices=("a", "b"))
GIVEN = {"text": "hello", "choices": ["a", "b"]}


# What is rendered


def test_the_default_template_of_a_classification_names_the_labels() -> None:
    prompt = CLASSIFICATION.render(Example("fine weather"), ["good", "bad"])
    text = "Which label does the text have: good, bad?\nText: fine weather\nLabel:"
    assert prompt == Prompt(text, ("good", "bad"))
    pair = CLASSIFICATION.render(Example("one", "two"), ["good", "bad"])
    assert pair.text.endswith("Text: one\nSecond text: two\nLabel:")


def test_the_default_template_of_choices_takes_those_of_the_row() -> None:
    assert CHOICE.render(Example("2 + 2?", choices=("3", "4")), ()) == Prompt("2 + 2?\nAnswer:", ("3", "4"))


def test_words_stand_for_labels_and_for_choices() -> None:
    template = Template(prompt="{{ choices | join('/') }}: {{ premise }}", words={"a": "one", "b": "two"})
    assert template.render(ROW, ()) == Prompt("one/two: It rained.", ("one", "two"))


def test_an_answer_may_use_columns() -> None:
    template = Template(prompt="{{ text }}", answer="{{ choice }} ({{ premise }})")
    assert template.render(ROW, ()).choices == ("a (It rained.)", "b (It rained.)")


@pytest.mark.parametrize(
    ("label", "choices"), [(None, ()), ("Paris", ("Paris",)), (("Rome", "Roma"), ("Rome", "Roma"))]
)
def test_the_choices_of_a_generation_row_are_its_answers(label: str | tuple[str, ...] | None, choices: object) -> None:
    assert CHOICE.render(Example("Where?", label=label), ()).choices == choices


def test_text_of_the_example_goes_before_a_column_of_that_name() -> None:
    example = Example(
        "mine", label=None, fields={"text": "the column's", "choices": "the column's"}, choices=("a", "b")
    )
    assert Template(prompt="{{ text }} {{ choices[1] }}").render(example, ()).text == "mine b"


def test_a_template_is_written_out_and_made_again() -> None:
    template = Template(prompt="{{ text }}", words={"a": "x"}, cut="text", chat=True, name="own")
    assert Template(**template.to_dict()) == template


def test_names_that_a_template_asks_for() -> None:
    assert asked_for("{% for c in choices %}{{ c }}{% endfor %}{{ premise | upper }}{{ 'text' }}") == {
        "choices",
        "premise",
    }


fields = st.dictionaries(
    st.from_regex(r"[a-z]{3,8}", fullmatch=True), st.text(max_size=30), min_size=1, max_size=4
).filter(lambda own: not {"text", "text_pair", "choices", "choice"} & set(own))


@given(own=fields)
def test_what_a_column_holds_is_shown_as_it_is(own: dict[str, str]) -> None:
    """Braces and marks in the data are data: nothing in a row is ever read as a template."""
    names = [name for name in own if name not in {"and", "not", "for", "set", "else", "true", "none", "false", "self"}]
    text = "|".join(f"{{{{ {name} }}}}" for name in names)
    prompt = Template(prompt=text).render(Example("x", fields=own, choices=("a", "b")), ())
    assert prompt.text == "|".join(own[name] for name in names)


def test_a_row_cannot_speak_jinja() -> None:
    example = Example("{{ 1 + 1 }}{% raw %}", choices=("{{ text }}", "b"))
    assert CHOICE.render(example, ()) == Prompt("{{ 1 + 1 }}{% raw %}\nAnswer:", ("{{ text }}", "b"))


# What is refused


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ text.__class__ }}",
        "{{ text['__class__'] }}",
        "{{ text | attr('__class__') }}",
        "{{ choices | map(attribute='__class__') | first }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('ls') }}",
        "{{ namespace.__init__ }}",
        "{{ open('/etc/hosts') }}",
        "{{ __import__('os') }}",
        "{% include '/etc/hosts' %}",
        "{% import 'os' as os %}",
        "{% from 'os' import system %}",
        "{% extends 'base' %}",
        "{{ choices.append('c') }}",
        "{{ text * 10 ** 9 }}",
        "{{ 'a' * 99999999 }}",
        "{{ choices * 99999999 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ text['format'](1) }}",
        "{{ text.ljust(10 ** 3) }}",
        "{{ text | center(1000000000) }}",
        "{{ '%s' | format(1) }}",
        "{{ lipsum(n=10000) }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ 1 / 0 }}",
        "{{ text.nothing }}",
        "{{ choices[9] }}",
        "{{ text + 1 }}",
    ],
)
def test_a_template_runs_no_code_reads_no_file_and_ends(template: str) -> None:
    with pytest.raises(RequestError) as caught:
        fill(template, GIVEN, "Row 7 was asked.")
    assert all((caught.value.asked, caught.value.found, caught.value.todo))
    assert "root:" not in str(caught.value)


def test_a_filled_template_may_be_long_but_not_endless() -> None:
    half = "x" * (LONGEST // 2)
    assert len(fill("{{ text }}{{ text }}", {"text": half}, "")) == LONGEST
    with pytest.raises(DataError, match="1,000,000 characters"):
        fill("{{ text }}{{ text }}{{ text }}", {"text": half}, "")


def test_a_missing_column_is_named_with_the_row_and_what_there_is() -> None:
    with pytest.raises(DataError, match=r"'own' was to be filled from line 9.*'premis' is undefined.*empty, premise"):
        Template(prompt="{{ premis }}", name="own").render(ROW, (), "line 9")


@pytest.mark.parametrize(
    "broken", ["{{ text", "{% if %}", "{% for x in text %}", "{{ text | nosuch }}", "{{ " + "(" * 9999]
)
def test_what_is_not_jinja_is_said_at_once(broken: str) -> None:
    with pytest.raises(RequestError, match="was given") as caught:
        compiled(broken)
    assert "{{ name }}" in caught.value.todo


def test_labels_without_a_word_are_named() -> None:
    template = Template(prompt="{{ text }}", words={"good": "yes"}, name="own")
    with pytest.raises(RequestError, match=r"'own'.*none for 'bad', 'so-so'; it has them for good"):
        template.render(Example("x"), ["good", "bad", "so-so"])


@pytest.mark.parametrize(
    ("choices", "found"),
    [
        (("a",), "There are 1."),
        ((), "There are 0."),
        (("a", ""), "Number 2 is empty."),
        ((" \n", "b"), "Number 1 is empty."),
        (("a", "b", " a"), "'a' is there twice."),
    ],
)
def test_choices_that_cannot_be_told_apart_are_refused_by_row(choices: tuple[str, ...], found: str) -> None:
    with pytest.raises(DataError, match="The choices of row 3 were read") as caught:
        check_choices(choices, "row 3")
    assert caught.value.found == found


def test_words_that_are_alike_are_refused() -> None:
    with pytest.raises(DataError, match="'yes' is there twice"):
        Template(prompt="{{ text }}", words={"a": "yes", "b": "yes"}).render(ROW, ())


# All rows of a task


def test_all_rows_are_rendered_and_a_bad_one_is_named() -> None:
    rows = [Example(f"row {i}", fields={"x": str(i)}) for i in range(3)]
    found = prompts_of(rows, ["a", "b"], Template(prompt="{{ text }}: {{ x }}"))
    assert [prompt.text for prompt in found] == ["row 0: 0", "row 1: 1", "row 2: 2"]
    rows[1] = Example("row 1", fields={"y": "1"})
    with pytest.raises(DataError, match="from row 2"):
        prompts_of(rows, ["a", "b"], Template(prompt="{{ x }}"))


def test_a_choice_that_begins_another_is_warned_of_once_with_its_row_and_the_remedy() -> None:
    rows = [Example("x", choices=own) for own in [("up", "down"), ("shirt", "rug", "shirt pocket"), ("u2", "u")]]
    with pytest.warns(HandfulWarning) as caught:
        prompts_of(rows, (), CHOICE)
    (said,) = [str(warning.message) for warning in caught]
    assert said.startswith("Row 2: the choice 'shirt' is the beginning of 'shirt pocket' (2 rows")
    assert "words" in said
    assert "answer" in said


def test_the_remedy_of_that_warning_helps() -> None:
    rows = [Example("x", choices=("shirt", "shirt pocket"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompts_of(rows, (), Template(prompt="{{ text }}", answer="{{ choice }}."))


@given(st.lists(st.text("ab ", min_size=1, max_size=4), min_size=2, max_size=6, unique_by=str.strip))
def test_prefixes_are_found_wherever_they_are(choices: list[str]) -> None:
    spoken = [choice.strip() for choice in choices]
    expected = {(a, b) for a in spoken for b in spoken if a != b and b.startswith(a)}
    found = prefixes(choices)
    assert (found in expected) if expected else found is None
