"""The scikit-learn face."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

from handful import FewShotClassifier, fit_many
from handful.errors import ArtifactError, DataError, HandfulWarning, RequestError
from handful.types import Task
from tiny import TINY, build
from tinytext import save_tiny, tiny_multilabel, tiny_task, tiny_text, words_of

pytestmark = pytest.mark.filterwarnings("ignore:Scoring failed:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("tiny") / "bert"))


def data(labels: list[Any], rows: int = 6, seed: int = 0) -> tuple[list[str], list[Any]]:
    """Rows of the classes in turn."""
    texts = [words_of(c, rows, seed) for c in range(len(labels))]
    return [own[i] for i in range(rows) for own in texts], [label for _ in range(rows) for label in labels]


def small(**options: Any) -> FewShotClassifier:
    return FewShotClassifier(tiny_text(), "probe", **options)


def test_it_is_an_estimator(folder: str) -> None:
    first = FewShotClassifier(folder, "probe", seed=3, template="so: {text}")
    assert is_classifier(first)
    assert first.get_params() == {
        "backbone": folder, "recipe": "probe", "template": "so: {text}", "dtype": None, "device": "cpu", "seed": 3,
    }  # fmt: skip
    second = clone(first)
    assert second.get_params() == first.get_params()
    assert second.set_params(seed=4).seed == 4
    assert "recipe='probe'" in repr(first)
    texts, labels = data(["a", "b"])
    assert first.fit(texts, labels) is first
    assert not hasattr(clone(first), "artifact_")


def test_a_loaded_backbone_is_a_parameter_like_any() -> None:
    classifier = small()
    assert clone(classifier).backbone is classifier.backbone
    assert (
        copy.deepcopy(classifier.fit(*data(["a", "b"]))).predict(["abc"]).tolist()
        == classifier.predict(["abc"]).tolist()
    )


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([3, 1, 20], [1, 3, 20]),
        ([np.int64(5), np.int64(-2)], [-2, 5]),
        ([True, False], [False, True]),
        (["zebra", "Ähre", "apple"], ["apple", "zebra", "Ähre"]),
    ],
)
def test_classes_are_sorted_and_of_their_own_kind(labels: list[Any], classes: list[Any]) -> None:
    texts, y = data(labels)
    classifier = small().fit(texts, y)
    assert classifier.classes_.tolist() == classes
    assert classifier.classes_.dtype.kind == np.asarray(labels).dtype.kind
    probability = classifier.predict_proba(texts)
    assert probability.shape == (len(texts), len(classes))
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-6)
    found = classifier.predict(texts)
    assert (found == classifier.classes_[probability.argmax(1)]).all()
    assert found.dtype == classifier.classes_.dtype
    assert (found == np.asarray(y)).mean() > 0.8
    assert classifier.score(texts, y) == accuracy_score(y, found)


def test_arrays_and_iterators_are_taken() -> None:
    texts, labels = data([1, 0])
    expected = small().fit(texts, labels).predict_proba(texts)
    for given in (np.array(texts), np.array(texts, dtype=object), tuple(texts)):
        assert np.array_equal(small().fit(given, np.array(labels)).predict_proba(given), expected)
    assert np.array_equal(small().fit(iter(texts), iter(labels)).predict_proba(iter(texts)), expected)


def test_the_order_of_classes_does_not_follow_the_rows() -> None:
    texts, labels = data(["b", "c", "a"])
    first = small().fit(texts, labels)
    second = small().fit(texts[::-1], labels[::-1])
    assert first.classes_.tolist() == second.classes_.tolist() == ["a", "b", "c"]
    assert (
        np.abs(first.predict_proba(texts) - second.predict_proba(texts)).max() < 0.35
    )  # other folds, other temperature
    assert first.predict(texts).tolist() == second.predict(texts).tolist()


def test_scikit_learns_tools_work(folder: str) -> None:
    texts, labels = data(["a", "b"], rows=8)
    scores = cross_val_score(FewShotClassifier(folder, "prototypes"), np.array(texts), np.array(labels), cv=4)
    assert scores.mean() > 0.8
    search = GridSearchCV(
        FewShotClassifier(tiny_text()), {"recipe": ["probe", "prototypes"], "template": [None, "{text} !"]}, cv=2,
        scoring="neg_log_loss",
    )  # fmt: skip
    search.fit(np.array(texts), np.array(labels))
    assert set(search.best_params_) == {"recipe", "template"}
    assert search.predict(texts).shape == (16,)
    pipe = make_pipeline(FunctionTransformer(lambda X: [text.lower() for text in X]), small())
    assert pipe.fit(texts, labels).score(texts, labels) > 0.8


def test_check_estimator_where_it_applies(folder: str) -> None:
    """Its checks of arrays of numbers do not apply to texts: scikit-learn leaves them out itself, from the tags.

    With them it leaves out those that need no data; these are run one by one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        results = check_estimator(FewShotClassifier(folder, "probe"), on_fail=None)
    assert {result["check_name"]: result["status"] for result in results} == {"check_estimator_cloneable": "passed"}
    for name in (
        "estimator_cloneable", "estimator_tags_renamed", "valid_tag_types", "estimator_repr",
        "no_attributes_set_in_init",
        "parameters_default_constructible", "get_params_invariance", "set_params",
        "do_not_raise_errors_in_init_or_set_params", "mixin_order",
    ):  # fmt: skip
        getattr(estimator_checks, f"check_{name}")("FewShotClassifier", FewShotClassifier(folder, "probe"))


def test_before_fitting() -> None:
    for use in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(small(), use)(["a"])
    with pytest.raises(NotFittedError):
        small().save("nowhere")
    with pytest.raises(NotFittedError):
        _ = small().estimate_


@pytest.mark.parametrize(
    ("texts", "labels", "words"),
    [
        ([], [], "none"),
        (["a", "b"], ["x"], "2 texts and 1 labels"),
        (["a", "b"], ["x", "x"], "only one class"),
        (["a", " "], ["x", "y"], "empty"),
        (["a", None], ["x", "y"], "missing"),
        (["a", "b"], ["x", None], "missing"),
        ("ab", ["x", "y"], "single str"),
        (["a", ("b", "c")], ["x", "y"], "Item 1 has 2 texts"),
    ],
)
def test_what_cannot_be_learned_from(texts: Any, labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        small().fit(texts, labels)


def test_unknown_names() -> None:
    with pytest.raises(RequestError, match=r"Known are default, probe.*lora"):
        FewShotClassifier(tiny_text(), "magic").fit(*data(["a", "b"]))


def test_refitting_forgets() -> None:
    classifier = small().fit(*data(["a", "b"]))
    classifier.fit(*data([1, 2, 3]))
    assert classifier.classes_.tolist() == [1, 2, 3]
    assert classifier.predict_proba(["abc"]).shape == (1, 3)


@pytest.mark.parametrize("recipe", ["probe", "bitfit"])
def test_saved_and_loaded(tmp_path: Path, folder: str, recipe: str) -> None:
    texts, labels = data(["b", "größer", "a"], rows=4)
    classifier = FewShotClassifier(folder, recipe, template="{text} !").fit(texts, labels)
    classifier.save(tmp_path / "task")
    back = FewShotClassifier.load(tmp_path / "task")
    assert back.classes_.tolist() == classifier.classes_.tolist()
    assert np.array_equal(back.predict_proba(texts), classifier.predict_proba(texts))
    assert back.estimate_ == classifier.estimate_
    assert back.estimate_ is not None
    assert back.get_params()["template"] == "{text} !"
    assert FewShotClassifier.load(tmp_path / "task", backbone=tiny_text()).predict(texts).shape == (12,)
    clone(back).fit(texts, labels)  # the recipe that it names can be run again
    other = build("bert", TINY["bert"].args[1], seed=1)  # type: ignore[attr-defined]
    other.save_pretrained(tmp_path / "other")
    tiny_text().tokenizer.save_pretrained(tmp_path / "other")  # type: ignore[union-attr]
    with pytest.raises(ArtifactError, match="these weights"):
        FewShotClassifier.load(tmp_path / "task", backbone=str(tmp_path / "other"))


def test_a_fitted_one_can_be_pickled(folder: str) -> None:
    texts, labels = data([1, 0])
    classifier = FewShotClassifier(folder, "probe").fit(texts, labels)
    content = pickle.dumps(classifier)
    assert len(content) < 100_000  # without the backbone
    back = pickle.loads(content)
    assert np.array_equal(back.predict_proba(texts), classifier.predict_proba(texts))


def test_many_at_once_are_as_each_alone() -> None:
    datasets: list[Any] = [data(["a", "b"]), data([3, 1, 2], rows=4, seed=1), tiny_task(2, 5, name="named")]
    multi = tiny_multilabel()
    datasets.insert(1, ([e.text for e in multi.examples], [list(e.label or ()) for e in multi.examples]))
    together = fit_many(datasets, backbone=tiny_text(), recipe="probe", seed=2)
    asked = [text for c in range(3) for text in words_of(c, 3, 9)]
    for given, classifier in zip(datasets, together, strict=True):
        if isinstance(given, Task):
            texts, labels = [e.text for e in given.examples], [e.label for e in given.examples]
        else:
            texts, labels = given
        alone = small(seed=2).fit(texts, labels)
        assert classifier.classes_.tolist() == alone.classes_.tolist()
        np.testing.assert_allclose(classifier.predict_proba(asked), alone.predict_proba(asked), atol=1e-5)
        assert classifier.estimate_ is not None
        assert alone.estimate_ is not None
        assert classifier.estimate_.accuracy == alone.estimate_.accuracy
    assert together[3].artifact_.task == "named"


def test_several_labels_a_row() -> None:
    task = tiny_multilabel(24)
    texts, labels = [e.text for e in task.examples], [set(e.label or ()) for e in task.examples]
    classifier = small().fit(texts, labels)
    assert classifier.classes_.tolist() == ["a", "b"]
    found = classifier.predict(texts)
    assert found.shape == (24,)
    assert all(isinstance(own, tuple) for own in found)
    assert np.mean([set(own) == label for own, label in zip(found, labels, strict=True)]) > 0.6
    probability = classifier.predict_proba(texts)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert [tuple(classifier.classes_[row >= 0.5]) for row in probability] == list(found)


def test_pairs_of_texts() -> None:
    texts, labels = data(["a", "b"])
    pairs = [("always the same", text) for text in texts]
    classifier = small().fit(pairs, labels)
    assert classifier.artifact_.text_pair
    assert (classifier.predict(pairs) == np.array(labels)).mean() > 0.8
    with pytest.raises(DataError, match="fitted on pairs of texts; these are single texts"):
        classifier.predict(texts)
    with pytest.raises(DataError, match="fitted on single texts; these are pairs of texts"):
        small().fit(texts, labels).predict(pairs)


def test_duplicates_with_different_labels_are_named() -> None:
    texts, labels = data(["a", "b"])
    with pytest.warns(HandfulWarning, match="same text has different labels.*'twice'"):
        small().fit([*texts, "twice", "twice"], [*labels, "a", "b"])
