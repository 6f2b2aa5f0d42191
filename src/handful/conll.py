"""CoNLL files: a word and its tag on a line, a blank line between sentences.

Fields are parted by tabs or, in a line without one, by spaces. The word is the first field, the tag the last one that
is a tag wherever it stands; where the first field only counts words, as in Universal NER's `.iob2`, the word is the
second. Comments (`# ...`) and `-DOCSTART-` lines are skipped. A prefix that all words share, as WikiAnn's `en:`, is
taken off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from handful.errors import DataError
from handful.tagging import is_tag

SUFFIXES = (".conll", ".conll03", ".conllu", ".iob", ".iob2", ".bio", ".bioes")
_PREFIX = re.compile(r"[a-z]{2,3}(-[a-z]+)*:(?=.)", re.DOTALL)
_TODO = "Write a word and its tag on each line, and a blank line between sentences."


@dataclass(frozen=True)
class _Line:
    number: int
    fields: Sequence[str]
    sentence: int


def parse(where: str, text: str) -> tuple[list[dict[str, Any]], list[int]]:
    """One row a sentence, `tokens` and `tags` (none where there is one field a line), and the line it starts in.

    DataError that names the line: a number of fields that differs, a word or tag that is missing, an unknown tag.
    """
    found = _lines(text)
    if not found:
        _fail(where, "No line holds a word.", _TODO)
    width = len(found[0].fields)
    if odd := next((line for line in found if len(line.fields) != width), None):
        said = f"Line {odd.number} has {len(odd.fields)} fields, line {found[0].number} has {width}."
        _fail(where, said, f"Mend the line. {_TODO}")
    place = 1 if width > 2 and _counts(found) else 0
    tag = _tag_column(where, found, place) if width > place + 1 else None
    words = [line.fields[place] for line in found]
    if empty := next((line for line, word in zip(found, words, strict=True) if not word.strip()), None):
        _fail(where, f"Line {empty.number} has no word.", _TODO)
    prefixes = {match[0] if (match := _PREFIX.match(word)) else "" for word in words}
    cut = len(prefixes.pop()) if len(prefixes) == 1 and len(words) > 1 else 0
    rows, lines, last = list[dict[str, Any]](), list[int](), -1
    for line, word in zip(found, words, strict=True):
        if line.sentence != last:
            rows.append({"tokens": []} if tag is None else {"tokens": [], "tags": []})
            lines.append(line.number)
            last = line.sentence
        rows[-1]["tokens"].append(word[cut:])
        if tag is not None:
            rows[-1]["tags"].append(line.fields[tag])
    return rows, lines


def _lines(text: str) -> list[_Line]:
    """Every line with a word. A `#` begins a comment unless the line has the fields of a word with a tag."""
    split = [(number, _fields(line)) for number, line in enumerate(text.split("\n"), 1)]
    widths = [len(fields) for _, fields in split if fields and not fields[0].startswith(("#", "-DOCSTART-"))]
    sentence, found = 0, list[_Line]()
    for number, fields in split:
        comment = bool(fields) and fields[0].startswith("#") and not _is_word(fields, widths)
        if not fields or fields[0].startswith("-DOCSTART-"):
            sentence += 1
        elif not comment:
            found.append(_Line(number, fields, sentence))
    return found


def _is_word(fields: Sequence[str], widths: Sequence[int]) -> bool:
    return len(fields) > 1 and widths[:1] == [len(fields)] and any(is_tag(field) for field in fields[1:])


def _fields(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    if not line.strip():
        return []
    return [field.strip(" ") for field in line.split("\t")] if "\t" in line else line.split()


def _counts(found: Sequence[_Line]) -> bool:
    """Whether the first fields count the words of each sentence, from 0 or 1."""
    place, last = 0, -1
    for line in found:
        place = place + 1 if line.sentence == last else 0
        last = line.sentence
        if line.fields[0] not in (str(place), str(place + 1)):
            return False
    return True


def _tag_column(where: str, found: Sequence[_Line], word: int) -> int:
    columns = range(len(found[0].fields) - 1, word, -1)
    chosen = max(columns, key=lambda c: sum(is_tag(line.fields[c]) for line in found))
    if wrong := next((line for line in found if not is_tag(line.fields[chosen])), None):
        said = f"Line {wrong.number}: {wrong.fields[chosen]!r} is not a tag of the schemes BIO, BIOES or BILOU."
        _fail(where, said, "Write O, or B-X and I-X for an entity of type X.")
    return chosen


def _fail(where: str, found: str, todo: str) -> NoReturn:
    raise DataError(f"Tried to read {where}.", found, todo)
