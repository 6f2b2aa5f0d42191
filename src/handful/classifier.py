"""The Python face: a scikit-learn classifier of texts, and many of them at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from handful import artifact as artifacts
from handful.artifact import Artifact
from handful.backbone import Backbone, shared
from handful.errors import RequestError
from handful.estimate import Estimate
from handful.predictor import Predictor
from handful.recipes import recipe as recipe_named
from handful.sources import from_lists, from_texts
from handful.taskfiles import with_template
from handful.types import Task, TaskKind


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Learns classes of texts from a handful of examples on a frozen, pretrained backbone.

    backbone  an alias ("minilm"), a hub id, a local folder, or a `Backbone` that is loaded already
    recipe    "default", "probe", "prototypes", or the name of a method to tune, such as "lora"; "tfew" answers in words
    template  a text with `{text}` (and `{text_pair}`) that rows are put into, e.g. "query: {text}"; for "tfew" a prompt
              in Jinja, e.g. "{{ text }} It is"

    Texts are strings or pairs of strings; labels anything hashable, or lists of labels for multi-label tasks.

    After `fit`: `classes_` (sorted), `artifact_`, and `estimate_`, the accuracy to expect with its interval, from
    cross-validation; it is None for a classifier that was loaded and has none.
    """

    def __init__(
        self,
        backbone: str | Backbone = "minilm",
        recipe: str = "default",
        *,
        template: str | None = None,
        dtype: str | None = None,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.recipe = recipe
        self.template = template
        self.dtype = dtype
        self.device = device
        self.seed = seed

    def fit(self, X: Iterable[Any], y: Iterable[Any]) -> FewShotClassifier:
        """Learns from texts and their labels. DataError for what cannot be learned from."""
        task, classes = _task(X, y, "task", self.template)
        (fitted,) = recipe_named(self.recipe)([task], _loaded(self), seed=self.seed)
        return self.adopt(fitted, classes)

    def predict(self, X: Iterable[Any]) -> np.ndarray:
        """The label of each text `[n]`; for multi-label tasks an array of tuples, those of at least even odds."""
        probability = self.predict_proba(X)
        if self.artifact_.kind == "multilabel":
            out = np.empty(len(probability), dtype=object)
            out[:] = [tuple(self.classes_[row >= 0.5].tolist()) for row in probability]
            return out
        return self.classes_[probability.argmax(1)]

    def predict_proba(self, X: Iterable[Any]) -> np.ndarray:
        """Calibrated probabilities `[n, C]`, in the order of `classes_`; multi-label rows need not sum to one."""
        check_is_fitted(self)
        scores = self._predictor.scores(from_texts(X))
        return scores.probabilities(self.artifact_.kind).double().cpu().numpy()[:, self._order]

    @property
    def estimate_(self) -> Estimate | None:
        """What cross-validation says about the accuracy to expect."""
        check_is_fitted(self)
        return Estimate.from_dict(self.artifact_.estimate) if self.artifact_.estimate else None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the fitted task, kilobytes without the backbone, to a folder."""
        check_is_fitted(self)
        artifacts.save(self.artifact_, folder)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], backbone: str | Backbone | None = None, *, device: str = "cpu"
    ) -> FewShotClassifier:
        """Reads a fitted task back; ArtifactError if it is damaged or `backbone` has other weights."""
        fitted = artifacts.load(folder)
        classifier = cls(backbone or fitted.backbone, fitted.recipe, template=fitted.template, device=device)
        return classifier.adopt(fitted, fitted.labels)

    def adopt(self, fitted: Artifact, classes: Sequence[Any]) -> FewShotClassifier:
        """Becomes the classifier of a fitted task; `classes` are its labels as the objects that they stand for."""
        order = sorted(range(len(classes)), key=lambda i: _sortable(classes[i]))
        self.artifact_, self._order = fitted, order
        self.classes_ = _array([classes[i] for i in order])
        self._predictor = Predictor(fitted, _loaded(self))
        return self

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.artifact_, _loaded(self))

    def __getstate__(self) -> dict[str, Any]:
        """Without the backbone, which is found again by its name."""
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_predictor"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def fit_many(
    datasets: Sequence[tuple[Iterable[Any], Iterable[Any]] | Task],
    *,
    backbone: str | Backbone = "minilm",
    recipe: str = "default",
    template: str | None = None,
    seed: int = 0,
) -> list[FewShotClassifier]:
    """Fits many tasks, `(texts, labels)` or `Task`, in one batch; each as if it had been fitted alone.

    RequestError for tasks that have no classes of whole texts, as tagging and choice tasks; `handful fit` fits them.
    """
    pairs = [
        (data, list(data.labels)) if isinstance(data, Task) else _task(*data, f"task {i}", template)
        for i, data in enumerate(datasets)
    ]
    for task, _ in pairs:
        if why := _NO_CLASSES.get(task.kind):
            found = f"{task.name} is a {task.kind} task, {why}."
            raise RequestError("Classifiers were to be fitted.", found, "Fit it with handful fit, or a recipe.")
    blank = FewShotClassifier(backbone, recipe, template=template, seed=seed)
    fitted: dict[int, Artifact] = {}
    kinds: tuple[TaskKind, ...] = ("classification", "multilabel")
    for kind in kinds:
        chosen = [i for i, (task, _) in enumerate(pairs) if task.kind == kind]
        if chosen:
            done = recipe_named(recipe)([pairs[i][0] for i in chosen], _loaded(blank), seed=seed)
            fitted.update(zip(chosen, done, strict=True))
    return [
        FewShotClassifier(backbone, recipe, template=template, seed=seed).adopt(fitted[i], classes)
        for i, (_, classes) in enumerate(pairs)
    ]


_NO_CLASSES = {
    "tagging": "whose answers are not of whole texts",
    "choice": "whose rows bring their own choices",
    "generation": "whose answers are written freely",
}


def _loaded(classifier: FewShotClassifier) -> Backbone:
    chosen = classifier.backbone
    if isinstance(chosen, Backbone):
        return chosen
    return shared(chosen, dtype=classifier.dtype, device=classifier.device)


def _task(texts: Iterable[Any], labels: Iterable[Any], name: str, template: str | None) -> tuple[Task, list[Any]]:
    task, classes = from_lists(texts, labels, name=name)
    return with_template(task, template), classes


def _sortable(label: Any) -> tuple[str, Any]:
    """Numbers by value, everything else by its text."""
    return ("", label) if isinstance(label, (int, float, np.number)) else (type(label).__name__, str(label))


def _array(classes: Sequence[Any]) -> np.ndarray:
    """The classes as an array, of objects where numpy would change their type."""
    array = np.asarray(classes)
    if array.ndim != 1 or len({type(label) for label in classes}) > 1:
        array = np.empty(len(classes), dtype=object)
        array[:] = list(classes)
    return array
