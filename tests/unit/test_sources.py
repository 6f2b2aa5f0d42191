"""Reading data: what is read, what is refused, and whether the refusal helps."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import sys
import types
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handful import sources
from handful.checks import MAX_CHARS
from handful.errors import DataError, HandfulWarning
from handful.sources import find_columns, from_lists, from_texts, load, load_texts
from handful.tables import read_table
from handful.types import Example

GOOD = "text,label\na,x\nb,y\nc,x\nd,y\n"
filled = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda s: s.strip() != "")


@pytest.fixture
def put(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: str | bytes) -> str:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    return write


def refused(source, *words, **options) -> DataError:
    """`load` refuses, and its message holds the words."""
    with pytest.raises(DataError) as caught:
        load(source, **options)
    error = caught.value
    assert error.asked.endswith(".")
    assert error.found
    assert error.todo
    assert "Traceback" not in str(error)
    for word in (str(source).split(":")[0], *words):
        assert word in str(error)
    return error


def rows(task):
    return [(e.text, e.label) for e in task.examples]


# What is read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", GOOD),
        ("a.CSV", GOOD.replace("\n", "\r\n")),
        ("a.csv", "\ufeff" + GOOD),
        ("a.csv", GOOD.replace(",", ";")),
        ("a.csv", GOOD.replace("a,x\n", "\n\na,x\n").removesuffix("\n")),
        ("a.tsv", GOOD.replace(",", "\t")),
        ("a.csv.gz", gzip.compress(GOOD.encode(), mtime=0)),
        (
            "a.jsonl",
            "".join(json.dumps({"text": t, "label": y}) + "\r\n\n" for t, y in zip("abcd", "xyxy", strict=True)),
        ),
        (
            "a.json",
            "\ufeff" + "\n".join(json.dumps({"label": y, "text": t}) for t, y in zip("abcd", "xyxy", strict=True)),
        ),
        ("a", GOOD),
    ],
)
def test_every_text_format_gives_the_same_task(put, name, content):
    task = load(put(name, content))
    assert rows(task) == [("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")]
    assert (task.labels, task.kind, task.name) == (("x", "y"), "classification", "a")


def test_classes_are_ordered_as_they_appear_and_named_as_written(put):
    cafe = unicodedata.normalize("NFD", "café")
    task = load(put("a.csv", f"text,label\n1,zebra \n2,{cafe}\n3,Ärger\n4,zebra \n5,{cafe}\n6,Ärger\n"))
    assert task.labels == ("zebra ", cafe, "Ärger")


@pytest.mark.parametrize(
    ("values", "names"), [([3, 1], ("3", "1")), ([True, False], ("True", "False")), ([0.5, 2.0], ("0.5", "2.0"))]
)
def test_numbers_and_booleans_become_names(put, values, names):
    lines = [json.dumps({"text": f"{i}{v}", "label": v}) for i in range(2) for v in values]
    assert load(put("a.jsonl", "\n".join(lines))).labels == names


def test_line_numbers_are_those_of_the_file(put):
    table = read_table(put("a.csv", '\ntext,label\n"two\nlines",x\n\nb,y\n'))
    assert list(table.lines) == [3, 6]
    assert table.rows[0] == {"text": "two\nlines", "label": "x"}
    assert list(read_table(put("a.jsonl", '\n{"text": "a\u2028b"}\n\n{"text": "b"}')).lines) == [2, 4]


@pytest.mark.parametrize(
    ("header", "options", "columns"),
    [
        ("id,Sentence,CATEGORY", {}, ("Sentence", None, "CATEGORY")),
        (" Text ,intent", {}, (" Text ", None, "intent")),
        ("sentence2,sentence1,label", {}, ("sentence1", "sentence2", "label")),
        ("premise,hypothesis,label", {}, ("premise", "hypothesis", "label")),
        ("question,sentence,label", {}, ("question", "sentence", "label")),
        ("question,answer,label", {"text": "question"}, ("question", None, "label")),
        ("a,b,c", {"text": "B", "text_pair": "a", "label": "c"}, ("B".lower(), "a", "c")),
        ("text,body,topic", {"label": "text"}, ("body", None, "text")),
        ("text,label", {"labelled": False}, ("text", None, None)),
    ],
)
def test_columns_are_found_by_name(put, header, options, columns):
    found = find_columns(read_table(put("a.csv", header + "\n" + ",".join("1" * len(header.split(","))))), **options)
    assert (found.text, found.text_pair, found.label) == columns


def test_pairs_and_unlabelled(put):
    name = put("a.csv", "text_a,text_b,label\na,b,x\nc,d,y\ne,f,x\ng,h,y\n")
    assert load(name).examples[1] == Example("c", "d", "y")
    task = load(name, labelled=False)
    assert task.labels == ()
    assert task.examples[0] == Example("a", "b")
    assert load_texts(name, text="label") == [Example(y) for y in "xyxy"]


def test_texts_without_labels(put):
    assert load_texts(put("a.jsonl", '"a"\n"b"\n')) == [Example("a"), Example("b")]
    assert load_texts(put("a.txt", "a, b\r\nc\r\n")) == [Example("a, b"), Example("c")]
    assert load_texts(put("a.csv", "thing\na\nb\n"), text="thing") == [Example("a"), Example("b")]


def test_multilabel(put):
    lines = [{"text": "a", "label": ["x", "y", "x"]}, {"text": "b", "label": []}, {"text": "c", "label": ["y", "x"]}]
    task = load(put("a.jsonl", "\n".join(map(json.dumps, lines))))
    assert task.kind == "multilabel"
    assert [label for _, label in rows(task)] == [("x", "y"), (), ("y", "x")]
    same = load(put("a.csv", "text,label\na,x; y\nb,\nc,y;x\n"), multilabel_separator=";")
    assert rows(same) == rows(task)
    assert same.labels == ("x", "y")


@pytest.mark.parametrize("content", [GOOD, " \n" + '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n' * 2])
def test_standard_input(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    task = load("-")
    assert (len(task.examples), task.labels, task.name) == (4, ("x", "y"), "standard input")


def test_the_demo_is_five_topics():
    task = load("package:chatterbot")
    assert task.name == "chatterbot"
    assert task.labels == ("trivia", "coding", "psychology", "ai", "emotion")
    assert len({e.text for e in task.examples}) == len(task.examples) > 400


def test_parquet_and_hub_use_class_names(put, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["no", "yes"])
    features = {"text": datasets.Value("string"), "label": names, "labels": datasets.Sequence(names)}
    content = {"text": ["a", "b", "c"], "label": [1, 0, 1], "labels": [[1], [], [0, 1]]}
    data = datasets.Dataset.from_dict(content, features=datasets.Features(features))
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: calls.append((a, k)) or data)
    data.to_parquet(tmp_path / "a.parquet")
    with pytest.warns(HandfulWarning, match=r"single example of 'no'"):
        tasks = [load(s, split="dev") for s in ("owner/some.set", "owner/set:en", "glue:sst2", "a.parquet")]
    assert {task.labels for task in tasks} == {("yes", "no")}
    assert calls == [
        (("owner/some.set", None), {"split": "dev"}),
        (("owner/set", "en"), {"split": "dev"}),
        (("glue", "sst2"), {"split": "dev"}),
    ]
    with pytest.warns(HandfulWarning):
        many = load("a.parquet", label="labels")
    assert [e.label for e in many.examples] == [("yes",), (), ("no", "yes")]


def test_a_hidden_label_is_named_by_row(monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: data)
    refused("owner/name", "Row 2, column 'label': the label is missing", "remove that row")


@given(st.lists(st.tuples(filled, filled), min_size=2, max_size=8), st.sampled_from(["csv", "tsv", "jsonl"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_any_unicode_survives(tmp_path, pairs, form):
    path = tmp_path / f"a.{form}"
    with path.open("w", encoding="utf-8", newline="") as file:
        if form == "jsonl":
            file.writelines(json.dumps({"text": t, "label": y}, ensure_ascii=len(y) > 3) + "\n" for t, y in pairs)
        else:
            table = [("text", "label"), *pairs]
            csv.writer(file, delimiter="," if form == "csv" else "\t").writerows(table)
    classes = tuple(dict.fromkeys(y for _, y in pairs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HandfulWarning)
        if len(classes) == 1:
            refused(path, "only one class")
        else:
            task = load(path)
            assert rows(task) == pairs
            assert task.labels == classes


@given(st.binary(max_size=60), st.sampled_from([".csv", ".tsv", ".jsonl", ".txt", ".gz", ".parquet", ""]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_any_bytes_are_read_or_refused(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HandfulWarning)
        for read in (load, load_texts):
            with contextlib.suppress(DataError):
                read(path)


# What is refused


def test_missing_file_and_directory(put, tmp_path):
    refused("no.csv", "There is no such file", str(tmp_path), "owner/name")
    refused("data/no.jsonl.gz", "There is no such file")
    refused(Path("data/no"), "There is no such file")
    (tmp_path / "sets").mkdir()
    refused("sets", "is a directory", "Name a file")
    put("sets/b.csv", GOOD)
    refused("sets", "is a directory that holds 'b.csv'", "such as sets/b.csv")


@pytest.mark.parametrize("content", ["", " \n\n", "\ufeff\r\n"])
def test_empty_file(put, content):
    refused(put("a.csv", content), "It is empty", "header")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text,label\n", ["header ('text', 'label') but no rows"]),
        ("a.csv", "a,b\n1,2\n", ["text column", "columns are 'a', 'b'", "--text COLUMN", 'text="COLUMN"']),
        ("a.csv", "text,b\n1,2\n", ["Looked for the label column", "'text', 'b'", "--label COLUMN", 'label="COLUMN"']),
        ("a.csv", "I like it\nme too\n", ["'I like it'", "put a line 'text' above it"]),
        ("a.csv", "text,label\na,x\nb,x\n", ["only one class, 'x', in 2 examples", "column 'label'"]),
        ("a.csv", "text,label\na,x\n ,y\n", ["Line 3, column 'text': the text is empty", "remove that line"]),
        ("a.csv", "text,label\n" + ",x\n" * 7, ["Lines 2, 3, 4, 5, 6 and 2 more, column 'text'", "remove those lines"]),
        ("a.csv", "text,label\na,x\nb,\nc, \n", ["Lines 3 and 4, column 'label': the label is empty"]),
        ("a.csv", "text_a,text_b,label\na,b,x\nc,,y\n", ["Line 3, column 'text_b': the text is empty"]),
        ("a.csv", b"text,label\na,x\nb\xe9c,y\n", ["Line 3, byte 2: 0xe9 is not UTF-8", "Save it as UTF-8"]),
        ("a.csv", b"\xef\xbb\xbf\xff,label\n", ["Line 1, byte 1: 0xff"]),
        ("a.csv", GOOD.encode("utf-16"), ["Line 1, byte 1", "Save it as UTF-8"]),
        ("a.csv", 'text,label\na,x\n"b,y\nc,x\n', ["Line 3 (read on to line 4)", "a quote is opened and never closed"]),
        ("a.csv", 'text,label\n"a" b,x\n', ["Line 2: broken quotes", 'Write "..."']),
        ("a.csv", "text,label\na,x\nb,c,y\n", ["Line 3 has 3 fields, the header has 2", "holds ','", "double quotes"]),
        ("a.tsv", "text\tlabel\na\tx\nb\n", ["Line 3 has 1 field, the header has 2: 'text', 'label'", "a tab"]),
        ("a.csv", "text,text,label\na,b,c\n", ["More than one column is named 'text'"]),
        ("a.jsonl", '{"text": "a", "text": "b"}', ["Line 1", "the name 'text' appears twice"]),
        ("a.jsonl", '{"text": "a", "label": "x"}\n\n{"text": ', ["Line 3, character 10: the JSON is broken"]),
        ("a.jsonl", '{"text": "a", "label": "x"}\n["b", "y"]', ["Line 2 is a list, not", "one object per line"]),
        ("a.jsonl", '"a"\n', ["Line 1 is text, not a JSON object"]),
        ("a.json", '[\n{"text": "a"}\n]', ["Line 1", "one object per line"]),
        ("a.jsonl", "[" * 100_000, ["Line 1: the JSON cannot be read"]),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}', ["Line 2, column 'label': the label is missing"]),
        ("a.jsonl", '{"text": "a", "label": NaN}', ["Line 1, column 'label': the label is NaN"]),
        ("a.jsonl", '{"text": NaN, "label": "x"}', ["Line 1, column 'text': the text is NaN"]),
        ("a.jsonl", '{"text": ["a"], "label": "x"}', ["Line 1, column 'text'", "not text but a list"]),
        ("a.jsonl", '{"text": "a", "label": {}}', ["Line 1, column 'label'", "not text but an object"]),
        ("a.jsonl", '{"text": "a", "label": ["x", ""]}', ["Line 1, column 'label': the label is empty"]),
        ("a.jsonl", '{"text": "\\udc00", "label": "x"}', ["Line 1, column 'text'", "not Unicode"]),
        ("a.jsonl", '{"text": "a", "label": "1"}\n{"text": "b", "label": 1}', ["1 has text", "2 has a whole number"]),
        ("a.jsonl", '{"text": "a", "label": ["x"]}\n{"text": "b", "label": "y"}', ["1 has a list", "2 has a single"]),
        ("a.jsonl", '{"text": "a", "label": []}', ["There are no labels, in 1 example."]),
        ("a.txt", "a\n\nb\n", ["label column"]),
        ("a.xlsx", "PK", ["'.xlsx' is not a format", ".csv"]),
        ("a.csv.gz", b"not gzip", ["Not a gzipped file", "cut off"]),
        ("a.csv.gz", gzip.compress(GOOD.encode(), mtime=0)[:-9], ["a.csv.gz", "cut off"]),
        ("a.parquet", b"PAR1", ["not a sound parquet file"]),
    ],
)  # fmt: skip
def test_refused(put, name, content, words):
    refused(put(name, content), *words)


def test_refused_columns(put):
    name = put("a.csv", GOOD)
    refused(name, "column 'title' of a.csv as --text", "'text', 'label'", text="title")
    refused(name, "column 'b' of a.csv as --text-pair", text_pair="b")
    refused(name, "column 'y' of a.csv as --label", label="y")
    refused(name, "already given", "--label", text="label", label="label")


def test_empty_line_of_texts(put):
    with pytest.raises(DataError, match=r"Line 2, column 'text': the text is empty"):
        load_texts(put("a.txt", "a\n\nb\n"))


def test_hub_out_of_reach(monkeypatch):
    datasets = types.ModuleType("datasets")
    datasets.load_dataset = lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no route\nto host"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("owner/name", "split 'dev'", "no route to host", "Check the name", "HF_HUB_OFFLINE is set", split="dev")


def test_missing_extras(put, monkeypatch):
    for module in ("datasets", "pyarrow.parquet", "yaml"):
        monkeypatch.setitem(sys.modules, module, None)
    refused("owner/name", "needs datasets", "pip install 'handful[data]'")
    refused(put("a.parquet", "PAR1"), "needs pyarrow", "pip install 'handful[data]'")
    refused("package:chatterbot", "needs yaml", "pip install 'handful[demo]'")
    refused("package:other", "no such package", "package:chatterbot", "pip install 'handful[demo]'")


# Warnings


def test_conflicting_labels(put):
    lines = "".join(f"{t},{y}\n" for t in "abcd" for y in "xy") + "a,x\ne,x\ne,x\n"
    with pytest.warns(HandfulWarning) as caught:
        load(put("a.csv", "text,label\n" + lines))
    message = str(caught[0].message)
    assert len(caught) == 1
    assert "'a' (line 2: 'x', line 3: 'y'); 'b' (line 4: 'x', line 5: 'y')" in message
    assert "a.csv" in message
    assert "'d'" not in message
    assert "and 1 more" in message


def test_single_example(put):
    with pytest.warns(HandfulWarning, match=r"single example of 'y', 'z' in a.csv: nothing can be estimated"):
        load(put("a.csv", "text,label\na,x\nb,x\nc,y\nd,z\n"))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_long_texts_are_cut(put, form):
    """Without a word: `prompts.encode` says once how much of them is read."""
    long = "x y," * 2_500_000
    texts = ["a", long, "b", long + "."]
    lines = [json.dumps({"text": t, "label": "pq"[i % 2]}) for i, t in enumerate(texts)]
    if form == "csv":
        lines = ["text,label", *(f'"{t}",{"pq"[i % 2]}' for i, t in enumerate(texts))]
    task = load(put(f"a.{form}", "\n".join(lines)), split="dev")
    assert [len(e.text) for e in task.examples] == [1, MAX_CHARS, 1, MAX_CHARS]


# Python values


def test_from_lists_keeps_the_class_objects():
    task, classes = from_lists(["a", "b", "c", "d"], np.array([3, 1, 1, 3]), name="n")
    assert (task.name, task.labels, classes) == ("n", ("3", "1"), [3, 1])
    assert all(isinstance(c, np.integer) for c in classes)
    task, classes = from_lists([("a", "b"), ["c", "d"]] * 2, [True, False] * 2)
    assert task.examples[1] == Example("c", "d", "False")
    assert classes == [True, False]


def test_from_lists_multilabel():
    task, classes = from_lists(["a", "b", "c"], [["x"], {"y", "x"}, ("y",)])
    assert task.kind == "multilabel"
    assert [e.label for e in task.examples] == [("x",), ("x", "y"), ("y",)]
    assert classes == ["x", "y"]


def test_from_texts():
    assert from_texts(["a", np.str_("b")]) == [Example("a"), Example("b")]
    assert from_texts([("a", "b")]) == [Example("a", "b")]


@pytest.mark.parametrize(
    ("texts", "labels", "words"),
    [
        (["a", "b"], ["x"], "2 texts and 1 labels"),
        ("ab", ["x", "y"], "A single str was given"),
        ([], [], "There are none"),
        ([("a", "b"), "c"], ["x", "y"], "Item 1 has 1 text, item 0 has 2"),
        ([("a", "b", "c")], ["x"], "Item 0 has 3 texts"),
        (["a", None], ["x", "y"], "Item 1, column 'text': the text is missing"),
        (["a", " "], ["x", "y"], "Item 1, column 'text': the text is empty"),
        (["a", "b"], ["x", float("nan")], "Item 1, column 'label': the label is NaN"),
        (["a", "b"], ["x", None], "Item 1, column 'label': the label is missing"),
        (["a", "b"], ["x", 1], "item 0 has text and item 1 has a whole number"),
        (["a", "b"], np.eye(2), "Item"),
        (["a", "b"], [1, 1], "only one class"),
    ],
)
def test_from_lists_refuses(texts, labels, words):
    with pytest.raises(DataError) as caught:
        from_lists(texts, labels)
    assert words in str(caught.value)


def test_importing_needs_no_extra():
    import subprocess

    code = "import sys, handful.sources; print(sorted({'datasets', 'pyarrow', 'yaml', 'torch'} & set(sys.modules)))"
    src = str(Path(sources.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": src}, check=True
    )
    assert done.stdout.strip() == "[]"
