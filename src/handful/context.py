"""In-context learning: a task told by examples in the prompt, and rows scored after it by the frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handful.backbone import Backbone
from handful.choices import Spoken, speak
from handful.families import num_positions
from handful.prefix_cache import frozen_scores
from handful.templates import Template, columns
from handful.types import Example
from handful.vocabulary import Vocabulary

DEMONSTRATIONS = "demonstrations"
"""The column of a row that holds what is said before it."""
BETWEEN = "\n\n"
RESERVED = 0.5
"""Largest share of a prompt that is kept free for the question."""
CONTENT_FREE = ("N/A", "[MASK]", "")
"""What stands in the place of a row's columns to see what is answered to nothing (Zhao et al. 2021, section 5)."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """How rows are asked by examples.

    template    how examples and questions are worded
    rows        the labelled rows, of which prompts hold some
    orders      for each prompt the rows that it shows, in order; answers are averaged over prompts
    similar     if not zero, each question is shown so many rows, those most like it, the likest last, in place of these
    calibrated  whether scores are relative to those of questions without content (contextual calibration)
    normalised  whether choices are scored by the mean over their tokens, or by the sum
    limit       tokens of a prompt with its longest choice
    """

    template: Template
    rows: tuple[Example, ...]
    orders: tuple[tuple[int, ...], ...]
    similar: int = 0
    calibrated: bool = False
    normalised: bool = True
    limit: int = 2048

    def scores(
        self, backbone: Backbone, words: Vocabulary, labels: Sequence[str], examples: Sequence[Example], first: int = 1
    ) -> Tensor:
        """Log-probabilities `[n, C]` of each row's choices, -inf for those that it does not have.

        Errors name the rows by their numbers from `first` on.
        """
        each = [
            self._answered(backbone, words, labels, examples, told, first)
            for told in self.told(backbone, labels, examples)
        ]
        return torch.stack(each).logsumexp(0) - np.log(len(each))

    def told(self, backbone: Backbone, labels: Sequence[str], examples: Sequence[Example]) -> list[list[str]]:
        """For each prompt what is said before each of the rows; of similar ones the likest that fit."""
        if self.similar:
            likest = [own[::-1] for own in nearest(self.rows, examples, self.similar)]
            return [[self.shown(labels, own[::-1]) for own in self.fitting(backbone, labels, likest)]]
        return [[self.shown(labels, order)] * len(examples) for order in self.orders]

    def shown(self, labels: Sequence[str], order: Sequence[int]) -> str:
        """Rows of the context in words, each with its right answer."""
        return "".join(self.demonstration(self.rows[i], labels) for i in order)

    def demonstration(self, row: Example, labels: Sequence[str]) -> str:
        """A row with its right answer, and what divides it from the next one."""
        prompt = self.template.render(row, labels, "an example")
        own = list(labels if row.choices is None else row.choices)
        space = "" if prompt.text[-1:].isspace() else " "
        return prompt.text + space + prompt.choices[own.index(str(row.label))].strip() + BETWEEN

    def fitting(
        self, backbone: Backbone, labels: Sequence[str], orders: Sequence[Sequence[int]]
    ) -> list[tuple[int, ...]]:
        """Of each order as many of the first rows as fit beside the longest question, or beside half a prompt."""
        tokenizer: Any = backbone.tokenizer
        questions = self.spoken(backbone, labels, self.rows, [""] * len(self.rows))
        longest = max(len(q.prompt) + max(map(len, q.choices)) for q in questions)
        room = self.limit - min(longest, int(RESERVED * self.limit))
        shown = [self.demonstration(row, labels) for row in self.rows]
        sizes = np.array([len(ids) for ids in tokenizer(shown, add_special_tokens=False)["input_ids"]])
        return [tuple(order[: int((sizes[list(order)].cumsum() <= room).sum())]) for order in orders]

    def spoken(
        self,
        backbone: Backbone,
        labels: Sequence[str],
        examples: Sequence[Example],
        told: Sequence[str],
        first: int = 1,
    ) -> list[Spoken]:
        """Questions after what is said before each, in tokens; a question that is too long is cut, not the examples."""
        asked = [
            replace(e, fields={**(e.fields or {}), DEMONSTRATIONS: before})
            for e, before in zip(examples, told, strict=True)
        ]
        cut = self.template.cut or _longest(examples, self.template)
        template = replace(self.template, prompt="{{ demonstrations }}" + self.template.prompt, cut=cut)
        rows = range(first, first + len(asked))
        return speak(backbone, asked, labels, template, limit=self.limit, end=False, rows=rows)

    def _answered(
        self,
        backbone: Backbone,
        words: Vocabulary,
        labels: Sequence[str],
        examples: Sequence[Example],
        told: Sequence[str],
        first: int,
    ) -> Tensor:
        """Log-probabilities `[n, C]` among each row's choices, after one prompt."""

        def scored(rows: Sequence[Example], before: Sequence[str]) -> Tensor:
            spoken = self.spoken(backbone, labels, rows, before, first)
            return frozen_scores(backbone, words, spoken, normalised=self.normalised).log_softmax(-1)

        found = scored(examples, told)
        if not self.calibrated:
            return found
        own = any(e.choices is not None for e in examples)  # else all rows have the same choices, asked once
        blank = [
            [_without_content(e, text) for e in (examples if own or self.similar else examples[:1])]
            for text in CONTENT_FREE
        ]
        empty = torch.stack([scored(rows, told[: len(rows)]) for rows in blank]).logsumexp(0) - np.log(len(blank))
        return (found - empty).masked_fill(found == float("-inf"), float("-inf")).log_softmax(-1)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` makes it from again, as JSON."""
        rows = [{name: value for name, value in asdict(row).items() if value is not None} for row in self.rows]
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return kept | {"template": self.template.to_dict(), "rows": rows, "orders": [list(o) for o in self.orders]}

    @staticmethod
    def from_dict(given: Mapping[str, Any]) -> Context:
        """The context that `to_dict` described."""
        read: list[dict[str, Any]] = [
            {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
            for row in given["rows"]
        ]
        rows = tuple(Example(**row) for row in read)
        own: dict[str, Any] = {**given, "template": Template(**given["template"]), "rows": rows}
        own["orders"] = tuple(tuple(order) for order in given["orders"])
        return Context(**own)


def nearest(rows: Sequence[Example], examples: Sequence[Example], num: int) -> list[list[int]]:
    """For each example the `num` rows most like it by the cosine of TF-IDF vectors, the likest last."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    reader: Any = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    known = reader.fit_transform([_said(row) for row in rows])
    like = np.asarray((reader.transform([_said(e) for e in examples]) @ known.T).todense())
    return np.argsort(like, axis=1, kind="stable")[:, -num:].tolist()


def context_length(backbone: Backbone) -> int:
    """Tokens that a backbone has positions for; of an encoder-decoder, whose positions are relative, what it reads."""
    found = num_positions(backbone.model.config)
    return int(found) if found and backbone.family.architecture == "decoder" else backbone.max_length


def _said(example: Example) -> str:
    return example.text + " " + (example.text_pair or "")


def _without_content(example: Example, text: str) -> Example:
    pair = None if example.text_pair is None else text
    return replace(example, text=text, text_pair=pair, fields=dict.fromkeys(example.fields or {}, text))


def _longest(examples: Sequence[Example], template: Template) -> str | None:
    """The column that a template asks for and that is the longest in most rows."""
    asked = [name for name in columns(examples[0]) if name in template.prompt] if examples else []
    return max(asked, key=lambda name: sum(len(columns(e).get(name, "")) for e in examples), default=None)
