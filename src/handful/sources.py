"""Files, installed packages and hub data sets -> Examples; the only reader of data.

A source is one of

    train.csv  .tsv  .jsonl  .txt  .parquet     a file, UTF-8; each but parquet may also end in .gz
    -                                           standard input: JSON lines if it starts with `{`, else CSV
    package:chatterbot                          the demo: the topic of a question or remark, five classes
    owner/name  owner/name:config  name:config  a data set of the Hugging Face hub (`HF_HUB_OFFLINE` is honoured)

CSV and TSV need a header line. JSON lines hold one object per line; a list as label makes the task multi-label.
A .txt file holds one text per line. Whatever is wrong is a `DataError` that names the line; nothing is half read.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import re
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np

from handful.errors import DataError, HandfulWarning
from handful.types import Example, Label, Task

MAX_CHARS = 100_000
"""Longer texts are cut to this many characters, with one warning."""

_TEXT = (
    "text, text_a, sentence1, premise, question1, question, sentence, query, utterance, content, message, body, "
    "review, tweet, comment, document, passage, headline, title, input"
)
_LABEL = "label, labels, class, category, intent, topic, target, sentiment, emotion, relation"
_PAIR = {
    "text": "text_pair, text_b",
    "text_a": "text_b",
    "sentence1": "sentence2",
    "premise": "hypothesis",
    "question1": "question2",
    "question": "answer, sentence, passage",
    "query": "answer, passage, document",
}
_TOPICS = ("trivia", "coding", "psychology", "ai", "emotion")
_JSON = (".jsonl", ".ndjson", ".json", ".jsonlines", ".json-lines")
_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", *_JSON)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+(:[\w.-]+)?|:[\w.-]+)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LISTS: tuple[Any, ...] = (list, tuple, set, frozenset)


@dataclass(frozen=True)
class Table:
    """What a source holds. Cells are str in text formats and whatever was stored elsewhere; `lines` are for people."""

    source: str
    columns: tuple[str, ...]
    rows: Sequence[dict[str, Any]]
    lines: Sequence[int]
    unit: str = "line"

    def at(self, indices: Sequence[int]) -> str:
        """`line 3`, or `lines 3, 5 and 9`, or the first five and how many more there are."""
        words = [str(self.lines[i]) for i in indices[:5]] + [f"{len(indices) - 5} more"] * (len(indices) > 5)
        return f"{self.unit} {words[0]}" if not words[1:] else f"{self.unit}s {', '.join(words[:-1])} and {words[-1]}"


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read as what."""

    text: str
    text_pair: str | None = None
    label: str | None = None


def load(
    source: str | Path,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    split: str = "train",
    labelled: bool = True,
    name: str | None = None,
    multilabel_separator: str | None = None,
) -> Task:
    """Reads a labelled task; classes are ordered as they first appear and named as they are written.

    Columns that are not given are found by name, whatever their case. A second text is looked for only when `text`
    is not given. `split` counts for hub data sets only. With `multilabel_separator` a cell such as `a;b` holds
    several labels, and an empty cell none. With `labelled=False` labels are not read and the task has no classes.
    Raises DataError; warns (HandfulWarning) of cut texts, classes with one example, texts with conflicting labels.
    """
    table = read_table(source, split)
    columns = find_columns(table, text, text_pair, label, labelled)
    return _task(table, columns, name or _stem(table.source), multilabel_separator)[0]


def load_texts(
    source: str | Path, text: str | None = None, text_pair: str | None = None, split: str = "train"
) -> list[Example]:
    """Reads texts without labels, one Example a row; a JSON line may also be a bare string. Raises DataError.

    CSV needs a header here too; where its name says nothing, as in a one-column file, give it as `text`.
    """
    table = read_table(source, split, bare_strings=True)
    return _examples(table, find_columns(table, text, text_pair, labelled=False))


def from_lists(texts: Iterable[object], labels: Iterable[object], name: str = "task") -> tuple[Task, list[Any]]:
    """A task from Python values, and its classes as the objects that were given, in the order of `Task.labels`.

    A text is a str or a pair of str. A label is any hashable; a list, tuple or set of labels makes the task
    multi-label. Checks, errors and warnings are those of `load`; items count from 0.
    """
    table, columns = _given(texts)
    values = list(labels)
    if len(values) != len(table.rows):
        found = f"There are {len(table.rows)} texts and {len(values)} labels."
        raise DataError("Tried to pair texts with labels.", found, "Give one label for every text.")
    for row, value in zip(table.rows, values, strict=True):
        row["label"] = value
    return _task(table, Columns(columns.text, columns.text_pair, "label"), name)


def from_texts(texts: Iterable[object]) -> list[Example]:
    """Examples without labels from Python values: str, or pairs of str. Raises DataError."""
    return _examples(*_given(texts))


def read_table(source: str | Path, split: str = "train", *, bare_strings: bool = False) -> Table:
    """Every column and row of a source, with line numbers (row numbers where there are no lines). Raises DataError.

    `bare_strings` lets a JSON line be a string, read as the column `text`.
    """
    if str(source).startswith("package:"):
        return _package(str(source))
    path, where = Path(source).expanduser(), "standard input" if str(source) == "-" else str(source)
    suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() != ".gz"), "")
    if isinstance(source, str) and suffix not in _SUFFIXES and not os.path.exists(path) and _HUB.fullmatch(source):
        return _hub(source, split)
    raw = sys.stdin.buffer.read() if str(source) == "-" else _bytes(path, where)
    if not raw.removeprefix(b"\xef\xbb\xbf").strip():
        _fail(where, "It is empty.", "Give it a header line, such as 'text,label', and one example per line.")
    if suffix == ".parquet":
        return _parquet(where, raw)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        head = error.object[: error.start]
        line, byte = head.count(b"\n") + 1, len(head) - head.rfind(b"\n")
        found = f"Line {line}, byte {byte}: 0x{error.object[error.start]:02x} is not UTF-8."
        _fail(where, found, "Save it as UTF-8 (in a spreadsheet: 'CSV UTF-8').")
    if suffix in _JSON or (not suffix and text.lstrip().startswith("{")):
        return _jsonl(where, text, bare_strings)
    if suffix == ".txt":
        lines = text.removesuffix("\n").split("\n")
        return _table(where, ["text"], [{"text": line.rstrip("\r")} for line in lines], range(1, len(lines) + 1))
    if suffix not in (".csv", ".tsv", ""):
        _fail(where, f"'{suffix}' is not a format that can be read.", f"Save it as one of {', '.join(_SUFFIXES[:5])}.")
    return _csv(where, text, suffix)


def find_columns(
    table: Table, text: str | None = None, text_pair: str | None = None, label: str | None = None, labelled: bool = True
) -> Columns:
    """The columns to read: as given, or else found by name. Raises DataError that lists the columns found."""
    names = {column.strip().casefold(): column for column in reversed(table.columns)}
    found, picked = f"Its columns are {_quoted(table.columns)}.", dict[str, str]()

    def guess(candidates: str) -> str | None:
        return next((names[c] for c in candidates.split(", ") if names.get(c) not in (None, *picked.values())), None)

    for what, name in {"text": text, "text-pair": text_pair, "label": label if labelled else None}.items():
        if name is not None:
            column = name if name in table.columns else names.get(name.strip().casefold())
            asked = f"Tried to use the column '{name}' of {table.source} as --{what}."
            if column is None:
                raise DataError(asked, found, f"Give one of these as --{what}.")
            if column in picked.values():
                raise DataError(asked, "This column was already given for something else.", f"Change one. {found}")
            picked[what] = column
    for what, candidates in {"text": _TEXT, **({"label": _LABEL} if labelled else {})}.items():
        if (column := picked.get(what) or guess(candidates)) is None:
            todo = f'Name it with --{what} COLUMN (in Python: {what}="COLUMN").'
            if len(table.columns) == 1 and what == "text":
                todo += " If the first line is not a header but a text, put a line 'text' above it."
            asked = f"Looked for the {what} column of {table.source}."
            raise DataError(asked, f"{found} None is called {' or '.join(candidates.rsplit(', ', 1))}.", todo)
        picked[what] = column
        partner = guess(_PAIR.get(picked["text"].strip().casefold(), "")) if text is None else None
        picked |= {"text-pair": partner} if partner is not None and "text-pair" not in picked else {}
    return Columns(picked["text"], picked.get("text-pair"), picked.get("label"))


def _bytes(path: Path, where: str) -> bytes:
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.name.lower().removesuffix(".gz").endswith(_SUFFIXES))
            found = f"It is a directory{' that holds ' + _quoted(inside[:5]) if inside else ''}."
            _fail(where, found, f"Name one file in it, such as {path / inside[0]}." if inside else "Name a file.")
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw
    except FileNotFoundError:
        todo = f"Check the path, seen from {Path.cwd()}. A data set of the hub is written owner/name or name:config."
        _fail(where, "There is no such file.", todo)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        _fail(where, f"{getattr(error, 'strerror', None) or error}.", "Check that it can be read and is not cut off.")


def _csv(where: str, text: str, suffix: str) -> Table:
    head = text.lstrip().split("\n", 1)[0]
    delimiter = "\t" if suffix == ".tsv" else next((d for d in ",;\t" if d in head), ",")
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header, rows, lines = list[str](), list[dict[str, Any]](), list[int]()
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            reason = "a quote is opened and never closed" if "end of data" in str(error) else f"broken quotes ({error})"
            upto = f" (read on to line {reader.line_num})" if reader.line_num > start else ""
            _fail(where, f"Line {start}{upto}: {reason}.", 'Write "..." around a field and "" for a quote inside it.')
        if fields is None:
            return _table(where, header, rows, lines)
        if header and fields and len(fields) != len(header):
            found = f"Line {start} has {_count(len(fields), 'field')}, the header has {len(header)}: {_quoted(header)}."
            mark = "a tab" if delimiter == "\t" else f"'{delimiter}'"
            _fail(where, found, f"Mend the line; a text that holds {mark} needs double quotes around it.")
        if header and fields:
            rows.append(dict(zip(header, fields, strict=True)))
            lines.append(start)
        header = header or fields


def _jsonl(where: str, text: str, bare_strings: bool) -> Table:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise ValueError(f"the name '{_short(twice)}' appears twice")
        return dict(pairs)

    rows, lines, todo = (
        list[dict[str, Any]](),
        list[int](),
        'Write one object per line: {"text": "...", "label": "..."}',
    )
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=once)
            except json.JSONDecodeError as error:
                _fail(where, f"Line {number}, character {error.colno}: the JSON is broken ({error.msg}).", todo)
            except (ValueError, RecursionError) as error:
                _fail(where, f"Line {number}: the JSON cannot be read ({error}).", todo)
            if bare_strings and isinstance(row, str):
                row = {"text": row}
            if not isinstance(row, dict):
                _fail(where, f"Line {number} is {_kind(row)}, not a JSON object.", todo)
            rows.append(cast("dict[str, Any]", row))
            lines.append(number)
    return _table(where, list(dict.fromkeys(key for row in rows for key in row)), rows, lines)


def _parquet(where: str, raw: bytes) -> Table:
    parquet = _optional("pyarrow.parquet", where)
    try:
        return _arrow(where, parquet.read_table(io.BytesIO(raw)))
    except (OSError, ValueError, TypeError, NotImplementedError) as error:  # what pyarrow's errors derive from
        _fail(where, f"It is not a sound parquet file: {_short(error)}.", "Write it, or download it, again.")


def _hub(source: str, split: str) -> Table:
    datasets = _optional("datasets", source)
    name, _, config = source.partition(":")
    try:
        data = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the hub's client raises errors of many libraries
        todo = "Check the name, the config, the split and the network. If you meant a file: there is none of this name."
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            todo += " HF_HUB_OFFLINE is set, so only what was downloaded before can be read."
        _fail(f"split '{split}' of the hub data set {source}", f"It cannot be had: {_short(error, 200)}.", todo)
    return _arrow(source, data.with_format("arrow")[:])


def _arrow(where: str, table: Any) -> Table:
    """Rows of a pyarrow table; class indices become the class names that `datasets` keeps in the schema."""

    def named(cell: Any, names: Sequence[str]) -> Any:
        if isinstance(cell, list):
            return [named(item, names) for item in cast("list[Any]", cell)]
        return None if cell is None or cell < 0 else names[cell]

    metadata: dict[bytes, bytes] = table.schema.metadata or {}
    features: dict[str, Any] = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    columns, cells = list[str](table.column_names), [column.to_pylist() for column in table.columns]
    for i, feature in enumerate(features.get(name, {}) for name in columns):
        inner: Any = feature.get("feature", feature)
        if "names" in inner:
            cells[i] = [named(cell, inner["names"]) for cell in cells[i]]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]
    return _table(where, columns, rows, range(1, len(rows) + 1), "row")


def _package(source: str) -> Table:
    spec = find_spec("chatterbot_corpus") if source == "package:chatterbot" else None
    if spec is None or not spec.submodule_search_locations:
        todo = "The only one is package:chatterbot, after: pip install 'handful[demo]'"
        _fail(source, "There is no such package of examples here.", todo)
    yaml, topics = _optional("yaml", source), dict[str, str]()
    for topic in _TOPICS:
        path = Path(spec.submodule_search_locations[0], "data", "english", f"{topic}.yml")
        for conversation in yaml.safe_load(_bytes(path, str(path)))["conversations"]:
            topics.setdefault(str(conversation[0]), topic)
    rows = [{"text": text, "label": topic} for text, topic in topics.items()]
    return _table(source, ["text", "label"], rows, range(1, len(rows) + 1), "row")


def _given(texts: Iterable[Any]) -> tuple[Table, Columns]:
    items = [] if isinstance(texts, str) else [_items(text) or [text] for text in texts]
    for i, item in enumerate(items):
        if len(item) not in (1, 2) or len(item) != len(items[0]):
            found = f"Item {i} has {_count(len(item), 'text')}, item 0 has {len(items[0])}."
            _fail("the given texts", found, "Give a str for every item, or a pair of str for every item.")
    if not items:
        found = "A single str was given." if isinstance(texts, str) else "There are none."
        _fail("the given texts", found, "Give a list of texts.")
    columns = ["text", "text_pair"][: len(items[0])]
    rows = [dict(zip(columns, item, strict=True)) for item in items]
    return Table("the given lists", (*columns, "label"), rows, range(len(rows)), "item"), Columns(*columns)


def _examples(table: Table, columns: Columns) -> list[Example]:
    cells, cut = list[list[str]](), set[int]()
    for column in (columns.text, columns.text_pair) if columns.text_pair is not None else (columns.text,):
        values = [row.get(column) for row in table.rows]
        for i, value in enumerate(values):
            if isinstance(value, str) and len(value) > MAX_CHARS:
                values[i] = value[:MAX_CHARS]
                cut.add(i)
        _refuse(table, column, "text", [_problem(value, "text") for value in values])
        cells.append([str(value) for value in values])
    if cut:
        which = f"{_count(len(cut), 'example')} of {table.source} to {MAX_CHARS:,} characters"
        _warn(f"Cut the text of {which}, first in {table.at([min(cut)])}.")
    return [Example(*texts) for texts in zip(*cells, strict=True)]


def _task(table: Table, columns: Columns, name: str, separator: str | None = None) -> tuple[Task, list[Any]]:
    examples = _examples(table, columns)
    if columns.label is None:
        return Task(name, examples, ()), []
    cells = [_split(row.get(columns.label), separator) for row in table.rows]
    groups = [_items(cell) if isinstance(cell, _LISTS) else [cell] for cell in cells]
    problems = [next(filter(None, (_problem(item, "label") for item in group)), None) for group in groups]
    _refuse(table, columns.label, "label", problems)
    shapes, kinds, classes = dict[str, int](), dict[str, int](), dict[str, Any]()
    for i, group in enumerate(groups):
        shapes.setdefault("a list" if isinstance(cells[i], _LISTS) else "a single label", i)
        for item in group:
            kinds.setdefault(_kind(item), i)
            classes.setdefault(str(item), item)
    asked = f"Tried to read the classes of {table.source} from column '{columns.label}'."
    for mixed in (shapes, kinds):
        if len(mixed) > 1:
            found = " and ".join(f"{table.at([i])} has {kind}" for kind, i in list(mixed.items())[:2])
            raise DataError(asked, f"The labels are of mixed kinds: {found}.", "Write every label in the same way.")
    if len(classes) < 2:
        found = f"There is only one class, {_quoted(classes)}" if classes else "There are no labels"
        found += f", in {_count(len(examples), 'example')}."
        raise DataError(asked, found, "Add examples of another class: there must be two to choose from.")
    names = [tuple(dict.fromkeys(map(str, group))) for group in groups]
    _warn_of_labels(table, examples, names)
    multilabel = "a list" in shapes
    labels: list[Label] = list(names) if multilabel else [name for (name,) in names]
    examples = [Example(e.text, e.text_pair, label) for e, label in zip(examples, labels, strict=True)]
    kind = "multilabel" if multilabel else "classification"
    return Task(name, examples, tuple(classes), kind), list(classes.values())


def _warn_of_labels(table: Table, examples: Sequence[Example], labels: Sequence[tuple[str, ...]]) -> None:
    counts = Counter(name for names in labels for name in names)
    if single := [name for name, count in counts.items() if count == 1]:
        which = f"{_quoted(single)} in {table.source}"
        _warn(f"A single example of {which}: nothing can be estimated for such a class. Add at least one more.")
    same: dict[tuple[str, str | None], dict[frozenset[str], int]] = {}
    for i, (example, names) in enumerate(zip(examples, labels, strict=True)):
        same.setdefault((example.text, example.text_pair), {}).setdefault(frozenset(names), i)
    if clashes := [(text, list(found.values())) for (text, _), found in same.items() if len(found) > 1]:
        shown = [
            f"'{_short(text)}' ({', '.join(f'{table.at([i])}: {_quoted(labels[i])}' for i in indices[:3])})"
            for text, indices in clashes[:3]
        ]
        more = f" and {len(clashes) - 3} more" if len(clashes) > 3 else ""
        _warn(f"The same text has different labels in {table.source}: {'; '.join(shown)}{more}. Decide on one.")


def _split(cell: Any, separator: str | None) -> Any:
    if isinstance(cell, str) and separator:
        return [part.strip() for part in cell.split(separator)] if cell.strip() else []
    return cell


def _items(cell: Any) -> list[Any]:
    """The items of a list-like; of a set in an order that does not depend on hashes; none of anything else."""
    return sorted(cell, key=str) if isinstance(cell, _LISTS[2:]) else list(cell) if isinstance(cell, _LISTS) else []


def _problem(value: Any, what: str) -> str | None:
    if value is None:
        return "missing"
    if isinstance(value, str):
        broken = "not Unicode (it holds half of a surrogate pair)" if _SURROGATE.search(value) else None
        return "empty" if not value or value.isspace() else broken
    fraction = isinstance(value, Real) and not isinstance(value, Integral)
    if type(value).__name__ in ("NAType", "NaTType") or (fraction and math.isnan(value)):
        return "NaN (not a number)"
    usable = isinstance(value, (Real, np.bool_)) if what == "text" else type(value).__hash__ is not None
    return None if usable else f"not text but {_kind(value)}"


def _refuse(table: Table, column: str, what: str, problems: Sequence[str | None]) -> None:
    if problem := next(filter(None, problems), None):
        indices = [i for i, other in enumerate(problems) if other == problem]
        at, those = table.at(indices), f"that {table.unit}" if len(indices) == 1 else f"those {table.unit}s"
        found = f"{at[0].upper()}{at[1:]}, column '{column}': the {what} is {problem}."
        raise DataError(f"Tried to read the {what}s of {table.source}.", found, f"Write a {what} or remove {those}.")


def _table(
    where: str, columns: list[str], rows: list[dict[str, Any]], lines: Sequence[int], unit: str = "line"
) -> Table:
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        _fail(where, f"More than one column is named {_quoted(twice)}.", "Give every column a name of its own.")
    if not rows:
        _fail(where, f"It has a header ({_quoted(columns)}) but no rows.", "Add one example per line.")
    return Table(where, tuple(columns), rows, lines, unit)


def _optional(module: str, where: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        found, extra = (
            f"This needs {module.partition('.')[0]}, which is not installed.",
            "demo" if module == "yaml" else "data",
        )
        _fail(where, found, f"Run: pip install 'handful[{extra}]'")


def _fail(where: str, found: str, todo: str) -> NoReturn:
    raise DataError(f"Tried to read {where}.", found, todo)


def _warn(message: str) -> None:
    warnings.warn(message, HandfulWarning, stacklevel=5)


def _stem(source: str) -> str:
    return Path(source.removeprefix("package:")).name.split(".")[0] or source


def _kind(value: object) -> str:
    kinds: dict[str, Any] = {
        "true or false": (bool, np.bool_),
        "text": str,
        "a whole number": Integral,
        "a decimal number": Real,
    }
    kinds |= {"a list": _LISTS, "an object": dict, "null": type(None)}
    return next((name for name, types in kinds.items() if isinstance(value, types)), f"a {type(value).__name__}")


def _short(text: object, length: int = 60) -> str:
    line = " ".join(str(text)[: 2 * length].split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def _quoted(names: Iterable[object]) -> str:
    words = [f"'{_short(name)}'" for name in names]
    return ", ".join(words[:20] + ["..."] * (len(words) > 20)) or "none"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
