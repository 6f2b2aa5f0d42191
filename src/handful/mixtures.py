"""Mixtures of tasks that end in text: what `handful pretrain DATA...` may be given, and how often each is drawn.

    data.csv  rows.jsonl  owner/name              labelled rows, or rows with choices, as `handful fit` has them
    copa=rows.jsonl  own.yaml=rows.jsonl          rows that are read, and asked, as a task definition says
    folder/  dev/snips  dev                       tasks of folders and of suites
    data.csv:text=body:label=topic                columns (also `text_pair`), of files without a definition
    DATA:template=NAME                            asked by one template of the definition, or by a text: `{{ text }}`
    DATA:share=0.1                                a tenth of all rows

Shares: those of all data, or of some as parts of 1. The rest is drawn in proportion to its rows, of which a task counts
at most `cap` divided by the number of its templates (Liu et al. 2022, T-Few, as T0's mixture).
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful import episodes
from handful.backbone import Backbone
from handful.choices import Spoken, speak
from handful.definitions import is_definition
from handful.errors import DataError, HandfulWarning, RequestError
from handful.metasources import labelled_tasks
from handful.options import read_options
from handful.pools import digest_of, find_pools
from handful.seeds import generator
from handful.suites import is_suite
from handful.taskfiles import load_task, with_template
from handful.templates import DEFAULTS, Template
from handful.texts import row_digests
from handful.types import Task
from handful.worded import right, templates_of

if TYPE_CHECKING:
    import numpy as np

CAP = 500_000
_COLUMNS = ("text", "text_pair", "label")
_OPTIONS = ("share", "template", *_COLUMNS)
_OPTION = re.compile(rf":(?=[A-Za-z_]\w*=|(?:{'|'.join(_OPTIONS)})(?::|$))")


@dataclass(frozen=True, eq=False)
class Source:
    """A task of a mixture.

    spec   what it was asked for by: tasks of one `spec` have one share together
    share  that was stated, if one was
    rows   the number of each row among those that were read, where some were taken out
    """

    task: Task
    spec: str
    share: float | None = None
    rows: Sequence[int] | None = None

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def size(self) -> int:
        return len(self.task.examples)

    @property
    def templates(self) -> Sequence[Template]:
        return templates_of(self.task)

    @cached_property
    def right(self) -> Sequence[int]:
        """The position of each row's right choice; 0 where rows have answers, not choices. DataError if it has none."""
        return [0] * self.size if self.task.kind == "generation" else right(self.task).tolist()

    def part(self, rows: Sequence[int]) -> Source:
        """The same task with some of its rows."""
        numbers = self.rows or range(1, self.size + 1)
        return replace(self, task=episodes.subset(self.task, rows), rows=[numbers[i] for i in rows])

    def contents(self) -> Collection[str]:
        """Digests of its rows."""
        return self._contents

    @cached_property
    def _contents(self) -> frozenset[str]:
        return frozenset(digest for example in self.task.examples for digest in row_digests(example))

    def digest(self) -> str:
        """sha256 of all that decides what a backbone may see of it."""
        task, asked = self.task, [template.to_dict() for template in self.templates]
        hashed = hashlib.sha256(digest_of(task.name, task.kind, task.labels, asked).encode())
        for e in task.examples:
            said = (e.text, e.text_pair, e.label, e.choices, sorted((e.fields or {}).items()))
            hashed.update(repr(said).encode("utf-8", "surrogatepass"))
        return hashed.hexdigest()


def read_mixture(specs: Sequence[str], data: str | Path | None = None) -> list[Source]:
    """The tasks of a command line; `data` is the folder of suites.

    RequestError for what cannot be understood and for tasks that do not end in text, DataError for what cannot be read.
    """
    if twice := [spec for spec in dict.fromkeys(specs) if list(specs).count(spec) > 1]:
        raise RequestError(f"{twice[0]!r} was given.", "It was given twice.", "Say with share= how often it is drawn.")
    folder = None if data is None else Path(data).expanduser()
    found = [source for spec in specs for source in _read(spec, folder)]
    for source in found:
        if source.task.kind not in DEFAULTS:
            raise RequestError(
                f"{source.spec} was to be asked in words.", f"{source.name} is a {source.task.kind} task.",
                "Leave it out; `handful meta-train` can learn from it.",
            )  # fmt: skip
        if len(source.task.labels) < 2 and source.task.kind == "classification":
            raise DataError(
                f"{source.spec} was to be asked in words.", f"All of its {source.size} rows have one label.",
                "Give rows of two classes or more.",
            )  # fmt: skip
    return found


def shares(sources: Sequence[Source], cap: float = CAP) -> list[float]:
    """How likely a row is to be one of each source; they sum to 1. RequestError where shares leave nothing for some."""
    weights = [min(source.size, cap / len(source.templates)) for source in sources]
    stated = {source.spec: source.share for source in sources if source.share is not None}
    unsaid = [source.spec for source in sources if source.share is None]
    left = 1 - sum(stated.values())
    if unsaid and not left > 0:
        raise RequestError(
            f"Shares of {', '.join(map(str, stated.values()))} were asked for.", f"They leave nothing for {unsaid[0]}.",
            "Give every source a share, or these parts of 1.",
        )  # fmt: skip
    of_spec = {spec: sum(w for w, s in zip(weights, sources, strict=True) if s.spec == spec) for spec in stated}
    rest = sum(w for w, s in zip(weights, sources, strict=True) if s.share is None)
    whole = 1.0 if unsaid else sum(stated.values())
    return [
        left * weight / rest if source.share is None else source.share / whole * weight / of_spec[source.spec]
        for weight, source in zip(weights, sources, strict=True)
    ]


def draw(sources: Sequence[Source], chances: Sequence[float], count: int, *, seed: int) -> np.ndarray:
    """`[count, 3]`: source, template and row of everything that is seen, the same for the same seed.

    Sources are drawn by their chances and templates evenly; a source's rows all come once before one comes again.
    """
    import numpy as np

    rng = generator(seed, "mixture")
    which = rng.choice(len(sources), count, p=np.array(chances) / sum(chances))
    drawn = np.stack([which, np.zeros_like(which), np.zeros_like(which)], 1)
    for s, source in enumerate(sources):
        places = np.nonzero(which == s)[0]
        turns = [rng.permutation(source.size) for _ in range(-(-len(places) // source.size))]
        drawn[places, 1] = rng.integers(len(source.templates), size=len(places))
        drawn[places, 2] = np.concatenate([np.zeros(0, dtype=int), *turns])[: len(places)]
    return drawn


def hold_out(sources: Sequence[Source], rows: int, *, seed: int) -> tuple[list[Source], list[Source]]:
    """`(train, held)`: at most so many rows of each source, and of its rows at most a tenth, to look at on the way.

    Rows of any source that are the same as one of them (`texts.row_digests`) are dropped. DataError where none is left.
    """
    held = list[Source]()
    left = list[Source]()
    for source in sources:
        order, count = _order(source, seed), min(rows, source.size // 10)
        held += [source.part(sorted(order[:count]))] if count else []
        left.append(source.part(sorted(order[count:])))
    asked = frozenset(digest for source in held for digest in source.contents())
    train = [
        source.part([i for i, example in enumerate(source.task.examples) if asked.isdisjoint(row_digests(example))])
        for source in left
    ]
    if empty := [source for source in train if not source.size]:
        raise DataError(
            f"{rows} rows of each task were to be held out to look at.",
            f"All rows of {empty[0].name} share a text with one of them.", "Hold none out, or leave it out.",
        )  # fmt: skip
    return train, held


def some(source: Source, rows: int, *, seed: int) -> Source:
    """The source with at most so many of its rows."""
    return source.part(sorted(_order(source, seed)[:rows]))


def spoken_rows(
    backbone: Backbone, source: Source, turn: int, rows: Sequence[int], length: int, *, only: Sequence[int] | None
) -> list[Spoken]:
    """Some rows of a source in tokens, by its template of number `turn`; the task is named by errors and warnings.

    `only` is the one choice of each that is spoken (`choices.speak`).
    """
    task, numbers = source.task, source.rows or range(1, source.size + 1)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = speak(
                backbone, [task.examples[i] for i in rows], task.labels, source.templates[turn],
                limit=min(length, backbone.max_length), end=True, rows=[numbers[i] for i in rows], only=only,
            )  # fmt: skip
    except DataError as error:
        raise DataError(f"{source.name}: {error.asked}", error.found, error.todo) from error
    for each in caught:
        told = issubclass(each.category, HandfulWarning)
        warnings.warn(f"{source.name}: {each.message}" if told else str(each.message), each.category, stacklevel=3)
    return found


def _order(source: Source, seed: int) -> list[int]:
    return generator(seed, "held out", source.name).permutation(source.size).tolist()


def _read(spec: str, data: Path | None) -> list[Source]:
    name, *rest = _OPTION.split(spec)
    asked = f"The data {spec!r} was asked for."
    options = read_options(rest, asked, "data.csv:share=0.1")
    if new := [key for key in options if key not in _OPTIONS]:
        raise RequestError(asked, f"{new[0]!r} is no option.", f"Its options are {', '.join(_OPTIONS)}.")
    share = options.pop("share", None)
    if share is not None and (not isinstance(share, int | float) or isinstance(share, bool) or not share > 0):
        raise RequestError(asked, f"The share {share!r} is no number above 0.", "Write one, such as share=0.5.")
    template = options.pop("template", None)
    columns = {key: str(value) for key, value in options.items()}
    tasks = _tasks(name, data, columns, asked)
    if template is not None:
        tasks = [with_template(task, str(template)) for task in tasks]
    if alone := [task for task in tasks if task.template is not None]:
        found = f"The template {alone[0].template!r} is not in Jinja."
        raise RequestError(asked, found, "Write columns as {{ text }}.")
    return [Source(task, spec, share) for task in tasks]


def _tasks(name: str, data: Path | None, columns: Mapping[str, Any], asked: str) -> list[Task]:
    definition, equals, file = name.partition("=")
    if equals and not Path(name).exists():
        return [load_task(file, definition=definition, columns=columns)]
    if is_definition(name):
        found = "It is a task definition, and no rows were given."
        raise RequestError(asked, found, f"Name the rows that it reads: {name}=FILE.")
    if is_suite(name) or Path(name).expanduser().is_dir():
        return labelled_tasks(name, data, columns, asked)
    return [load_task(name, columns=columns, name=find_pools(name)[0].name, fields=True)]
