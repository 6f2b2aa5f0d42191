"""What a benchmark takes: a folder with the answers to each task's test rows, written whole, and checked.

README.md                     between two lines of `---`: `benchmark`, `type: prediction` and `submission_name`
data/TASK/predictions.csv     the columns `ID`, a whole number of the test split, and `Label`, the name of a class
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from handful.errors import ArtifactError, DataError, RequestError
from handful.folders import check_target, replace_folder

WHAT = "submission"
CARD, ANSWERS = "README.md", "predictions.csv"
HEADER = ["ID", "Label"]
UNLABELLED = "Unlabeled"
"""What the benchmark writes where a label is not told."""
_DIGITS = 18


@dataclass(frozen=True)
class Expected:
    """What is known of a task's answers: its classes, its test rows; () and None where they are not."""

    classes: tuple[str, ...] = ()
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a submission, and in which file and line, 0 where it is of no line."""

    file: str
    line: int
    found: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.found}"


def write(
    folder: Path, benchmark: str, name: str, answers: Mapping[str, Sequence[tuple[int, str]]]
) -> Path:  # fmt: skip
    """Writes the answers `(ID, class)` of each task, whole or not at all; returns the folder.

    RequestError for a name that is empty; ArtifactError, with the folder as it was, where it holds anything that is not
    an older submission, such as the `.git` of a repository.
    """
    check_name(name)
    check_out(folder, benchmark)

    def fill(temporary: Path) -> None:
        import yaml

        about = {"benchmark": benchmark, "type": "prediction", "submission_name": name}
        text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
        (temporary / CARD).write_text(f"---\n{text}---\n", encoding="utf-8")
        for task, rows in answers.items():
            place = temporary / "data" / task
            place.mkdir(parents=True)
            with (place / ANSWERS).open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])

    return replace_folder(folder, WHAT, fill)


def check_name(name: str) -> None:
    """RequestError unless this can be the name of a submission."""
    if not name.strip() or not name.isprintable():
        raise RequestError(f"The submission was to be called {name!r}.", "That is no line of text.", "Give it a name.")


def check_out(folder: Path, benchmark: str) -> None:
    """ArtifactError unless `folder` can be made, is empty or holds nothing but a submission to this benchmark."""
    if not folder.is_dir() or not any(folder.iterdir()):
        check_target(folder, WHAT)
        return
    inside = [own.relative_to(folder).parts for own in sorted(folder.rglob("*"))]
    strange = [own for own in inside if own != (CARD,) and (own[0] != "data" or own[2:] not in ((), (ANSWERS,)))]
    about = front_matter(folder / CARD)
    if strange or about is None or about.get("benchmark") != benchmark:
        what = f"{'/'.join(strange[0])}, which is not of a {WHAT}" if strange else f"no {WHAT} to {benchmark}"
        raise ArtifactError(
            f"The {WHAT} was to be saved in {folder}.", f"It holds {what}.",
            "Choose a new folder; copy its README.md and data into a repository afterwards.",
        )  # fmt: skip


def validate(folder: Path, benchmark: str, tasks: Mapping[str, Expected]) -> list[Problem]:
    """Everything that is wrong with a submission, none of it hiding another; DataError where there is no folder."""
    if not folder.is_dir():
        raise DataError(
            f"A {WHAT} was to be checked in {folder}.", "There is no such folder.", "Give the one with README.md in it."
        )
    found = list(_card(folder / CARD, benchmark))
    for task, expected in tasks.items():
        found += _answers(folder / "data" / task / ANSWERS, f"data/{task}/{ANSWERS}", expected)
    inside = sorted(own.name for own in (folder / "data").iterdir()) if (folder / "data").is_dir() else []
    for name in inside:
        if name not in tasks and not name.startswith("."):
            found.append(Problem(f"data/{name}", 0, f"it is no task; the tasks are {', '.join(tasks)}"))
    return found


def front_matter(file: Path) -> dict[str, Any] | None:
    """The keys and values between the first two lines of `---` of a page; None where there are none."""
    import yaml

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        end = lines.index("---", 1) if lines[:1] == ["---"] else 0
        about = yaml.safe_load("\n".join(lines[1:end]))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return cast("dict[str, Any]", about) if isinstance(about, dict) else None


def _card(file: Path, benchmark: str) -> Iterator[Problem]:
    if not file.is_file():
        yield Problem(CARD, 0, "there is no such file")
        return
    about = front_matter(file)
    if about is None:
        yield Problem(CARD, 1, "it does not begin with keys and values between two lines of ---")
        return
    lines = file.read_text(encoding="utf-8").splitlines()
    for key, wanted in {"benchmark": benchmark, "type": "prediction", "submission_name": None}.items():
        line = next((i for i, own in enumerate(lines, 1) if own.startswith(f"{key}:")), 1)
        value = about.get(key)
        if key not in about:
            yield Problem(CARD, 1, f"it does not say {key}" + (f": {wanted}" if wanted else ""))
        elif wanted is not None and value != wanted:
            yield Problem(CARD, line, f"{key} is {value!r}, not {wanted!r}")
        elif not isinstance(value, str) or not value.strip():
            yield Problem(CARD, line, f"{key} is {value!r}, not a text")


def _answers(path: Path, file: str, expected: Expected) -> Iterator[Problem]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        yield Problem(file, error.object[: error.start].count(b"\n") + 1, "it is not UTF-8")
        return
    except OSError as error:
        said = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        yield Problem(file, 0, said)
        return
    rows, broken = _rows(text)
    if not rows and not broken:
        yield Problem(file, 0, "it is empty")
        return
    if rows and rows[0][1] != HEADER:
        yield Problem(file, rows[0][0], f"the columns are {_cells(rows[0][1])}, not {_cells(HEADER)}")
    elif rows:
        yield from _body(file, rows[1:], expected)
    if broken:
        yield Problem(file, broken[0], f"it cannot be read on from here: {broken[1]}")


def _rows(text: str) -> tuple[list[tuple[int, list[str]]], tuple[int, str] | None]:
    """The rows with the lines that they begin in, up to where the file is no CSV, and why it is none there."""
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            return rows, (start, str(error))
        if row is None:
            return rows, None
        if row:
            rows.append((start, row))


def _body(file: str, rows: Sequence[tuple[int, list[str]]], expected: Expected) -> Iterator[Problem]:
    if not rows:
        yield Problem(file, 0, "it has a header and no rows")
        return
    lines: dict[int, int] = {}
    known = None if expected.ids is None else set(expected.ids)
    for line, row in rows:
        if len(row) != len(HEADER):
            yield Problem(file, line, f"it has {len(row)} cells, not {len(HEADER)}")
            continue
        said, label = row
        if not (said.isascii() and said.isdigit() and len(said) <= _DIGITS):
            yield Problem(file, line, f"the ID {said[:40]!r} is no whole number" if said else "the ID is missing")
        elif int(said) in lines:
            yield Problem(file, line, f"the ID {int(said)} is in line {lines[int(said)]} already")
        else:
            lines[int(said)] = line
            if known is not None and int(said) not in known:
                yield Problem(file, line, f"the ID {int(said)} is not in the test split")
        if why := _wrong(label, expected.classes):
            yield Problem(file, line, why)
    if expected.ids is not None:
        if len(rows) != len(expected.ids):
            yield Problem(file, 0, f"it has {len(rows):,} rows, the test split has {len(expected.ids):,}")
        if lacking := [own for own in expected.ids if own not in lines]:
            shown = ", ".join(map(str, lacking[:10])) + (f" and {len(lacking) - 10:,} more" if lacking[10:] else "")
            yield Problem(file, 0, f"there is no row with the ID {shown}")


def _wrong(label: str, classes: Sequence[str]) -> str | None:
    if not label.strip():
        return "the label is missing"
    if label == UNLABELLED or (classes and label not in classes):
        known = f"; the classes are {_cells(classes[:10])}{' ...' if classes[10:] else ''}" if classes else ""
        return f"the label {label[:60]!r} is no class{known}"
    return None


def _cells(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names) or "none"
