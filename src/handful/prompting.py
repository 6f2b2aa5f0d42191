"""What `handful prompt` shows: a row as a backbone sees it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from handful import definitions
from handful.console import out_console, print_json, quiet_libraries
from handful.errors import DataError, HandfulWarning, RequestError
from handful.tables import counted
from handful.taskfiles import load_task
from handful.templates import DEFAULTS, Template, answers, prefixes
from handful.types import Example, Task

if TYPE_CHECKING:
    from handful.backbone import Backbone

ALL = "all"
_MARKS = str.maketrans({"Ġ": "·", "▁": "·", "Ċ": "⏎", "\n": "⏎", "ĉ": "⇥"})
"""How pieces of byte-level and sentence-piece vocabularies write spaces, ends of lines and tabs, for people."""


@dataclass(frozen=True)
class Said:
    """A text in tokens."""

    text: str
    ids: list[int]
    pieces: list[str]


@dataclass(frozen=True)
class Tokens:
    """A row in tokens: the prompt as it was cut and framed, each choice, and what was cut of how much is read."""

    prompt: Said
    choices: list[Said]
    cut_characters: int
    limit: int


@dataclass(frozen=True)
class Seen:
    """A row under one template; `right` counts choices from 0."""

    template: str
    prompt: str
    choices: list[str]
    right: list[int]
    tokens: Tokens | None


def show(
    task: str, row: int, *, data: str | None, columns: Mapping[str, str | None], unlabelled: bool,
    template: str | None, backbone: str | None, as_json: bool,
) -> None:  # fmt: skip
    """`handful prompt`."""
    quiet_libraries()
    if data is None and definitions.is_definition(task):
        asked, found = f"The prompts of {task} were to be shown.", "It is a task definition, and no rows were given."
        raise RequestError(asked, found, "Give a file of rows with --data FILE.")
    given, source = (None, task) if data is None else (task, data)
    every = template == ALL
    purpose = "predict" if unlabelled else "test"
    read = load_task(
        source, definition=given, columns=columns, template=None if every else template, purpose=purpose
    )  # fmt: skip
    chosen = _templates(read, template)
    if not 1 <= row <= len(read.examples):
        rows = len(read.examples)
        raise RequestError(f"Row {row} of {source} was to be shown.", f"It has {rows} rows.", f"Give 1 to {rows}.")
    frozen = _backbone(backbone)
    example = read.examples[row - 1]
    shown = [seen(example, read.labels, one, row, frozen) for one in (chosen if every else chosen[:1])]
    if as_json:
        said = {"task": read.name, "kind": read.kind, "row": row, "rows": len(read.examples), "label": example.label}
        print_json(said | {"backbone": backbone, "prompts": [asdict(one) for one in shown]})
        return
    for one in shown:
        _show_one(one, f"{read.name}, row {row} of {len(read.examples)}, template {one.template}")
    if len(chosen) > len(shown):
        others = ", ".join(one.name for one in chosen[1:])
        out_console.print(Text(f"There are more templates: {others}. Choose one with --template, or all."))


def _templates(task: Task, template: str | None) -> Sequence[Template]:
    """The templates of a task, or its kind's own. RequestError for a kind that is not asked by prompts."""
    asked = f"The prompts of {task.name} were to be shown."
    if task.kind not in DEFAULTS:
        raise RequestError(asked, f"It is a {task.kind} task.", f"Prompts are of {', '.join(DEFAULTS)} tasks.")
    if task.kind == "classification" and not task.labels:
        todo = "Give rows with labels, or a definition that says its `labels`, and the rows with --data FILE."
        raise RequestError(asked, "What its labels are is not known.", todo)
    if task.template is not None:
        todo = "Write columns as {{ name }}."
        raise RequestError(asked, f"The template {template!r} has no such place to fill.", todo)
    return task.templates or (DEFAULTS[task.kind],)


def _backbone(id: str | None) -> Backbone | None:
    if id is None:
        return None
    from handful.backbone import shared

    return shared(id)


def seen(
    example: Example, labels: Sequence[str], template: Template, row: int, backbone: Backbone | None = None
) -> Seen:
    """A row under a template, in tokens too if there is a backbone. DataError as `Template.render`."""
    prompt = template.render(example, labels, f"row {row}")
    names = labels if example.choices is None else example.choices
    known = answers(example)
    right = [i for i, name in enumerate(names or known) if name in known]
    tokens = None if backbone is None else in_tokens(backbone, example, labels, template, row)
    return Seen(template.name, prompt.text, list(prompt.choices), right, tokens)


def in_tokens(backbone: Backbone, example: Example, labels: Sequence[str], template: Template, row: int) -> Tokens:
    """A row as `choices.encode_choices` gives it to the backbone, in tokens. DataError for one that is too long."""
    from handful.choices import speak

    tokenizer: Any = backbone.tokenizer
    limit = backbone.max_length
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HandfulWarning)  # they would call it row 1, and are said below
            (spoken,) = speak(backbone, [example], labels, template, limit=limit, end=True)
    except DataError as error:
        asked = f"The prompt of row {row} was to be read by {backbone.id!r}, which reads {limit} tokens."
        raise DataError(asked, error.found, error.todo) from error

    def said(ids: Sequence[int]) -> Said:
        own = list(ids)
        return Said(str(tokenizer.decode(own)), own, list(tokenizer.convert_ids_to_tokens(own)))

    return Tokens(said(spoken.prompt), [said(ids) for ids in spoken.choices], spoken.cut, limit)


# -- showing -----------------------------------------------------------------------------------------------------------


def _show_one(one: Seen, title: str) -> None:
    text = one.prompt if one.tokens is None else one.tokens.prompt.text
    out_console.print(Panel(Text(text), title=Text(title), title_align="left"))
    table = Table("", "", *([""] * 2 if one.tokens else []), box=None, show_header=False, padding=(0, 1))
    for i, choice in enumerate(one.choices):
        mark = "→" if i in one.right else ""
        own = one.tokens.choices[i] if one.tokens else None
        cells = [] if own is None else [counted(len(own.ids), "token"), _pieces(own)]
        table.add_row(mark, Text(choice), *cells)
    if one.choices:
        out_console.print(table)
    if one.tokens is not None:
        _show_tokens(one.tokens)
    if pair := prefixes(one.choices):
        out_console.print(Text(f"note: {pair[0]!r} is the beginning of {pair[1]!r}", style="yellow"))
    out_console.print()


def _show_tokens(tokens: Tokens) -> None:
    own = tokens.prompt
    cut = f"{counted(tokens.cut_characters, 'character')} cut" if tokens.cut_characters else "nothing cut"
    out_console.print(Text(f"{counted(len(own.ids), 'token')} of the prompt; the backbone reads {tokens.limit}; {cut}"))
    out_console.print(_pieces(own))
    out_console.print(Text(" ".join(map(str, own.ids)), style="dim"))


def _pieces(said: Said) -> Text:
    """Pieces side by side; a space that belongs to one is a dot."""
    styles = ("", "cyan")
    return Text(" ").join(Text(piece.translate(_MARKS), style=styles[i % 2]) for i, piece in enumerate(said.pieces))
