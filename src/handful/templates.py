"""Rows -> prompts and the words of their choices: Jinja templates in a sandbox, which run no code and read no file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from handful.errors import DataError, HandfulWarning, RequestError
from handful.types import Example

if TYPE_CHECKING:
    from jinja2 import Template as Compiled

LONGEST = 1_000_000
"""Most characters that a template may be filled to, and most characters or items that a product in it may give."""
_PADDING = frozenset({"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"})
"""Methods and filters that make a text as long as they are told to."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """How a row becomes a prompt, and how its choices are written after it.

    prompt  Jinja over the row's columns, `text`, `text_pair` ("" where there is none) and `choices`, all their words
    answer  Jinja over the same and `choice`, the word of one
    words   label -> word; where it is empty, labels and a row's own choices are their own words
    cut     the column that is shortened, from its end, where a prompt is too long; None: the longest one
    chat    whether the prompt is what a user says to an instruction-tuned decoder, in that decoder's own format
    """

    prompt: str
    answer: str = "{{ choice }}"
    words: Mapping[str, str] = field(default_factory=dict[str, str])
    cut: str | None = None
    chat: bool = False
    name: str = "default"

    def render(self, example: Example, labels: Sequence[str], where: str = "a row", only: int | None = None) -> Prompt:
        """The prompt of a row and the text of each choice: the row's own, or the task's `labels`.

        Where there are neither, as in generation tasks, the choices are the answers that count as right, if known.
        With `only` the text of the choice of that position is all that follows the prompt.
        DataError names the row by `where` for a column that it lacks, and for choices that are empty or alike.
        """
        known, free = columns(example), example.choices is None and not labels
        words = self.worded(answers(example) if free else labels if example.choices is None else example.choices)
        asked = f"The template {self.name!r} was to be filled from {where}."
        text = fill(self.prompt, known | {"choices": words}, asked)
        said = words if only is None else words[only : only + 1]
        choices = tuple(fill(self.answer, known | {"choices": words, "choice": word}, asked) for word in said)
        check_choices(choices, where, fewest=1 if only is not None else 0 if free else 2)
        return Prompt(text, choices)

    def worded(self, labels: Sequence[str]) -> list[str]:
        """The word of each label. RequestError for labels that have none."""
        if lacking := [label for label in labels if self.words and label not in self.words]:
            raise RequestError(
                f"Words were looked for in the template {self.name!r}.",
                f"It has none for {', '.join(map(repr, lacking[:5]))}; it has them for {', '.join(self.words)}.",
                "Give every label a word, or none of them.",
            )
        return [self.words.get(label, label) for label in labels]

    def to_dict(self) -> dict[str, Any]:
        """What `Template(**...)` makes it from again."""
        return asdict(self) | {"words": dict(self.words)}


@dataclass(frozen=True)
class Prompt:
    """A row as the backbone sees it: what comes before the answer, and what could be the answer."""

    text: str
    choices: tuple[str, ...]


def prompts_of(
    examples: Sequence[Example], labels: Sequence[str], template: Template, *,
    rows: Sequence[int] | None = None, only: Sequence[int] | None = None,
) -> list[Prompt]:  # fmt: skip
    """The prompt of every row, as `Template.render` gives it; `rows` are their numbers, from 1 on if not given.

    Warns once (HandfulWarning) where a choice goes on from another of its row, naming the first such row.
    """
    rows, chosen = rows or range(1, len(examples) + 1), only or [None] * len(examples)
    found = [
        template.render(example, labels, f"row {row}", choice)
        for example, row, choice in zip(examples, rows, chosen, strict=True)
    ]
    pairs: dict[tuple[str, ...], tuple[str, str] | None] = {}  # most tasks have the same choices in every row
    for prompt in found:
        if prompt.choices not in pairs:
            pairs[prompt.choices] = prefixes(prompt.choices)
    if odd := [i for i, prompt in enumerate(found) if pairs[prompt.choices]]:
        short, long = pairs[found[odd[0]].choices] or ("", "")
        more = f" ({len(odd)} rows have such choices)" if len(odd) > 1 else ""
        warnings.warn(
            f"Row {rows[odd[0]]}: the choice {short!r} is the beginning of {long!r}{more}, and is told from it only by "
            "its end. Word them differently by `words` of the template, or end them by its `answer`: '{{ choice }}.'",
            HandfulWarning, stacklevel=2,
        )  # fmt: skip
    return found


CLASSIFICATION = Template(
    prompt=(
        'Which label does the text have: {{ choices | join(", ") }}?\n'
        "Text: {{ text }}\n{% if text_pair %}Second text: {{ text_pair }}\n{% endif %}Label:"
    )
)
CHOICE = Template(prompt="{{ text }}\n{% if text_pair %}{{ text_pair }}\n{% endif %}Answer:")
GIVEN = "given"
"""The name of a template that was given as a text."""
DEFAULTS = {"classification": CLASSIFICATION, "choice": CHOICE, "generation": CHOICE}
"""What works for any table, by the kind of its task."""


def answers(example: Example) -> tuple[str, ...]:
    """The label, or labels, of a row as a tuple; none where it is not known."""
    return (example.label,) if isinstance(example.label, str) else example.label or ()


def columns(example: Example) -> dict[str, str]:
    """What a template may ask for of a row, by name."""
    return {**(example.fields or {}), "text": example.text, "text_pair": example.text_pair or ""}


def fill(template: str, given: Mapping[str, Any], asked: str) -> str:
    """A template with its places filled. DataError, which begins with `asked`, where that cannot be done."""
    from jinja2 import TemplateError

    try:
        pieces, length = list[str](), 0
        for piece in compiled(template).generate(given):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST:
                raise TemplateError(f"it gives more than {LONGEST:,} characters")
        return "".join(pieces)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError) as error:
        names = ", ".join(sorted(given))
        raise DataError(asked, f"Jinja says: {str(error).rstrip('.')}.", f"A template may ask for {names}.") from error


@cache
def compiled(template: str) -> Compiled:
    """A template that is ready to be filled. RequestError for one that is not Jinja."""
    from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**", "%"})  # one line of them can fill all memory

        def getattr(self, obj: Any, attribute: str) -> Any:
            unsafe = attribute in _PADDING and isinstance(obj, str)
            return self.unsafe_undefined(obj, attribute) if unsafe else super().getattr(obj, attribute)

        def getitem(self, obj: Any, argument: Any) -> Any:
            return self.getattr(obj, argument) if argument in _PADDING else super().getitem(obj, argument)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            size = max(len(x) if hasattr(x, "__len__") else 0 for x in (left, right))
            if operator == "%" and size:
                raise SecurityError("texts are put together with '~' here, not with '%'")
            number = max((abs(x) for x in (left, right) if isinstance(x, (int, float))), default=0)
            if (size * number if operator == "*" else number**2) > LONGEST:
                raise SecurityError(f"{operator!r} would give too much")
            return super().call_binop(context, operator, left, right)

    sandbox = Sandbox(undefined=StrictUndefined)
    sandbox.filters = {name: own for name, own in sandbox.filters.items() if name not in {*_PADDING, "attr"}}
    sandbox.globals.pop("lipsum")
    try:
        return sandbox.from_string(template)
    except (TemplateError, SyntaxError, RecursionError, ValueError) as error:
        at = f"Line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
        raise RequestError(
            f"The template {template[:80]!r} was given.", f"{at}{str(getattr(error, 'message', error)).rstrip('.')}.",
            "Write columns as {{ name }}; Jinja's documentation has the rest.",
        ) from error  # fmt: skip


def asked_for(template: str) -> set[str]:
    """Names that a template asks for, of columns and of what `Template.render` adds. RequestError if not Jinja."""
    from jinja2.meta import find_undeclared_variables

    return find_undeclared_variables(compiled(template).environment.parse(template))


def check_choices(choices: Sequence[str], where: str, fewest: int = 2) -> None:
    """DataError unless there are at least `fewest` choices, none of them empty and no two alike."""
    asked = f"The choices of {where} were read."
    if len(choices) < fewest:
        raise DataError(asked, f"There are {len(choices)}.", f"Give at least {fewest}.")
    if empty := [str(i + 1) for i, choice in enumerate(choices) if not choice.strip()]:
        raise DataError(asked, f"Number {', '.join(empty)} is empty.", "Write what it stands for.")
    spoken = [choice.strip() for choice in choices]
    if twice := next((choice for i, choice in enumerate(spoken) if choice in spoken[:i]), None):
        raise DataError(asked, f"{twice!r} is there twice.", "Give each choice words of its own.")


def prefixes(choices: Sequence[str]) -> tuple[str, str] | None:
    """A choice and another that goes on from it, if there are such: "up" and "up there"."""
    spoken = sorted(choice.strip() for choice in choices)
    return next(((a, b) for a, b in pairwise(spoken) if b.startswith(a)), None)
