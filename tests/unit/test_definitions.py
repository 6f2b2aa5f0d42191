"""Task definitions and rows that bring their own choices: what is read, what is refused, and whether that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handful import sources
from handful.definitions import METRICS, Definition, is_definition, read, shipped, task_of
from handful.errors import DataError, HandfulError, RequestError
from handful.tables import Table, read_table
from handful.taskfiles import load_task, with_template
from handful.templates import DEFAULTS, Template, prompts_of
from handful.types import Task

SHARED = Path(__file__).parents[3] / "shared" / "data"
COPA = {"premise": "It rained.", "choice1": "He got wet.", "choice2": "He sang.", "question": "effect", "label": 0}
OWN = """\
# a comment
kind: choice
text: premise
choices: [choice1, choice2]
templates:
  - name: why
    prompt: "{{ premise }} And then?"
"""


def table(*rows: dict[str, Any]) -> Table:
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table("rows.jsonl", columns, list(rows), range(11, 11 + len(rows)))


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(name: str, *lines: object) -> str:
        text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


# What a definition reads


def test_a_file_is_read_and_named_after(put) -> None:
    found = read(put("own.yaml", OWN))
    assert (found.name, found.kind, found.choices, found.label, found.measure) == (
        "own", "choice", ["choice1", "choice2"], "label", "accuracy",
    )  # fmt: skip
    assert found.templates == [Template(prompt="{{ premise }} And then?", name="why")]


def test_the_same_in_python(put) -> None:
    own = Definition(
        name="own", kind="choice", text="premise", choices=["choice1", "choice2"],
        templates=[Template(prompt="{{ premise }} And then?", name="why")],
    )  # fmt: skip
    assert own == read(put("own.yaml", OWN)) == Definition(**own.model_dump())


def test_rows_keep_their_columns_but_not_the_answer() -> None:
    definition = Definition(kind="choice", text="premise", choices=["choice1", "choice2"])
    task = task_of(definition, table({**COPA, "idx": 7, "tags": ["a", 1], "note": None}))
    (row,) = task.examples
    assert (task.kind, task.labels, row.text, row.label) == ("choice", (), "It rained.", "He got wet.")
    assert row.choices == ("He got wet.", "He sang.")
    assert row.fields == {
        "premise": "It rained.", "choice1": "He got wet.", "choice2": "He sang.", "question": "effect", "idx": "7",
        "tags": "a, 1", "note": "",
    }  # fmt: skip
    assert task.templates == (DEFAULTS["choice"],)


@pytest.mark.parametrize(
    ("label", "right"),
    [(0, "x"), (1, "2"), (2, "z z"), (2.0, "z z"), ("2", "2"), ("0", "x"), (" z z ", "z z"), ("x", "x"), (True, "2")],
)
def test_a_label_is_a_number_or_the_text_of_a_choice(label: object, right: str) -> None:
    definition = Definition(kind="choice", choices="choices")
    task = task_of(definition, table({"text": "t", "choices": ["x", 2, "z z "], "label": label}))
    assert task.examples[0].choices == ("x", "2", "z z")
    assert task.examples[0].label == right


@pytest.mark.parametrize(("label", "right"), [(0, "no"), (True, "yes"), ("yes", "yes"), ("1", "yes")])
def test_classes_are_counted_in_the_order_of_labels(label: object, right: str) -> None:
    definition = Definition(kind="classification", labels=["no", "yes"])
    task = task_of(definition, table({"text": "t", "label": label}, {"text": "u", "label": 1}))
    assert (task.labels, task.examples[0].label, task.kind) == (("no", "yes"), right, "classification")


def test_classes_without_labels_are_named_as_they_appear() -> None:
    rows = [{"text": "t", "label": 3}, {"text": "u", "label": 1}]
    assert task_of(Definition(kind="classification"), table(*rows)).labels == ("3", "1")


def test_generation_takes_one_answer_or_several() -> None:
    rows = [{"q": "Capital?", "a": "Rome"}, {"q": "Town?", "a": ["Bonn", "Köln"]}, {"q": "River?", "a": ["Rhine"]}]
    task = task_of(Definition(kind="generation", text="q", label="a", metric="f1"), table(*rows))
    assert [row.label for row in task.examples] == ["Rome", ("Bonn", "Köln"), "Rhine"]
    prompts = prompts_of(task.examples, task.labels, task.templates[0])
    assert [prompt.choices for prompt in prompts] == [("Rome",), ("Bonn", "Köln"), ("Rhine",)]


def test_without_a_text_it_is_made_of_what_templates_ask_for() -> None:
    template = Template(prompt="{{ premise }} {{ question }}? {{ choices | join }}")
    definition = Definition(kind="choice", choices=["choice1", "choice2"], templates=[template])
    row = {"secret": "the answer is 0", **COPA}
    assert task_of(definition, table(row)).examples[0].text == "premise: It rained.\nquestion: effect"
    with pytest.raises(DataError, match="says no text, and no template asks"):
        task_of(Definition(kind="choice", choices=["choice1", "choice2"]), table(row))


def test_no_prompt_can_show_the_answer() -> None:
    template = Template(prompt="{{ premise }} {{ label }}")
    definition = Definition(kind="choice", text="premise", choices=["choice1", "choice2"], templates=[template])
    task = task_of(definition, table(COPA))
    with pytest.raises(DataError, match="'label' is undefined"):
        prompts_of(task.examples, task.labels, template)


def test_rows_to_predict_need_no_labels() -> None:
    definition = Definition(kind="classification", labels=["a", "b"])
    task = task_of(definition, table({"text": "t"}), labelled=False)
    assert (task.labels, task.examples[0].label) == (("a", "b"), None)
    hidden = task_of(definition, table({"text": "t", "label": -1}), labelled=False).examples[0]
    assert (hidden.label, hidden.fields) == (None, {"text": "t"})


# What the package brings


def test_every_shipped_definition_is_sound() -> None:
    names = {"anli", "bigbench-choice", "boolq", "cb", "copa", "h-swag", "rte", "wic", "winogrande", "wsc"}
    assert set(shipped()) >= names
    for name in shipped():
        found = read(name)
        assert found.name == name
        assert 2 <= len(found.templates) <= 3
        assert found.text


ROWS = [(path.parent.name, path) for path in sorted(SHARED.glob("tfew_fewshot/*/*_seed0.jsonl"))]
ROWS += [("bigbench-choice", path) for path in sorted(SHARED.glob("bigbench_multiple_choice/*.jsonl*"))]


@pytest.mark.skipif(not ROWS, reason="the few-shot rows are not there")
@pytest.mark.filterwarnings("ignore::handful.errors.HandfulWarning")
@pytest.mark.parametrize(("name", "path"), ROWS, ids=[path.parent.name + path.name for _, path in ROWS])
def test_shipped_definitions_read_their_rows(name: str, path: Path) -> None:
    definition = read("anli" if name.startswith("anli") else name)
    task = task_of(definition, read_table(path))
    assert len({row.label for row in task.examples}) > 1
    for template in task.templates:
        prompts = prompts_of(task.examples, task.labels, template)
        assert len({prompt.text for prompt in prompts}) > 0.5 * len(prompts)
        assert not any("{" in prompt.text or "undefined" in prompt.text.lower() for prompt in prompts[:5])


def test_copa_in_its_three_wordings() -> None:
    task = task_of(read("copa"), table(COPA, {**COPA, "question": "cause", "choice1": "I sang."}))
    continued, asked, likelier = (prompts_of(task.examples, (), template) for template in task.templates)
    assert (continued[0].text, continued[0].choices) == ("It rained and so", ("he got wet.", "he sang."))
    assert (continued[1].text, continued[1].choices) == ("It rained because", ("I sang.", "he sang."))
    assert asked[0].text.splitlines()[1:] == ["What did this lead to?", "- He got wet.", "- He sang.", "Answer:"]
    assert likelier[1].text.endswith("The more plausible cause is:")


def test_a_file_goes_before_a_shipped_name(put) -> None:
    assert is_definition("copa")
    assert is_definition("any/where.yml")
    assert not is_definition(put("copa", "premise,label\n"))
    assert not is_definition("rows.jsonl")
    with pytest.raises(RequestError, match="It holds text"):
        read("copa")


# What is refused


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("kind: choice\nchoices: [a, b\n", ("Line 3", "not YAML")),
        ("kind: choice\n\tchoices: x\n", ("Line 2", "not YAML")),
        ("kind: !!python/object/apply:os.system ['true']\n", ("Line 1", "not YAML", "python")),
        ("kind: classification\nkind: choice\n", ("'kind' appears twice",)),
        ("- kind: choice\n", ("It holds a list",)),
        ("just words\n", ("It holds text",)),
        ("", ("It holds null",)),
        ("---\nkind: choice\n---\nkind: choice\n", ("not YAML",)),
        ("kind: classification\nlable: x\n", ("Line 2", "lable", "no such key", "label")),
        ("name: x\n", ("kind: it is not given",)),
        ("kind: regression\n", ("Line 1", "kind", "'classification', 'choice' or 'generation'", "'regression'")),
        ("kind: choice\n", ("choices: it is not given",)),
        ("kind: choice\nchoices: [a]\n", ("Line 2", "choices", "fewer than two")),
        ("kind: classification\nchoices: [a, b]\n", ("Line 2", "choices", "a classification task has none")),
        ("kind: generation\nlabels: [a, b]\n", ("Line 2", "labels", "a generation task has none")),
        ("kind: classification\nlabels: [no, yes]\n", ("Line 2", "labels.0", "unquoted yes, no", "quote")),
        ("kind: classification\nlabels: [a, a]\n", ("labels", "the same twice")),
        ("kind: classification\nlabels: [a, '']\n", ("labels", "number 2 is empty")),
        ("kind: classification\nlabels: abc\n", ("labels", "a valid list", "'abc'")),
        ("kind: classification\nmetric: rouge_l\n", ("Line 2", "metric", "accuracy")),
        ("kind: classification\ntemplates: [{}]\n", ("templates.0.prompt: it is not given",)),
        ("kind: classification\ntemplates: ['{{ text }}']\n", ("Line 2", "templates.0")),
        ("kind: classification\ntemplates:\n  - prompt: x\n    anwser: y\n", ("Line 4", "anwser", "answer, words")),
        ("kind: classification\ntemplates:\n  - {prompt: a}\n  - {prompt: b}\n", ("templates", "'default'", "name")),
        ("kind: classification\ntemplates:\n  - prompt: '{{ text'\n", ("'{{ text'", "Line 1")),
        (
            "kind: classification\nlabels: [a, b]\ntemplates:\n  - prompt: x\n    words: {a: y}\n",
            ("none for 'b'", "Give every label a word"),
        ),
        (
            "kind: classification\nlabels: [a, b]\ntemplates:\n  - prompt: x\n    words: {a: y, b: z, c: w}\n",
            ("Line 5", "'c' is no label"),
        ),
    ],
)
def test_a_wrong_definition_is_named_by_file_line_and_key(put, wrong: str, words: tuple[str, ...]) -> None:
    with pytest.raises(RequestError) as caught:
        read(put("own.yaml", wrong))
    error = caught.value
    assert error.asked == "Tried to read the task definition own.yaml."
    assert error.todo
    for word in words:
        assert word in str(error)


def test_a_definition_that_repeats_itself_ends(put) -> None:
    """Aliases of aliases: a few lines that stand for billions of names, and a list that holds itself."""
    lines = ["a0: &a0 [x, x]\n", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))]
    for name, text in {"bomb.yaml": "".join(lines), "loop.yaml": "labels: &a [*a, *a]\nkind: classification\n"}.items():
        with pytest.raises(RequestError, match=name):
            read(put(name, text))


def test_a_missing_definition_says_what_there_is() -> None:
    with pytest.raises(RequestError, match=r"nowhere\.yaml.*No such file.*copa"):
        read("nowhere.yaml")


def test_in_python_the_error_is_the_same() -> None:
    with pytest.raises(RequestError, match=r"A task was to be defined.*lable: there is no such key"):
        Definition(kind="classification", lable="x")  # type: ignore[call-arg]


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RequestError, match=r"any\.yaml"):
        read(path)


CHOICE = Definition(name="own", kind="choice", text="text", choices="choices")
NAMED = Definition(name="own", kind="classification", labels=["a", "b"])
COLUMNS = Definition(name="own", kind="choice", text="text", choices=["one", "two"])


@pytest.mark.parametrize(
    ("definition", "row", "words"),
    [
        (CHOICE, {"text": "t", "label": 0}, ("no column 'choices'", "choices")),
        (CHOICE, {"choices": ["a", "b"], "label": 0}, ("no column 'text'", "text")),
        (CHOICE, {"text": "t", "choices": ["a", "b"]}, ("no column 'label'",)),
        (CHOICE, {"text": "t", "choices": ["a", "b"], "label": 2}, ("Line 12", "2 is out of range", "0 to 1")),
        (CHOICE, {"text": "t", "choices": ["a", "b"], "label": -1}, ("Line 12", "-1 is out of range")),
        (CHOICE, {"text": "t", "choices": ["a", "b"], "label": "c"}, ("Line 12", "'c' is none of its choices", "'a'")),
        (CHOICE, {"text": "t", "choices": ["a", "b"], "label": 0.5}, ("Line 12", "'0.5' is none")),
        (CHOICE, {"text": "t", "choices": ["a", "b"], "label": None}, ("Line 12", "missing")),
        (CHOICE, {"text": "t", "choices": ["a", "b"], "label": [0]}, ("Line 12", "a list")),
        (CHOICE, {"text": "t", "choices": ["a"], "label": 0}, ("Line 12", "choices is 1", "at least two")),
        (CHOICE, {"text": "t", "choices": [], "label": 0}, ("Line 12", "choices is 0")),
        (CHOICE, {"text": "t", "choices": ["a", " "], "label": 0}, ("Line 12", "choice 2 is empty")),
        (CHOICE, {"text": "t", "choices": ["a", None], "label": 0}, ("Line 12", "choice 2 is missing")),
        (CHOICE, {"text": "t", "choices": ["a", {"b": 1}], "label": 0}, ("Line 12", "choice 2 is not text but an obj")),
        (CHOICE, {"text": "t", "choices": ["a", "b", "a "], "label": 0}, ("Line 12", "'a' is there twice")),
        (CHOICE, {"text": "t", "choices": "a, b", "label": 0}, ("Line 12", "text, not a list", "list of columns")),
        (CHOICE, {"text": "t", "choices": None, "label": 0}, ("Line 12", "is missing")),
        (CHOICE, {"text": " ", "choices": ["a", "b"], "label": 0}, ("Line 12", "'text'", "empty")),
        (CHOICE, {"text": "t", "choices": ["a", "b"], "label": 0, "x": "\ud800"}, ("Line 12", "'x'", "surrogate")),
        (COLUMNS, {"text": "t", "one": "a", "two": "", "label": 0}, ("Line 12", "column 'two' is empty")),
        (NAMED, {"text": "t", "label": 2}, ("Line 12", "2 is out of range: its labels count from 0 to 1")),
        (NAMED, {"text": "t", "label": "c"}, ("Line 12", "'c' is none of its labels")),
        (Definition(kind="generation", text="text"), {"text": "t", "label": []}, ("Line 12", "missing")),
        (Definition(kind="generation", text="text"), {"text": "t", "label": ["a", ""]}, ("Line 12", "empty")),
    ],
)
def test_a_wrong_row_is_named_by_its_line(definition: Definition, row: dict[str, Any], words: tuple[str, ...]) -> None:
    good = {"text": "t", "label": "a", "choices": ["a", "b"], "one": "a", "two": "b"}
    rows = table({key: value for key, value in good.items() if key in row}, row)
    with pytest.raises(DataError) as caught:
        task_of(definition, rows)
    assert "rows.jsonl" in caught.value.asked
    assert caught.value.todo
    for word in words:
        assert word in str(caught.value)


def test_every_kind_has_a_measure() -> None:
    assert set(METRICS) == set(DEFAULTS)
    assert Definition(kind="generation").measure == "exact_match"


# Rows that say themselves what they are


def test_rows_with_choices_are_a_choice_task(put) -> None:
    rows = [
        {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1},
        {"question": "1?", "choices": ["1", "2"], "answer": "1"},
    ]
    path = put("sums.jsonl", *rows)
    task = sources.load(path)
    assert (task.name, task.kind, task.labels) == ("sums", "choice", ())
    assert [(row.text, row.text_pair, row.choices, row.label, row.fields) for row in task.examples] == [
        ("2 + 2?", None, ("3", "4"), "4", None),
        ("1?", None, ("1", "2"), "1", None),
    ]
    assert sources.load_test(path).examples == task.examples
    unlabelled = sources.load_texts(path)
    assert [(row.choices, row.label) for row in unlabelled] == [(("3", "4"), None), (("1", "2"), None)]


def test_the_label_goes_before_the_answer_and_both_are_kept_from_templates(put) -> None:
    row = {"text": "t", "choices": ["x", "y"], "answer": "2", "label": 1, "gold": "x", "more": "m"}
    path = put("a.jsonl", row)
    task = sources.load(path, fields=True)
    assert (task.examples[0].label, task.examples[0].fields) == (
        "y", {"text": "t", "choices": "x, y", "gold": "x", "more": "m"},
    )  # fmt: skip
    assert sources.load(path, label="gold").examples[0].label == "x"
    with pytest.raises(DataError, match="Tried to use the column 'nope'"):
        sources.load(path, label="nope")


def test_choices_without_a_right_one_are_only_for_prediction(put) -> None:
    path = put("a.jsonl", {"text": "t", "choices": ["x", "y"]})
    with pytest.raises(DataError, match=r"None is called label or answer.*--label"):
        sources.load(path)
    assert sources.load_texts(path)[0].choices == ("x", "y")
    assert sources.load(path, labelled=False).kind == "choice"


def test_a_column_of_choices_that_is_no_list_is_a_column(put) -> None:
    path = put("a.csv", "text,choices,label\na,one,x\nb,two,y\nc,one,x\nd,two,y\n")
    assert sources.load(path).kind == "classification"
    assert sources.load(path, label="choices").labels == ("one", "two")


def test_columns_are_kept_when_they_are_asked_for(put) -> None:
    path = put("a.csv", "text,label,from\na,x,me\nb,y,you\nc,x,me\nd,y,you\n")
    assert sources.load(path).examples[0].fields is None
    for task in (sources.load(path, fields=True), sources.load_test(path, fields=True)):
        assert task.examples[1].fields == {"text": "b", "from": "you"}
    assert sources.load_texts(path, fields=True)[0].fields == {"text": "a", "label": "x", "from": "me"}


# What the command line asks for


def test_a_definition_and_columns_are_not_both_given(put) -> None:
    path = put("a.jsonl", COPA)
    assert load_task(path, definition="copa", columns={"text": None}).examples[0].label == "He got wet."
    with pytest.raises(RequestError, match="--text was given too"):
        load_task(path, definition="copa", columns={"text": "premise"})
    with pytest.raises(RequestError, match="--multilabel-separator was given too"):
        load_task(path, definition="copa", columns={}, separator=";")


def test_a_template_is_a_name_a_jinja_text_or_an_encoders(put) -> None:
    path = put("a.jsonl", COPA)
    named = load_task(path, definition="copa", columns={}, template="asked")
    assert [template.name for template in named.templates] == ["asked"]
    own = load_task(path, definition="copa", columns={}, template="{{ premise }}")
    assert own.templates == (Template(prompt="{{ premise }}", name="given"),)
    plain = Task("t", (), ("a", "b"))
    assert with_template(plain, "so: {text}") == Task("t", (), ("a", "b"), template="so: {text}")
    with pytest.raises(HandfulError, match=r"no such template.*continued, asked, likelier"):
        load_task(path, definition="copa", columns={}, template="nope")
    rows = [{"text": t, "label": y, "by": "me"} for t, y in zip("abcd", "xyxy", strict=True)]
    csv = load_task(put("b.jsonl", *rows), columns={}, template="{{ by }}: {{ text }}")
    assert prompts_of(csv.examples, csv.labels, csv.templates[0])[0].text == "me: a"
