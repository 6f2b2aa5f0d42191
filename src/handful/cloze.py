"""Self-supervised tasks from plain text: which of N hidden words is missing from a sentence (SMLMT).

Bansal, Jha, Munkhdalai and McCallum, EMNLP 2020 (arXiv 2009.08445). A word is a run of letters, with apostrophes inside
it, of at least three; two words are the same whatever their case. Texts in a script without spaces between words have
none that could be hidden.
"""

from __future__ import annotations

import os.path
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handful.errors import BackboneError, DataError, RequestError
from handful.metatasks import Bounds, between, bounds
from handful.pools import digest_of
from handful.seeds import generator
from handful.texts import LONG, normalised, sentences, text_digest
from handful.types import Episode, Example, Task

if TYPE_CHECKING:
    from handful.backbone import Backbone

LONGEST, SHORTEST = 300, 5
"""A line of more characters is cut into sentences; a sentence of more, or of fewer words, is left out."""
_ATTEMPTS = 60
_LETTERS = 3
_WORD = re.compile(r"\b[^\W\d_]+(?:['’][^\W\d_]+)*\b")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Different sentences, and the numbers of those that hold a word, for each word of two or more sentences."""

    sentences: Sequence[str]
    index: Mapping[str, NDArray[np.int32]] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Cloze:
    """N-way k-shot episodes of hidden words: `shots` and `query` sentences of each of `ways` words.

    Every whole word of a way is replaced by `mask_token` in its sentences, which hold no other word of the episode;
    all sentences are different. The classes are numbers in random order: what a class is can only be seen in the
    support. No two words of an episode are `akin`. Numbers are drawn anew for each episode, no larger than the text
    allows. DataError where the smallest cannot be drawn, RequestError for numbers out of range.

    common    words of a larger share of the sentences are never hidden: "the", "and"
    words     only these are hidden; None for all
    clusters  word -> number of its cluster (`cluster_words`); a word without one is alone
    hard      with clusters, the share of episodes whose words are of one cluster; in the others they are of several
    """

    corpus: Corpus
    mask_token: str = "[MASK]"
    ways: Bounds = (2, 4)
    shots: Bounds = (1, 8)
    query: int = 4
    common: float = 0.05
    words: Collection[str] | None = field(default=None, repr=False)
    clusters: Mapping[str, int] | None = field(default=None, repr=False)
    hard: float = 0.5
    name: str = "cloze"

    def __post_init__(self) -> None:
        ways, shots = bounds(self.ways, 2, "ways")[0], bounds(self.shots, 1, "shots")[0]
        bounds(self.query, 1, "query rows")
        for what, share in {"common": self.common, "hard": self.hard}.items():
            if not 0 <= share <= 1:
                raise RequestError(f"{what}={share} was asked for.", "It is a share.", "Give a number from 0 to 1.")
        if len(self.vocabulary) < ways:
            raise DataError(
                f"Episodes of {ways} or more hidden words were to be made of {self.name}.",
                f"{len(self.vocabulary)} of its words are in {shots + self.query} or more of the "
                f"{self.size} sentences and in at most {100 * self.common:g} % of them.",
                "Give more text, ask for fewer shots or query rows, or raise `common`.",
            )

    @property
    def size(self) -> int:
        return len(self.corpus.sentences)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words that may be hidden, frequent ones first."""
        least, most = bounds(self.shots, 1, "shots")[0] + self.query, self.common * self.size
        words = None if self.words is None else frozenset(map(str.casefold, self.words))
        counts = {
            word: len(held) for word, held in self.corpus.index.items()
            if least <= len(held) <= most and len(word) >= _LETTERS and (words is None or word in words)
        }  # fmt: skip
        return tuple(sorted(counts, key=lambda word: (-counts[word], word)))

    def draw(self, seed: int) -> Episode:
        rng = generator(seed, "cloze", self.name)
        fewest, most = bounds(self.shots, 1, "shots")
        shots = between(rng, fewest, min(most, int(self._counts[bounds(self.ways, 2, "ways")[0] - 1]) - self.query))
        for attempt in range(_ATTEMPTS):
            shots = fewest if attempt == _ATTEMPTS // 2 else shots
            words = self._drawn_words(rng, shots + self.query)
            rows = self._drawn_sentences(words, shots + self.query, rng)
            if words and all(len(own) == shots + self.query for own in rows):
                parts = [[Example(text, None, str(way)) for text in own] for way, own in enumerate(rows)]
                order = tuple(str(way) for way in rng.permutation(len(words)))
                support = [row for own in parts for row in own[:shots]]
                asked = [row for own in parts for row in own[shots:]]
                return Episode(*(_shuffled(self.name, side, order, rng) for side in (support, asked)))
        raise DataError(
            f"An episode of hidden words was to be made of {self.name}.",
            f"Among its {len(self.vocabulary)} words {_ATTEMPTS} draws met none that have {fewest + self.query} "
            "sentences each without the others.",
            "Give more text, or ask for fewer ways, shots or query rows.",
        )  # fmt: skip

    def contents(self) -> Collection[str]:
        return self._contents

    def digest(self) -> str:
        hashed = sha256("\0".join(self.corpus.sentences).encode("utf-8", "surrogatepass")).hexdigest()
        asked = self.ways, self.shots, self.query, self.common, self.hard, self.mask_token
        clusters = sorted((self.clusters or {}).items())
        return digest_of("cloze", self.name, asked, hashed, self.vocabulary, clusters)

    def split(self, fraction: float, seed: int) -> tuple[Cloze, Cloze]:
        """`(train, held)`: other words in each; those that begin with the same three letters stay together.

        DataError where one of them has too few.
        """
        starts = sorted({word[:_LETTERS] for word in self.vocabulary})
        chosen = generator(seed, "held words", self.name).random(len(starts)) < fraction
        held = {start for start, own in zip(starts, chosen, strict=True) if own}
        sides = [[word for word in self.vocabulary if (word[:_LETTERS] in held) is side] for side in (False, True)]
        return replace(self, words=sides[0]), replace(self, words=sides[1], name=f"{self.name}, held out")

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return np.array([len(self.corpus.index[word]) for word in self.vocabulary])

    @cached_property
    def _clusters(self) -> NDArray[np.int64] | None:
        """`[words]`: the cluster of each word of the vocabulary; words without one get numbers of their own."""
        if self.clusters is None:
            return None
        known = {word.casefold(): cluster for word, cluster in self.clusters.items()}
        alone = max(known.values(), default=0) + 1
        return np.array([known.get(word, alone + i) for i, word in enumerate(self.vocabulary)])

    @cached_property
    def _contents(self) -> frozenset[str]:
        pieces = (piece for text in self.corpus.sentences for piece in sentences(text) if len(piece) >= LONG)
        return frozenset(map(text_digest, (*self.corpus.sentences, *pieces)))

    def _drawn_words(self, rng: np.random.Generator, need: int) -> list[str]:
        """Words with so many sentences, no two of them akin; none where this draw met too few."""
        enough = int(np.searchsorted(-self._counts, -need, side="right"))
        least, most = bounds(self.ways, 2, "ways")
        ways, clusters = between(rng, least, min(most, enough)), None
        candidates = np.arange(enough)
        if self._clusters is not None:
            own = np.unique(self._clusters[:enough], return_inverse=True)[1]
            sizes = np.bincount(own)
            large = np.flatnonzero(sizes[own] >= ways)
            if rng.random() < self.hard and len(large):
                candidates = np.flatnonzero(own == own[rng.choice(large)])
            elif len(sizes) >= ways:
                clusters = own
        words, taken = list[str](), set[int]()
        for i in rng.choice(candidates, min(len(candidates), 16 * ways), replace=False).tolist():
            word = self.vocabulary[i]
            if len(words) < ways and not any(akin(word, other) for other in words):
                if clusters is not None and int(clusters[i]) in taken:
                    continue
                taken.add(i if clusters is None else int(clusters[i]))
                words.append(word)
        return words if len(words) == ways else []

    def _drawn_sentences(self, words: Sequence[str], count: int, rng: np.random.Generator) -> list[list[str]]:
        """So many masked sentences of each word without the others, all different; fewer where there are fewer."""
        given, seen, rows = self.corpus.sentences, set[str](), list[list[str]]()
        for word in words:
            others, own = set(words) - {word}, list[str]()
            for i in rng.permutation(self.corpus.index[word]):
                text = given[int(i)]
                if self.mask_token not in text and others.isdisjoint(words_of(text)):
                    hidden = masked(text, word, self.mask_token)
                    if normalised(hidden) not in seen:
                        seen.add(normalised(hidden))
                        own.append(hidden)
                if len(own) == count:
                    break
            rows.append(own)
        return rows


def index_sentences(lines: Iterable[str]) -> Corpus:
    """The corpus of some lines: a line of up to 300 characters is a sentence, a longer one is cut (`texts.sentences`).

    Sentences of fewer than five words, or still too long to be read whole, are left out, and so is one that differs
    from an earlier one in case and punctuation only. A backbone that cut a text could cut the mask from it.
    """
    kept: dict[str, str] = {}
    for line in lines:
        for text in [line.strip()] if len(line) <= LONGEST else sentences(line):
            if len(text) <= LONGEST and len(text.split()) >= SHORTEST:
                kept.setdefault(normalised(text), text)
    held: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(kept.values()):
        for word in words_of(text):
            held[word].append(i)
    index = {word: np.array(numbers, dtype=np.int32) for word, numbers in held.items() if len(numbers) > 1}
    return Corpus(tuple(kept.values()), index)


def read_lines(source: str | Path) -> list[str]:
    """The lines of a .txt or .txt.gz file that are not blank, or the texts of any other source. DataError."""
    from handful.sources import load_texts
    from handful.tables import read_table

    if os.path.splitext(str(source).lower().removesuffix(".gz"))[1] == ".txt":
        return [row["text"] for row in read_table(source).rows if row["text"].strip()]
    return texts_of(load_texts(source))


def texts_of(examples: Iterable[Example]) -> list[str]:
    """Every text, and second text."""
    return [text for example in examples for text in (example.text, example.text_pair) if text is not None]


def words_of(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}


def masked(text: str, word: str, mask_token: str) -> str:
    """The text with every whole occurrence of a word, whatever its case, replaced by one mask token."""
    return _WORD.sub(lambda found: mask_token if found[0].casefold() == word else found[0], text)


def akin(one: str, other: str) -> bool:
    """Whether two words may share a stem: whether they begin alike, up to the last letter of the shorter one.

    Coarser than a stemmer, which would be one more dependency: it parts `card` from `cards`, `happy` from `happiness`,
    and needlessly `car` from `card`; it does not know `go` and `went`.
    """
    alike = max(_LETTERS, min(len(one), len(other)) - 1)
    return one[:alike] == other[:alike]


def cluster_words(
    words: Sequence[str], backbone: Backbone, *, num_clusters: int | None = None, seed: int = 0
) -> dict[str, int]:
    """Word -> cluster, by k-means on the directions of a backbone's input embeddings, a word's pieces averaged.

    Without `num_clusters` there are about 50 words in each. BackboneError for a backbone that reads no text.
    """
    import torch
    from sklearn.cluster import KMeans

    if backbone.tokenizer is None:
        raise BackboneError("Words were to be clustered.", f"{backbone.id!r} reads no text.", "Use another backbone.")
    table: Any = backbone.model.get_input_embeddings()
    pieces: Any = backbone.tokenizer(list(words), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        rows = [table.weight[torch.tensor(own, device=table.weight.device)].float().mean(0) for own in pieces]
        points = torch.nn.functional.normalize(torch.stack(rows), dim=-1).cpu().numpy()
    number = num_clusters or max(2, len(words) // 50)
    kmeans: Any = KMeans
    found = kmeans(min(number, len(words)), n_init=1, random_state=seed).fit(points).labels_
    return dict(zip(words, map(int, found), strict=True))


def _shuffled(name: str, rows: Sequence[Example], labels: tuple[str, ...], rng: np.random.Generator) -> Task:
    return Task(name, [rows[i] for i in rng.permutation(len(rows))], labels)
