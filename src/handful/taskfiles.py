"""Tasks as the command line asks for them: rows read by their columns or through a definition, and asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from handful import definitions, sources
from handful.definitions import Definition
from handful.errors import RequestError
from handful.tables import read_table
from handful.templates import GIVEN, Template
from handful.types import Task


def load_task(
    source: str, *, columns: Mapping[str, Any], definition: str | Definition | None = None,
    separator: str | None = None, template: str | None = None, name: str | None = None, purpose: str = "train",
    fields: bool = False,
) -> Task:  # fmt: skip
    """A task to "train" on, to "test" on, or to "predict", whose labels are not read.

    `definition`, or its file or shipped name, says which columns are read, so that `columns` may not. `template` is the
    name of one of the definition's, a Jinja text with `{{ column }}`, or an encoder's text with `{text}`. Rows keep
    their columns for a definition or a Jinja text, or if `fields` is asked for.
    """
    fields = fields or is_prompt(template)
    if definition is not None:
        known = definition if isinstance(definition, Definition) else definitions.read(definition)
        given = {name: column for name, column in columns.items() if column is not None}
        if given or separator:
            asked = f"The rows of {source} were to be read through the definition {known.name}."
            found = f"--{next(iter(given), 'multilabel-separator').replace('_', '-')} was given too."
            raise RequestError(asked, found, "Leave it out, or write it in the definition.")
        split = "test" if purpose == "test" else "train"
        table = read_table(source, split, bare_strings=purpose == "predict")
        task = definitions.task_of(known, table, name, labelled=purpose != "predict")
    elif purpose == "test":
        task = sources.load_test(source, **columns, multilabel_separator=separator, fields=fields)
    elif purpose == "predict":
        own: dict[str, Any] = {key: columns.get(key) for key in ("text", "text_pair")}
        examples = sources.load_texts(source, **own, fields=fields)
        task = Task(name or source, examples, (), "classification" if examples[0].choices is None else "choice")
    else:
        name = name or Path(source).stem
        task = sources.load(source, **columns, name=name, multilabel_separator=separator, fields=fields)
    return with_template(task, template)


def is_prompt(template: str | None) -> bool:
    """Whether it is a text in Jinja, and not the name of a template or an encoder's text."""
    return template is not None and ("{{" in template or "{%" in template)


def with_template(task: Task, template: str | None) -> Task:
    """The task asked by a template: by the name of one of its own, or as a text in Jinja or for an encoder.

    RequestError for a text with no place to fill, which is likely to be a name that is not known.
    """
    if template is None:
        return task
    if own := [one for one in task.templates if one.name == template]:
        return replace(task, templates=own)
    if is_prompt(template):
        return replace(task, templates=(Template(prompt=template, name=GIVEN),))
    if task.templates and "{text" not in template:
        names = ", ".join(one.name for one in task.templates)
        todo = f"Give one of these, or a text with {{{{ column }}}} in it: {names}."
        raise RequestError(f"The task {task.name!r} was to be asked by {template!r}.", "It has no such template.", todo)
    return replace(task, template=template)
