"""Task definitions: what a table's columns mean and how its rows become prompts, as a small YAML file or in Python.

    kind: choice                          # or classification, or generation
    text: premise                         # what an encoder reads, and `text` in templates; text_pair likewise
    choices: [choice1, choice2]           # columns, or one column that holds lists
    label: label                          # the right one: its number, counted from 0, or its text
    templates:
      - prompt: "{{ premise }} What was the {{ question }}?"
        answer: "{{ choice }}"

`labels` names the classes of a classification in the order in which numbers count them. The definitions that come with
the package are in its folder `tasks` and go by their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from handful.checks import clipped, items, problem, refuse
from handful.choicerows import choices_of, fields_of, right_of
from handful.errors import DataError, RequestError
from handful.tables import LISTS, Table, kind_of, quoted, short
from handful.templates import DEFAULTS, Template, asked_for, compiled
from handful.types import Example, Label, Task

Kind = Literal["classification", "choice", "generation"]
METRICS = {
    "classification": ("accuracy",),
    "choice": ("accuracy",),
    "generation": ("exact_match", "rouge_l", "f1"),
}
"""What may be measured, by kind; the first is what is measured where nothing is said."""
_TODO = "See the definitions of handful's folder 'tasks' for examples."


class Definition(BaseModel):
    """How rows are read and asked. RequestError for what cannot be.

    text, text_pair  columns; where there is no text, it is made of the columns that templates ask for
    choices          of a choice task: a column that holds lists, or a list of columns
    label            the column of the right answer; of a generation task it may hold a list of all that are right
    labels           of a classification: its classes in order; as they first appear where none are given
    templates        several ways to ask; the kind's default (`templates.DEFAULTS`) where none are given
    metric           what its results are measured by
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)
    name: str = Field(default="task", min_length=1)
    kind: Kind
    text: str | None = None
    text_pair: str | None = None
    choices: str | list[str] | None = None
    label: str = "label"
    labels: list[str] | None = None
    templates: list[Template] = Field(default_factory=list[Template])
    metric: Literal["accuracy", "exact_match", "rouge_l", "f1"] | None = None

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise RequestError("A task was to be defined.", _said(error), _TODO) from error

    @property
    def measure(self) -> str:
        return self.metric or METRICS[self.kind][0]

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for found, todo in self._problems():
            raise RequestError("A task was to be defined.", found, todo)
        for template in self.templates:
            compiled(template.prompt)
            compiled(template.answer)
            if self.kind == "classification" and self.labels:
                template.worded(self.labels)
        return self

    def _problems(self) -> Iterator[tuple[str, str]]:
        needs = {"choice": "choices"}.get(self.kind)
        only = {"choices": "choice", "labels": "classification"}
        for key, kind in only.items():
            if getattr(self, key) is not None and self.kind != kind:
                yield f"{key}: a {self.kind} task has none.", f"Leave it out, or make the kind {kind}."
        if needs and not self.choices:
            yield f"{needs}: it is not given.", "Name the column that holds a list of them, or a list of columns."
        for key in ("choices", "labels"):
            own = getattr(self, key)
            if isinstance(own, list) and (len(own) < 2 or len(set(own)) < len(own)):
                yield f"{key}: it has fewer than two names, or the same twice: {quoted(own)}.", "Give different ones."
        if self.labels and (empty := [i for i, name in enumerate(self.labels, 1) if not name.strip()]):
            yield f"labels: number {empty[0]} is empty.", "Give every class a name."
        if self.measure not in METRICS[self.kind]:
            yield f"metric: {self.metric} is not for {self.kind} tasks.", f"Choose {' or '.join(METRICS[self.kind])}."
        names = [template.name for template in self.templates]
        if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
            yield f"templates: two are called '{twice}'.", "Give every template a name of its own."
        for i, template in enumerate(self.templates):
            if stray := [word for word in template.words if word not in (self.labels or template.words)]:
                yield (
                    f"templates.{i}.words: {quoted(stray)} is no label; the labels are {quoted(self.labels or ())}.",
                    "Write the labels as they are in `labels`.",
                )


def shipped() -> list[str]:
    """Names of the definitions that come with the package."""
    return sorted(own.name.removesuffix(".yaml") for own in (files("handful") / "tasks").iterdir())


def is_definition(source: str | Path) -> bool:
    """Whether this names a definition: a YAML file, or one of `shipped` unless there is a file of that name."""
    return Path(source).suffix.lower() in (".yaml", ".yml") or (str(source) in shipped() and not Path(source).is_file())


def read(source: str | Path) -> Definition:
    """A definition by its file or by its shipped name. RequestError names the file, the line and the key."""
    from yaml import SafeLoader, YAMLError, compose, safe_load

    asked, text = f"Tried to read the task definition {source}.", _text(source)
    places: dict[tuple[Any, ...], int] = {}
    try:
        _mark(compose(text, Loader=SafeLoader), (), places, set())
        raw = safe_load(text)
    except (YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or short(error)
        raise RequestError(asked, f"{_at(mark)}it is not YAML: {why}.", _TODO) from error
    if not isinstance(raw, dict):
        raise RequestError(asked, f"It holds {kind_of(raw)}, not keys and values.", _TODO)
    given = {str(key): value for key, value in raw.items()}
    try:
        return Definition(**{"name": Path(source).stem, **given})
    except RequestError as error:
        key = tuple(int(part) if part.isdecimal() else part for part in error.found.partition(":")[0].split("."))
        line = next((places[key[:i]] for i in range(len(key), 0, -1) if key[:i] in places), None)
        found = error.found if line is None else f"Line {line}, {error.found}"
        if not error.asked.startswith("A task was"):  # what templates.py says of a template names it already
            found = f"{error.asked} {error.found}"
        raise RequestError(asked, found, error.todo) from error


def task_of(definition: Definition, table: Table, name: str | None = None, *, labelled: bool = True) -> Task:
    """The task of a table's rows. With `labelled=False` the labels are not read and none have to be there.

    Every Example holds its row's columns as `fields`, but for that of the label. DataError that names the line.
    """
    for key, columns in _columns(definition, labelled):
        if missing := [column for column in columns if column not in table.columns]:
            asked = f"The task definition '{definition.name}' was to read {table.source}; {key}: {quoted(columns)}."
            found = f"It has no column {quoted(missing)}; its columns are {quoted(table.columns)}."
            raise DataError(asked, found, "Correct the definition, or the header of the table.")
    fields = fields_of(table, definition.label)
    pairs = _texts(definition, table, definition.text_pair or "text_pair")
    texts = _texts(definition, table, definition.text or "text") or _made(definition, table, fields)
    choices = choices_of(table, definition.choices) if definition.choices else None
    labels, names = _labels(definition, table, choices) if labelled else (None, tuple(definition.labels or ()))
    examples = [
        Example(
            text, pairs[i] if pairs else None, labels[i] if labels else None, None, fields[i],
            choices[i] if choices else None,
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip
    templates = tuple(definition.templates) or (DEFAULTS[definition.kind],)
    return Task(name or definition.name, examples, names, definition.kind, None, templates)


def _columns(definition: Definition, labelled: bool) -> Iterator[tuple[str, list[str]]]:
    """Which columns each key of the definition needs."""
    choices = definition.choices or []
    yield "choices", [choices] if isinstance(choices, str) else choices
    yield "label", [definition.label] if labelled else []
    yield "text", [definition.text] if definition.text else []
    yield "text_pair", [definition.text_pair] if definition.text_pair else []


def _texts(definition: Definition, table: Table, column: str) -> list[str] | None:
    """A column of texts; None where there is none of the name, and it was not asked for (`task_of` has checked)."""
    if column not in table.columns or column == definition.label:
        return None
    cells = [clipped(row.get(column)) for row in table.rows]
    refuse(table, column, "text", [problem(cell, "text") for cell in cells])
    return [str(cell) for cell in cells]


def _made(definition: Definition, table: Table, fields: list[dict[str, str]]) -> list[str]:
    """A text of the columns that the templates ask for, a line each, so that no other column gives the answer away."""
    wanted = {name for template in definition.templates for name in asked_for(template.prompt)}
    columns = [column for column in table.columns if column in wanted and column != definition.label]
    if not columns:
        asked = f"The task definition '{definition.name}' was to read {table.source}."
        found = f"It says no text, and no template asks for one of the columns {quoted(table.columns)}."
        raise DataError(asked, found, "Name a column as `text`.")
    return ["\n".join(f"{column}: {own[column]}" for column in columns) for own in fields]


def _labels(
    definition: Definition, table: Table, choices: list[tuple[str, ...]] | None
) -> tuple[list[Label], tuple[str, ...]]:
    """The label of every row, and the task's classes."""
    column = definition.label
    if choices is not None:
        return list(right_of(table, column, choices)), ()
    if definition.labels:
        names = tuple(definition.labels)
        return list(right_of(table, column, [names] * len(table.rows), "label")), names
    cells = [row.get(column) for row in table.rows]
    if definition.kind == "generation":
        groups = [items(cell) if isinstance(cell, LISTS) else [cell] for cell in cells]
        wrong = [next(filter(None, (problem(own, "text") for own in group or [None])), None) for group in groups]
        refuse(table, column, "label", wrong)
        return [tuple(map(str, group)) if len(group) > 1 else str(group[0]) for group in groups], ()
    refuse(table, column, "label", [problem(cell, "label") for cell in cells])
    labels = [str(cell) for cell in cells]
    return list(labels), tuple(dict.fromkeys(labels))


# -- reading YAML ------------------------------------------------------------------------------------------------------


def _text(source: str | Path) -> str:
    path = Path(source).expanduser()
    if str(source) in shipped() and not path.is_file():
        return (files("handful") / "tasks" / f"{source}.yaml").read_text(encoding="utf-8")
    asked = f"Tried to read the task definition {source}."
    todo = f"Give a YAML file, or one of {', '.join(shipped())}."
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(asked, f"Byte {error.start + 1} is not UTF-8.", "Save it as UTF-8.") from error
    except OSError as error:
        raise RequestError(asked, f"The system says: {error.strerror or error}.", todo) from error


def _mark(node: Any, key: tuple[Any, ...], places: dict[tuple[Any, ...], int], seen: set[int]) -> None:
    """Notes the line of every key; ValueError for one that appears twice, of which YAML would drop the first."""
    if node is None or id(node) in seen:  # what an alias repeats
        return
    seen.add(id(node))
    places.setdefault(key, node.start_mark.line + 1)
    if node.id == "mapping":
        names = [own.value if own.id == "scalar" else "" for own, _ in node.value]
        if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
            raise ValueError(f"the key '{twice}' appears twice from line {node.start_mark.line + 1} on")
        for (own, value), name in zip(node.value, names, strict=True):
            places[(*key, name)] = own.start_mark.line + 1
            _mark(value, (*key, name), places, seen)
    elif node.id == "sequence":
        for i, value in enumerate(node.value):
            _mark(value, (*key, i), places, seen)


def _at(mark: Any) -> str:
    return "" if mark is None else f"Line {mark.line + 1}, column {mark.column + 1}: "


def _said(error: ValidationError) -> str:
    """The first thing that is wrong: the key, and what of it."""
    first = error.errors(include_url=False)[0]
    key, given, kind = ".".join(map(str, first["loc"])), first["input"], first["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = list(Template.__dataclass_fields__ if key.startswith("templates") else Definition.model_fields)
        return f"{key}: there is no such key; there are {', '.join(known)}."
    if kind == "missing":
        return f"{key}: it is not given."
    if isinstance(given, bool):
        return f"{key}: it is true or false, not text; YAML takes an unquoted yes, no, on or off for these: quote it."
    wanted = first["msg"].replace("Input should", "it should")
    return f"{key}: {wanted[0].lower()}{wanted[1:]}; it is {_shown(given)}."


def _shown(given: Any) -> str:
    return f"'{short(given)}'" if isinstance(given, (str, int, float)) else kind_of(given)
