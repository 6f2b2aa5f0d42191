"""A fitted task at work: examples in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from handful.artifact import HEADLESS
from handful.asking import asked_in_words, check_choices_given, widened, written_by
from handful.attach import attach
from handful.errors import DataError, RequestError
from handful.fit import predict
from handful.generator import Generated
from handful.methods import from_spec
from handful.prior import params_digest
from handful.priors import named
from handful.prompts import encode
from handful.scoring import Classifier, Tagger, word_scores
from handful.tagging import read_tags
from handful.types import Batch, Example, Params, Scores, cast_params
from handful.views import Lexicon, Tuned, Views

if TYPE_CHECKING:
    from handful.artifact import Artifact
    from handful.backbone import Backbone
    from handful.cache import FeatureCache

CHUNK = 1024
"""Rows encoded at a time, so that memory does not grow with the input."""


class Predictor:
    """Scores of one artifact on its backbone. ArtifactError if the backbone is another one."""

    def __init__(self, artifact: Artifact, backbone: Backbone) -> None:
        artifact.check_backbone(backbone)
        self.artifact, self.backbone = artifact, backbone
        kind = artifact.features["kind"]
        self._writes = written_by(artifact, backbone) if kind == "written" else None
        self._asked = asked_in_words(artifact, backbone) if kind in HEADLESS and not self._writes else None
        if kind in HEADLESS:
            return
        self._params: Params = {**artifact.params, "head": {n: artifact.head[n] for n in ("weight", "bias")}}
        self._params = cast_params(self._params, device=backbone.device)
        self._prior = named(artifact.prior).on(backbone) if artifact.prior else None
        self._reader = Classifier(None)
        if artifact.method is not None:
            adapted = attach(backbone, from_spec(artifact.method))
            if artifact.features["kind"] == "views":
                own = {site: p for site, p in self._params.items() if site != "head"}
                self._prior = Tuned(adapted, own, params_digest(artifact.method, artifact.params))
            else:
                kind = Tagger if artifact.kind == "tagging" else Classifier
                self._reader = kind(adapted, artifact.features["pooling"], artifact.features["scale"])
        made = {n.removeprefix("generator."): p for n, p in artifact.head.items() if n.startswith("generator.")}
        made = {name: p.to(backbone.device) for name, p in made.items()}
        self._model = Generated(self._reader, made) if made else self._reader

    def scores(self, examples: Sequence[Example], store: FeatureCache | None = None) -> Scores:
        """Logits `[n, C]` in the order of the artifact's labels, already divided by its temperature.

        Of a tagging task `[n, W, C]`, of words; those that a row lacks, or that were cut off, count as outside. Of a
        choice task of the row's own choices, -inf for those that it lacks.
        `store` keeps what other tasks on the backbone can use when they are asked the same rows.

        DataError for single texts where the task was fitted on pairs, or words, and the other way round.
        """
        self._check(examples)
        if self._writes is not None:
            asked = f"Scores of the task {self.artifact.task!r} were asked for."
            raise RequestError(asked, "It writes its answers freely.", "Ask it for texts (`handful predict`).")
        longest = max((len(example.words or example.choices or ()) for example in examples), default=0)
        parts = [
            self._logits(examples[start : start + CHUNK], start + 1, longest, store) / self.artifact.temperature
            for start in range(0, len(examples), CHUNK)
        ]
        return Scores(torch.cat(parts))

    def texts(self, examples: Sequence[Example]) -> list[str]:
        """The answer that a generation task writes to each row. RequestError for a task that chooses."""
        if self._writes is None:
            raise RequestError(
                f"The task {self.artifact.task!r} was to write.", f"It is a {self.artifact.kind} task.",
                "Ask it for scores.",
            )  # fmt: skip
        return self._writes(examples)

    def tags(self, examples: Sequence[Example], store: FeatureCache | None = None) -> list[tuple[str, ...]]:
        """The BIO tags of each example's words, by a tagging task."""
        best = self.scores(examples, store).logits.argmax(-1).tolist()
        return read_tags(best, [len(example.words or ()) for example in examples], self.artifact.labels)

    def _check(self, examples: Sequence[Example]) -> None:
        check_choices_given(examples, self.artifact.kind, self.artifact.task)
        if examples and (examples[0].words is not None) != (self.artifact.kind == "tagging"):
            known, given = ("words", "texts")[:: 1 if self.artifact.kind == "tagging" else -1]
            raise DataError(
                f"The task {self.artifact.task!r} was to be asked.", f"It was fitted on {known}; these are {given}.",
                "Give rows as it was fitted on: rows with tokens to a tagging task, and texts to others.",
            )  # fmt: skip
        if examples and (examples[0].text_pair is not None) != self.artifact.text_pair:
            known, given = ("pairs of texts", "single texts")[:: 1 if self.artifact.text_pair else -1]
            raise DataError(
                f"Texts were given to the task {self.artifact.task!r}.",
                f"It was fitted on {known}; these are {given}.",
                "Name the columns with --text" + (" and --text-pair." if self.artifact.text_pair else "."),
            )  # fmt: skip

    def _logits(self, examples: Sequence[Example], first: int, longest: int, store: FeatureCache | None) -> Tensor:
        if self._asked is not None:
            found = self._asked(examples, first)
            return widened(found, longest) if self.artifact.kind == "choice" else found
        features, head = self.artifact.features, self.artifact.head
        marks = tuple(features.get("marks", ()))
        pool = encode(self.backbone, examples, template=self.artifact.template, marks=marks)
        if features["kind"] == "views":
            lexicon = Lexicon(head["terms"], head["idf"]) if "terms" in head else None
            views = Views(tuple(features["views"]), marks, self._prior).compute(self.backbone, pool, lexicon, store)
            pool = Batch({"features": torch.cat(views, -1)}, pool.row_mask)
        elif store is not None and self._reader.adapted and self._reader.adapted.first_block:
            pool = self._reader.prepared(pool, store)  # not for a method beside: all states of all rows are too many
        logits = predict(self._model, self._params, pool, len(self._params["head"]["bias"]))
        return word_scores(logits, pool.inputs["word"], longest) if "word" in pool.inputs else logits
