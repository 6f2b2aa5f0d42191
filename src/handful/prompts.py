"""From examples to model inputs: the only caller of tokenizers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handful.backbone import Backbone
from handful.errors import BackboneError, DataError, HandfulWarning, RequestError
from handful.templates import GIVEN
from handful.types import Batch, Example, Task

_MARKED = re.compile(r"[\[<](\w+)[\]>](.*?)[\[<]/\1[\]>]", re.DOTALL)
"""A marked span: `[name]...[/name]` or `<name>...</name>`."""
IGNORED = -100
"""The label of a token without a tag."""


def render(example: Example, template: str | None) -> tuple[str, str | None]:
    """The text (and second text) that the tokenizer sees. `template` is a text with `{text}` and `{text_pair}`."""
    if template is None:
        return example.text, example.text_pair
    given = {"text": example.text, "text_pair": example.text_pair or ""}
    filled = re.sub(r"\{(text|text_pair)\}", lambda found: given[found[1]], template)
    return filled, None if "{text_pair}" in template else example.text_pair


def mark_names(examples: Sequence[Example], template: str | None = None) -> tuple[str, ...]:
    """Names of the spans that are marked in every text, as `[e1]Paris[/e1]` marks one called e1, in order."""
    rows = [dict.fromkeys(m[1] for m in _MARKED.finditer(render(example, template)[0])) for example in examples]
    return tuple(name for name in rows[0] if all(name in row for row in rows)) if rows else ()


def encode(
    backbone: Backbone, examples: Sequence[Example], *, template: str | None = None, marks: Sequence[str] = ()
) -> Batch:
    """Examples -> inputs `[B, S]`, padded on the right, cut to the backbone's length (said once).

    With `marks`, `inputs["marks"] [B, S]` holds i + 1 at the tokens from `[name]` into `[/name]` of the i-th name.
    Of examples with `words`, `inputs["word"] [B, S]` holds i + 1 at the first token of the i-th word, else 0.
    Raises BackboneError for a backbone without a tokenizer and DataError for no examples.
    """
    if backbone.tokenizer is None:
        found = "It has no tokenizer." if backbone.family.reads_text else "It reads no text."
        raise BackboneError(f"Texts were given to {backbone.id!r}.", found, "Use a backbone that reads text.")
    if not examples:
        raise DataError("Texts were asked to be encoded.", "There are none.", "Give at least one row.")
    if examples[0].words is not None:
        return _encode_words(backbone, examples, template)
    pairs = [render(example, template) for example in examples]
    second = [pair for _, pair in pairs]
    if any(pair is None for pair in second) and any(pair is not None for pair in second):
        raise DataError(
            "Text pairs were given.", f"Row {second.index(None) + 1} has no second text.", "Give one for every row."
        )
    encoded = _tokenize(
        backbone, [text for text, _ in pairs], [str(pair) for pair in second] if second[0] is not None else None,
        return_offsets_mapping=bool(marks),
    )  # fmt: skip
    offsets = encoded.pop("offset_mapping", None)
    inputs: dict[str, Tensor] = {name: value.to(backbone.device) for name, value in encoded.items()}
    _warn_of_cut(backbone, encoded, "texts")
    if marks:
        inputs["marks"] = _marks([text for text, _ in pairs], offsets, encoded, marks).to(backbone.device)
    return Batch(inputs, torch.ones(len(examples), dtype=torch.bool, device=backbone.device))


def _tokenize(backbone: Backbone, *given: Any, **options: Any) -> Any:
    tokenizer: Any = backbone.tokenizer
    if tokenizer.pad_token is None:  # decoders are rarely given one; its positions are masked anyway
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer(
        *given, padding=True, truncation=True, max_length=backbone.max_length, padding_side="right",
        return_tensors="pt", **options,
    )  # fmt: skip


def _warn_of_cut(backbone: Backbone, encoded: Any, what: str) -> None:
    cut = sum(bool(own.overflowing) for own in encoded.encodings or ())
    if cut:
        message = f"Cut {cut} of {len(encoded.encodings)} {what} to the {backbone.max_length} tokens that {backbone.id}"
        warnings.warn(f"{message} reads.", HandfulWarning, stacklevel=3)


def _encode_words(backbone: Backbone, examples: Sequence[Example], template: str | None) -> Batch:
    """As `encode`, word by word; what a template puts before and after `{text}` is made of words of its own."""
    asked = f"Words were given to {backbone.id!r}, to be tagged."
    if backbone.model.config.is_encoder_decoder:
        raise BackboneError(asked, "It has no state of each word: it answers with its decoder's.", "Use an encoder.")
    if not getattr(backbone.tokenizer, "is_fast", False):
        raise BackboneError(asked, "Its tokenizer does not say which token is of which word.", "Use a fast tokenizer.")
    before, mark, after = (template or "{text}").partition("{text}")
    wrong = next((row for row, e in enumerate(examples) if not e.words or e.text_pair is not None), None)
    if wrong is not None or not mark or "{text" in after + before:
        found = (
            "The template is not of one {text}." if wrong is None else f"Row {wrong + 1} has no words, or two texts."
        )
        raise DataError(asked, found, "Give every row its words, and a template such as 'query: {text}'.")
    first, last = before.split(), after.split()
    space = " " if _spaces_are_tokens(backbone.tokenizer) else ""
    texts = [[*first, *(e.words or ()), *last] for e in examples]
    texts = [[words[0], *(space + word for word in words[1:])] for words in texts]
    encoded = _tokenize(backbone, texts, is_split_into_words=True)
    _warn_of_cut(backbone, encoded, "sentences")
    inputs: dict[str, Tensor] = {name: value.to(backbone.device) for name, value in encoded.items()}
    word = torch.zeros(inputs["input_ids"].shape, dtype=torch.long)
    for row, example in enumerate(examples):
        known: set[int] = set()
        for column, place in enumerate(encoded.word_ids(row)):
            own = -1 if place is None else place - len(first)
            if 0 <= own < len(example.words or ()) and own not in known:
                known.add(own)
                word[row, column] = own + 1
    inputs["word"] = word.to(backbone.device)
    return Batch(inputs, torch.ones(len(examples), dtype=torch.bool, device=backbone.device))


def _spaces_are_tokens(tokenizer: Any) -> bool:
    """Whether words must bring their spaces: byte-level tokenizers would read `New York` as `NewYork`."""
    plain, bare, spaced = (
        tokenizer(given, is_split_into_words=isinstance(given, list))["input_ids"]
        for given in ("a b", ["a", "b"], ["a", " b"])
    )
    return plain == spaced and plain != bare


def _marks(texts: Sequence[str], offsets: Tensor, encoded: Any, names: Sequence[str]) -> Tensor:
    """`[B, S]`: i + 1 from the opening tag of the i-th marked span to the first piece of its closing tag, else 0."""
    out = torch.zeros(offsets.shape[:2], dtype=torch.long)
    for row, text in enumerate(texts):
        first = torch.tensor([part == 0 for part in encoded.sequence_ids(row)])
        start, end = offsets[row].unbind(-1)
        for found in _MARKED.finditer(text):
            if found[1] in names:
                inside = first & (start >= found.start()) & (start <= found.end(2)) & (end > start)
                out[row, inside] = list(names).index(found[1]) + 1
    return out


def check_classes(tasks: Sequence[Task], recipe: str) -> None:
    """RequestError for a task that a recipe with a head of classes cannot fit, or that is asked by a prompt."""
    for task in tasks:
        asked = f"The task {task.name} was to be fitted by the recipe {recipe}."
        if found := _WITHOUT_CLASSES.get(task.kind):
            raise RequestError(
                asked, f"It is a {task.kind} task: {found}, and the recipe learns a head of classes.",
                "Use the recipe tfew, with a backbone that scores words, such as smollm2.",
            )  # fmt: skip
        if prompt := next((own.prompt for own in task.templates if own.name == GIVEN), None):
            todo = "Write it with {text} in the place of the text, or use the recipe tfew."
            raise RequestError(asked, f"The template {prompt[:80]!r} is a prompt, which it does not read.", todo)


_WITHOUT_CLASSES = {"choice": "every row has its own choices", "generation": "its answers are texts"}


def targets(task: Task) -> Tensor:
    """Class indices `[B]`, or 0/1 `[B, C]` for a multi-label task, in the order of `task.labels`.

    DataError for a row of a single-label task that has none or several.
    """
    position = {label: i for i, label in enumerate(task.labels)}
    groups = [(e.label,) if isinstance(e.label, str) else e.label or () for e in task.examples]
    if task.kind == "multilabel":
        rows = torch.zeros(len(task.examples), len(task.labels))
        for row, own in enumerate(groups):
            for label in own:
                rows[row, position[label]] = 1.0
        return rows
    wrong = next((row for row, own in enumerate(groups) if len(own) != 1), None)
    if wrong is not None:
        raise DataError(
            f"One label a row was looked for in {task.name}.", f"Row {wrong + 1} has {len(groups[wrong])}.",
            "Give every row one label, or fit a multi-label task.",
        )  # fmt: skip
    return torch.tensor([position[label] for own in groups for label in own])


def tag_targets(task: Task, word: Tensor) -> Tensor:
    """Tag indices `[B, S]` in the order of `task.labels` for `word [B, S]` of `encode`, -100 where no word begins.

    A word that was cut off has none. DataError for a row without a tag for every word, or with one that is unknown.
    """
    position = {label: i for i, label in enumerate(task.labels)}
    width = max((len(example.words or ()) for example in task.examples), default=0)
    tags = torch.full((len(task.examples), width + 1), IGNORED)
    for row, example in enumerate(task.examples):
        own = [position.get(tag) for tag in example.label or ()]
        if len(own) != len(example.words or ()) or None in own:
            found = f"Row {row + 1} has {len(own)} tags for {len(example.words or ())} words"
            found += "." if None not in own else ", one of which is no label of the task."
            raise DataError(f"The tags of {task.name} were looked for.", found, "Give every word one of the tags.")
        tags[row, 1 : len(own) + 1] = torch.tensor(own)
    return tags.to(word.device).gather(1, word)
