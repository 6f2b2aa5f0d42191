"""What `handful meta-train TASKS...` may be given: files, folders, tasks of suites and plain text, with options.

    data.csv  folder/  owner/name  dev/banking77  dev       labelled tasks, as `handful compare` takes them
    data.csv:ways=2-5:shots=4:query=4                       numbers of an episode: one, or a smallest and a largest
    data.csv:grouped=true:ways=2-4:members=2-4              other labelings: each way is a union of so many classes
    data.csv:domains=domains.json                           a task for each domain, `{"domain": ["class", ...]}`
    data.csv:text=body:label=topic:template=...             columns, as `handful fit` has them
    tags.conll:shots=16:query=16                            tagged sentences (`metatasks.Sentences`)
    tags.conll:phrases=pair  slots.jsonl:phrases=marked     their entities, or spans, to be typed (`phrases.py`)
    cloze:text.txt  cloze:dev/banking77                     hidden words (`cloze.py`), of the texts of a task too
    cloze:text.txt:share=0.5:common=0.05                    half of all episodes

Shares: those of all sources, or of some as parts of 1. The rest is drawn by the root of their sizes, cloze tasks as
often as labelled ones together: the published recipe.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from handful.cloze import Cloze, index_sentences, read_lines, texts_of
from handful.errors import DataError, HandfulWarning, RequestError
from handful.holdouts import by_domain
from handful.metatasks import Bounds, Grouped, Mixture, Sentences, Source, Supervised, by_size
from handful.options import read_options
from handful.phrases import Shown, has_spans, typed_phrases, typed_spans
from handful.pools import Pool, Reading, find_pools
from handful.suites import is_suite, suite
from handful.tables import read_table
from handful.types import Task

_CLOZE = "cloze:"
_NUMBERS = ("ways", "shots", "members", "query")
_COLUMNS = ("text", "text_pair", "label", "separator", "template")
_LABELLED = ("share", *_NUMBERS, "grouped", "domains", "phrases", *_COLUMNS)
_PLAIN = ("share", "ways", "shots", "query", "common")
_OPTION = re.compile(rf":(?=[A-Za-z_]\w*=|(?:{'|'.join({*_LABELLED, *_PLAIN})})(?::|$))")


def read_sources(specs: Sequence[str], data: str | Path | None = None, *, mask_token: str = "[MASK]") -> Mixture:
    """The sources of a command line, mixed; `data` is the folder of suites, `mask_token` the backbone's.

    RequestError for what cannot be understood, DataError for what cannot be read or has too few classes or rows, with
    the numbers that were found. Warns (HandfulWarning) of sets that may only be measured on.
    """
    if not specs:
        raise RequestError("Meta-training was asked for.", "No tasks were given.", "Name files or tasks of suites.")
    if twice := [spec for spec in dict.fromkeys(specs) if list(specs).count(spec) > 1]:
        raise RequestError(f"{twice[0]!r} was given.", "It was given twice.", "Say with share= how often it is drawn.")
    read = [_read(spec, None if data is None else Path(data).expanduser(), mask_token) for spec in specs]
    return _mixed(specs, read)


def _read(spec: str, data: Path | None, mask_token: str) -> tuple[float | None, list[Source]]:
    """The share that was stated, and the sources of one specification."""
    name, *rest = _OPTION.split(spec)
    asked = f"The tasks {spec!r} were asked for."
    plain = name.startswith(_CLOZE)
    options = read_options(rest, asked, "data.csv:ways=2-5:shots=4")
    known = _PLAIN if plain else _LABELLED
    if new := [key for key in options if key not in known]:
        kind = "plain text" if plain else "labelled tasks"
        raise RequestError(asked, f"{new[0]!r} is no option of {kind}.", f"Its options are {', '.join(known)}.")
    share = options.pop("share", None)
    if share is not None and (not isinstance(share, int | float) or isinstance(share, bool) or not share > 0):
        raise RequestError(asked, f"The share {share!r} is no number above 0.", "Write one, such as share=0.5.")
    numbers = {key: _bounds(options.pop(key), key, asked) for key in _NUMBERS if key in options}
    if plain:
        return share, [_cloze(name.removeprefix(_CLOZE), data, mask_token, {**options, **numbers})]
    return share, _labelled(name, data, options, numbers, asked)


def _labelled(
    name: str, data: Path | None, options: dict[str, Any], numbers: dict[str, Any], asked: str
) -> list[Source]:
    grouped, domains = options.pop("grouped", False), options.pop("domains", None)
    shown = options.pop("phrases", None)
    if shown not in (None, "pair", "marked"):
        raise RequestError(asked, f"phrases is {shown!r}.", "Write phrases=pair or phrases=marked.")
    if not isinstance(grouped, bool):
        raise RequestError(asked, f"grouped is {grouped!r}.", "Write grouped=true, or leave it out.")
    if "members" in numbers and not grouped:
        raise RequestError(asked, "Ways have members only if they are grouped.", "Add grouped=true.")
    columns = {key: str(value) for key, value in options.items()}
    tasks = _phrases(name, data, shown, asked) if shown else labelled_tasks(name, data, columns, asked)
    if domains is not None:
        tasks = [part for task in tasks for part in by_domain(task, _domains(str(domains), asked))]
    if tasks and tasks[0].kind == "tagging":
        if grouped or "ways" in numbers or not all(isinstance(number, int) for number in numbers.values()):
            found = f"{tasks[0].name} has tags, not classes."
            raise RequestError(asked, found, "Give numbers of sentences alone, as in shots=16:query=16.")
        return [Sentences(task, **numbers) for task in tasks]
    if not grouped:
        return [Supervised(task, **numbers) for task in tasks]
    numbers = {"groups" if key == "ways" else key: number for key, number in numbers.items()}
    return [Grouped(task, **numbers) for task in tasks]


def _phrases(name: str, data: Path | None, shown: Shown, asked: str) -> list[Task]:
    """Phrases of tagged sentences, or of a file of texts with spans."""
    if not is_suite(name) and Path(name).is_file() and has_spans(table := read_table(name, tagged=True)):
        path = Path(name).resolve()
        plain = path.name.partition(".")[0]
        return [typed_spans(table, path.parent.name if plain in ("train", "dev") else plain, shown)]
    tasks = labelled_tasks(name, data, {}, asked)
    if wrong := [task.name for task in tasks if task.kind != "tagging"]:
        raise RequestError(asked, f"{wrong[0]} has neither tags nor spans.", "Leave phrases= out.")
    return [typed_phrases(task, shown) for task in tasks]


def _cloze(name: str, data: Path | None, mask_token: str, options: dict[str, Any]) -> Cloze:
    lines = texts_of(e for task in labelled_tasks(name, data, {}, "") for e in task.examples) if is_suite(name) else []
    corpus = index_sentences(lines or read_lines(name))
    common = options.pop("common", 0.05)
    if not isinstance(common, int | float):
        asked = f"Hidden words of {name!r} were asked for."
        raise RequestError(asked, f"common is {common!r}.", "Write a share of the sentences, such as common=0.05.")
    return Cloze(corpus, mask_token, common=common, name=f"{_CLOZE}{name}", **options)


def labelled_tasks(name: str, data: Path | None, columns: Mapping[str, str], asked: str) -> list[Task]:
    """Rows that may be learned from: never those that a suite or a folder keeps to be asked."""
    if not is_suite(name):
        return [pool.rows() for pool in find_pools(name, reading=Reading(**columns, drop_overlap=True))]
    if columns:
        found = f"A suite says itself which columns are read, and {next(iter(columns))} was given."
        raise RequestError(asked, found, "Leave it out, or name a file.")
    own, pools, missing = suite(name), list[Pool](), list[str]()
    for task in own.tasks:
        pool = own.found(task, data)
        if isinstance(pool, str):
            missing.append(f"{own.name}/{task.name}: {pool}")
            continue
        pools.append(pool)
        if task.purpose == "evaluation":
            _warn(f"{own.name}/{task.name} is for measuring only ({task.licence}): do not hand on what it trained.")
    if not pools:
        raise DataError(f"The tasks {name!r} were asked for.", f"{'; '.join(missing)}.", "Say where its data lies.")
    if missing:
        _warn(f"Not meta-trained on: {'; '.join(missing)}.")
    return [pool.rows() for pool in pools]


def _mixed(specs: Sequence[str], read: Sequence[tuple[float | None, list[Source]]]) -> Mixture:
    sources, shares = list[Source](), list[float]()
    stated = [share for share, _ in read if share is not None]
    left = 1 - sum(stated) if len(stated) < len(read) else 0.0
    if len(stated) < len(read) and not left > 0:
        unsaid = next(spec for spec, (share, _) in zip(specs, read, strict=True) if share is None)
        raise RequestError(
            f"Shares of {', '.join(map(str, stated))} were asked for.", f"They leave nothing for {unsaid}.",
            "Give every source a share, or these parts of 1.",
        )  # fmt: skip
    for spec, (share, own) in zip(specs, read, strict=True):
        if share is not None:
            sources.append(own[0] if len(own) == 1 else Mixture(own, name=spec))
            shares.append(share)
    rest = [source for share, own in read if share is None for source in own]
    if rest:
        weights = by_size(rest)
        plain = [isinstance(source, Cloze) for source in rest]
        total = {kind: sum(w for w, is_plain in zip(weights, plain, strict=True) if is_plain is kind) for kind in plain}
        sources += rest
        shares += [left * w / total[kind] / len(total) for w, kind in zip(weights, plain, strict=True)]
    return Mixture(sources, shares, "mixture")


def _bounds(value: object, key: str, asked: str) -> Bounds:
    """`4`, `"2-5"` or `[2, 5]`."""
    found = re.fullmatch(r"(\d+)-(\d+)", value) if isinstance(value, str) else None
    numbers: Any = [int(found[1]), int(found[2])] if found else value if isinstance(value, list) else [value]
    numbers = [value] if key == "query" else numbers
    if len(numbers) not in (1, 2) or not all(type(number) is int for number in numbers):
        todo = "Write one whole number." if key == "query" else f"Write {key}=4, or {key}=2-5."
        raise RequestError(asked, f"{key} is {value!r}.", todo)
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _domains(path: str, asked: str) -> dict[str, Collection[str]]:
    todo = 'Give a JSON file of {"domain": ["class", ...], ...}.'
    try:
        found: Any = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(asked, f"The domains in {path} cannot be read: {error}.", todo) from error
    lists = found.values() if isinstance(found, dict) else ["no object"]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise DataError(asked, f"{path} does not hold lists of classes by domain.", todo)
    return found


def _warn(message: str) -> None:
    warnings.warn(message, HandfulWarning, stacklevel=5)
