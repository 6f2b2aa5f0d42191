"""How well answers in text agree with what was right: exact match, the F1 of words, and ROUGE-L.

Exact match and F1 are those of SQuAD (Rajpurkar et al. 2016), on texts without case, punctuation, English articles and
odd spaces. ROUGE-L (Lin 2004) is rouge-score's, without stemming, on words of a to z and 0 to 9 as the original has
them: it is no measure of other scripts. Of several right answers the nearest one counts. All are shares, 0 to 1.
"""

from __future__ import annotations

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from handful.errors import DataError, HandfulWarning, RequestError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ROUGE_WORD = re.compile("[a-z0-9]")


def normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, without "a", "an" and "the", words parted by one space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 if the answer is one of the right ones, else 0."""
    return _best(lambda one: float(normalised(answer) == normalised(one)), right)


def f1(answer: str, right: Sequence[str]) -> float:
    """Harmonic mean of the shares of words of the answer, and of the right one, that are in both, each as often."""
    said = normalised(answer).split()

    def score(one: str) -> float:
        wanted = normalised(one).split()
        if not said or not wanted:  # nothing was to be said, or something was: as SQuAD 2.0 has it
            return float(said == wanted)
        return 2 * sum((Counter(said) & Counter(wanted)).values()) / (len(said) + len(wanted))

    return _best(score, right)


def rouge_l(answer: str, right: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words. RequestError without the extra `text`."""
    return _best(lambda one: float(_scorer().score(one, answer)["rougeL"].fmeasure), right)


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {"exact_match": exact_match, "f1": f1, "rouge_l": rouge_l}
"""All of them, by name."""


def measure(
    answers: Sequence[str], right: Sequence[str | Sequence[str]], names: Sequence[str] = tuple(METRICS)
) -> dict[str, float]:
    """The mean of each measure over rows of an answer and its right one, or all that are right; and `n`, the rows.

    DataError for no rows, other numbers of both, and a row without a right answer; RequestError for other `names`, and
    for "rouge_l" without the extra `text`. Warns (HandfulWarning) of right answers without a word that ROUGE-L knows.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise RequestError(
            f"Answers were to be measured by {', '.join(map(repr, unknown))}.", f"There are {', '.join(METRICS)}.",
            "Choose among these.",
        )  # fmt: skip
    each = [(one,) if isinstance(one, str) else tuple(one) for one in right]
    if not answers or len(answers) != len(each):
        found = f"There are {len(answers)} answers and right ones for {len(each)} rows."
        raise DataError("Answers were to be measured.", found, "Give both for every row, and at least one row.")
    if empty := [row for row, own in enumerate(each, 1) if not own]:
        found = f"Row {empty[0]} has no right answer."
        raise DataError("Answers were to be measured.", found, "Say what is right, or leave the row out.")
    if "rouge_l" in names and (odd := [own for own in each if not any(_ROUGE_WORD.search(o.lower()) for o in own)]):
        said = (
            f"ROUGE-L knows words of a to z and 0 to 9 only, and {len(odd)} of {len(each)} rows have no right answer "
        )
        warnings.warn(f"{said}with one: they count as 0. Use f1 for other scripts.", HandfulWarning, stacklevel=2)
    pairs = list(zip(answers, each, strict=True))
    return {name: fmean(METRICS[name](answer, own) for answer, own in pairs) for name in names} | {"n": len(pairs)}


def _best(score: Callable[[str], float], right: Sequence[str]) -> float:
    """The score of the nearest right answer; of a str, which is one and not a sequence of letters, its own."""
    ones = [right] if isinstance(right, str) else right
    if not ones:
        raise DataError("An answer was to be measured.", "No right answer was given.", "Give at least one.")
    return max(map(score, ones))


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise RequestError(
            "Answers were to be measured by ROUGE-L.", "rouge-score is not installed.",
            "Run: pip install 'handful[text]'",
        ) from error  # fmt: skip
    return RougeScorer(["rougeL"])
