"""Files, installed packages and hub data sets -> tables of rows; the only reader of data.

A source is one of

    train.csv  .tsv  .jsonl  .txt  .parquet     a file, UTF-8; each but parquet may also end in .gz
    train.conll  .iob2  .bio                    words and their tags, as `conll` says
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
import os
import re
import sys
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

from handful import conll
from handful.errors import DataError

_TOPICS = ("trivia", "coding", "psychology", "ai", "emotion")
_JSON = (".jsonl", ".ndjson", ".json", ".jsonlines", ".json-lines")
_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", *_JSON, *conll.SUFFIXES)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+(:[\w.-]+)?|:[\w.-]+)")
LISTS: tuple[Any, ...] = (list, tuple, set, frozenset)
"""What counts as a list of labels or texts; the sets come last."""


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


def read_table(
    source: str | Path, split: str = "train", *, bare_strings: bool = False, tagged: bool = False
) -> Table:  # fmt: skip
    """Every column and row of a source, with line numbers (row numbers where there are no lines). Raises DataError.

    `bare_strings` lets a JSON line be a string, read as the column `text`. `tagged` reads a file without an ending as
    CoNLL.
    """
    if str(source).startswith("package:"):
        return _package(str(source))
    path, where = Path(source).expanduser(), "standard input" if str(source) == "-" else str(source)
    suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() != ".gz"), "")
    if isinstance(source, str) and suffix not in _SUFFIXES and not os.path.exists(path) and _HUB.fullmatch(source):
        return _hub(source, split)
    raw = sys.stdin.buffer.read() if str(source) == "-" else _bytes(path, where)
    if not raw.removeprefix(b"\xef\xbb\xbf").strip():
        fail(where, "It is empty.", "Give it a header line, such as 'text,label', and one example per line.")
    if suffix == ".parquet":
        return _parquet(where, raw)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        head = error.object[: error.start]
        line, byte = head.count(b"\n") + 1, len(head) - head.rfind(b"\n")
        found = f"Line {line}, byte {byte}: 0x{error.object[error.start]:02x} is not UTF-8."
        fail(where, found, "Save it as UTF-8 (in a spreadsheet: 'CSV UTF-8').")
    if suffix in conll.SUFFIXES or (tagged and not suffix):
        rows, lines = conll.parse(where, text)
        return _table(where, list(rows[0]), rows, lines)
    if suffix in _JSON or (not suffix and text.lstrip().startswith("{")):
        return _jsonl(where, text, bare_strings)
    if suffix == ".txt":
        lines = text.removesuffix("\n").split("\n")
        return _table(where, ["text"], [{"text": line.rstrip("\r")} for line in lines], range(1, len(lines) + 1))
    if suffix not in (".csv", ".tsv", ""):
        fail(where, f"'{suffix}' is not a format that can be read.", f"Save it as one of {', '.join(_SUFFIXES[:5])}.")
    return _csv(where, text, suffix)


def _bytes(path: Path, where: str) -> bytes:
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.name.lower().removesuffix(".gz").endswith(_SUFFIXES))
            found = f"It is a directory{' that holds ' + quoted(inside[:5]) if inside else ''}."
            fail(where, found, f"Name one file in it, such as {path / inside[0]}." if inside else "Name a file.")
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw
    except FileNotFoundError:
        todo = f"Check the path, seen from {Path.cwd()}. A data set of the hub is written owner/name or name:config."
        fail(where, "There is no such file.", todo)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        fail(where, f"{getattr(error, 'strerror', None) or error}.", "Check that it can be read and is not cut off.")


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
            fail(where, f"Line {start}{upto}: {reason}.", 'Write "..." around a field and "" for a quote inside it.')
        if fields is None:
            return _table(where, header, rows, lines)
        if header and fields and len(fields) != len(header):
            found = f"Line {start} has {counted(len(fields), 'field')}, the header has {len(header)}: {quoted(header)}."
            mark = "a tab" if delimiter == "\t" else f"'{delimiter}'"
            fail(where, found, f"Mend the line; a text that holds {mark} needs double quotes around it.")
        if header and fields:
            rows.append(dict(zip(header, fields, strict=True)))
            lines.append(start)
        header = header or fields


def _jsonl(where: str, text: str, bare_strings: bool) -> Table:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise ValueError(f"the name '{short(twice)}' appears twice")
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
                fail(where, f"Line {number}, character {error.colno}: the JSON is broken ({error.msg}).", todo)
            except (ValueError, RecursionError) as error:
                fail(where, f"Line {number}: the JSON cannot be read ({error}).", todo)
            if bare_strings and isinstance(row, str):
                row = {"text": row}
            if not isinstance(row, dict):
                fail(where, f"Line {number} is {kind_of(row)}, not a JSON object.", todo)
            rows.append(cast("dict[str, Any]", row))
            lines.append(number)
    return _table(where, list(dict.fromkeys(key for row in rows for key in row)), rows, lines)


def _parquet(where: str, raw: bytes) -> Table:
    parquet = _optional("pyarrow.parquet", where)
    try:
        return _arrow(where, parquet.read_table(io.BytesIO(raw)))
    except (OSError, ValueError, TypeError, NotImplementedError) as error:  # what pyarrow's errors derive from
        fail(where, f"It is not a sound parquet file: {short(error)}.", "Write it, or download it, again.")


def _hub(source: str, split: str) -> Table:
    datasets = _optional("datasets", source)
    name, _, config = source.partition(":")
    try:
        data = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the hub's client raises errors of many libraries
        todo = "Check the name, the config, the split and the network. If you meant a file: there is none of this name."
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            todo += " HF_HUB_OFFLINE is set, so only what was downloaded before can be read."
        fail(f"split '{split}' of the hub data set {source}", f"It cannot be had: {short(error, 200)}.", todo)
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
        fail(source, "There is no such package of examples here.", todo)
    yaml, topics = _optional("yaml", source), dict[str, str]()
    for topic in _TOPICS:
        path = Path(spec.submodule_search_locations[0], "data", "english", f"{topic}.yml")
        for conversation in yaml.safe_load(_bytes(path, str(path)))["conversations"]:
            topics.setdefault(str(conversation[0]), topic)
    rows = [{"text": text, "label": topic} for text, topic in topics.items()]
    return _table(source, ["text", "label"], rows, range(1, len(rows) + 1), "row")


def _table(
    where: str, columns: list[str], rows: list[dict[str, Any]], lines: Sequence[int], unit: str = "line"
) -> Table:
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        fail(where, f"More than one column is named {quoted(twice)}.", "Give every column a name of its own.")
    if not rows:
        fail(where, f"It has a header ({quoted(columns)}) but no rows.", "Add one example per line.")
    return Table(where, tuple(columns), rows, lines, unit)


def _optional(module: str, where: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        found, extra = (
            f"This needs {module.partition('.')[0]}, which is not installed.",
            "demo" if module == "yaml" else "data",
        )
        fail(where, found, f"Run: pip install 'handful[{extra}]'")


def fail(where: str, found: str, todo: str) -> NoReturn:
    raise DataError(f"Tried to read {where}.", found, todo)


def kind_of(value: object) -> str:
    kinds: dict[str, Any] = {
        "true or false": (bool, np.bool_),
        "text": str,
        "a whole number": Integral,
        "a decimal number": Real,
    }
    kinds |= {"a list": LISTS, "an object": dict, "null": type(None)}
    return next((name for name, types in kinds.items() if isinstance(value, types)), f"a {type(value).__name__}")


def short(text: object, length: int = 60) -> str:
    line = " ".join(str(text)[: 2 * length].split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def quoted(names: Iterable[object]) -> str:
    words = [f"'{short(name)}'" for name in names]
    return ", ".join(words[:20] + ["..."] * (len(words) > 20)) or "none"


def counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
