"""Hidden words (SMLMT): which words and sentences meet in an episode, what is masked, clusters, files of plain text."""

from __future__ import annotations

import gzip
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import handful
from handful.backbone import Backbone
from handful.cloze import Cloze, Corpus, akin, cluster_words, index_sentences, masked, read_lines, words_of
from handful.errors import BackboneError, DataError, RequestError
from handful.holdouts import hold_out, overlap
from handful.metatasks import Supervised
from handful.texts import sentences
from handful.types import Example, Task

ANIMALS = ("horse", "sparrow", "mouse", "tiger", "camel", "beetle")
TOOLS = ("hammer", "ladder", "needle", "shovel", "bucket", "wrench")
FILL = ("walks", "stands", "waits", "rests", "remains", "shines")


def made(count: int = 600, nouns: int = 2, seed: int = 0) -> list[str]:
    """Sentences of `nouns` nouns each, one of them capitalised and repeated now and then."""
    rng = random.Random(seed)
    lines: list[str] = []
    for i in range(count):
        own = rng.sample([*ANIMALS, *TOOLS], nouns)
        first = own[0].capitalize() if i % 3 == 0 else own[0]
        again = f" or {own[0]}" if i % 4 == 0 else ""
        lines.append(f"{first}s and the {' and the '.join(own)}{again} {rng.choice(FILL)} at place {i}.")
    return lines


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return index_sentences(made())


def hidden(episode_row: Example, corpus: Corpus, token: str) -> set[str]:
    """The words of the corpus that may have been hidden in a masked sentence."""
    shape = "[^\\W\\d_]+".join(re.escape(part) for part in episode_row.text.split(token))
    (sentence,) = [text for text in corpus.sentences if re.fullmatch(shape, text)]
    return words_of(sentence) - words_of(episode_row.text.replace(token, " "))


@given(seed=st.integers(0, 2**40), query=st.integers(1, 4), ways=st.integers(2, 4))
@settings(max_examples=60)
def test_an_episode_hides_one_word_of_each_way(seed: int, query: int, ways: int) -> None:
    corpus = index_sentences(made())
    source = Cloze(corpus, "<mask>", ways=(2, ways), shots=(1, 6), query=query, common=0.5, words=[*ANIMALS, *TOOLS])
    episode = source.draw(seed)
    assert episode == source.draw(seed)
    support, asked = episode.support, episode.query
    assert sorted(support.labels) == [str(i) for i in range(len(support.labels))]
    assert support.labels == asked.labels
    assert 2 <= len(support.labels) <= ways
    assert set(Counter(e.label for e in asked.examples).values()) == {query}
    assert len(set(Counter(e.label for e in support.examples).values())) == 1
    rows = [*support.examples, *asked.examples]
    words: dict[object, set[str]] = {}
    for row in rows:
        found = hidden(row, corpus, "<mask>")
        words[row.label] = words.get(row.label, found) & found
    assert all(len(own) == 1 for own in words.values())
    chosen = set[str]().union(*words.values())
    assert len(chosen) == len(support.labels)
    for row in rows:
        assert chosen.isdisjoint(words_of(row.text))  # neither its own word, nor another of the episode
    assert len({row.text for row in rows}) == len(rows)


def test_every_whole_word_is_masked_and_nothing_else() -> None:
    text = "Card, card-holder's CARD: cards, discard, card2, card_3 and the card's card."
    assert masked(text, "card", "[MASK]") == (
        "[MASK], [MASK]-holder's [MASK]: cards, discard, card2, card_3 and the card's [MASK]."
    )
    assert words_of("Don't tell Ömer's 3rd straße, I said") == {"don't", "tell", "ömer's", "strasse", "i", "said"}
    assert masked("Die STRASSE und die Straße", "strasse", "#") == "Die # und die #"


@given(text=st.text(alphabet="aAbB'’ -1_.İŉß", max_size=30))
@settings(max_examples=300)
def test_a_masked_word_is_gone(text: str) -> None:
    for word in words_of(text):
        left = masked(text, word, " # ")
        assert word not in words_of(left)
        assert words_of(left) == words_of(text) - {word}


def test_labels_are_permuted(corpus: Corpus) -> None:
    source = Cloze(corpus, common=0.5, words=["horse", "hammer"], ways=2)
    drawn = [source.draw(seed).support for seed in range(60)]
    assert {part.labels for part in drawn} == {("0", "1"), ("1", "0")}
    rows = [(part.labels.index(str(part.examples[0].label)), part.examples[0]) for part in drawn]
    assert {place for place, row in rows if "hammer" in hidden(row, corpus, "[MASK]")} == {0, 1}


def test_a_sentence_of_two_hidden_words_is_used_for_neither() -> None:
    both = [f"Number {i} has a lantern beside the kettle" for i in range(50)]
    alone = [f"Number {i} has a {word} and nothing else" for i in range(6) for word in ("lantern", "kettle")]
    words = ["lantern", "kettle"]
    source = Cloze(index_sentences([*both, *alone]), ways=2, shots=(1, 8), query=2, common=1, words=words)
    for seed in range(40):
        episode = source.draw(seed)
        for row in (*episode.support.examples, *episode.query.examples):
            assert row.text.endswith("and nothing else")
            assert "[MASK]" in row.text
    with pytest.raises(DataError, match=r"Among its 2 words 60 draws met none that have 3 sentences each without"):
        Cloze(index_sentences(both), ways=2, query=2, common=1, words=words).draw(0)


def test_a_sentence_with_the_mask_token_in_it_is_not_used() -> None:
    words = ["lantern", "kettle"]
    rows = [f"Here is {words[i % 2]} number {i} of {'my' if i < 12 else '[MASK]'} things" for i in range(50)]
    source = Cloze(index_sentences(rows), ways=2, shots=3, query=3, common=1, words=words)
    assert all(row.text.count("[MASK]") == 1 for seed in range(20) for row in source.draw(seed).support.examples)


def test_sentences_that_are_the_same_once_masked_do_not_meet() -> None:
    words = ["lantern", "kettle"]
    rows = [f"Here is {word} number {i} of many" for word in words for i in range(6)]
    source = Cloze(index_sentences(rows), ways=2, shots=1, query=2, common=1, words=words)
    for seed in range(40):
        episode = source.draw(seed)
        texts = [row.text for row in (*episode.support.examples, *episode.query.examples)]
        assert len(set(texts)) == 6
    with pytest.raises(DataError, match="have 6 sentences each"):
        replace(source, shots=3, query=3).draw(0)


def test_words_of_one_stem_are_not_in_one_episode(corpus: Corpus) -> None:
    alike = [("card", "cards"), ("happy", "happiness"), ("study", "studies"), ("making", "make"), ("run", "running")]
    apart = [("card", "cart"), ("horse", "house"), ("deposit", "depend"), ("one", "once")]
    assert all(akin(*pair) and akin(*pair[::-1]) for pair in alike)
    assert [pair for pair in apart if akin(*pair)] == [("card", "cart")]  # as coarse as it says
    pair = Cloze(corpus, common=1, words=["horse", "horses"], ways=2, shots=1, query=1)
    with pytest.raises(DataError, match="Among its 2 words"):
        pair.draw(0)


@given(words=st.lists(st.text(alphabet="abc", min_size=3, max_size=6), min_size=2, max_size=2))
def test_a_word_is_akin_to_what_begins_with_it(words: list[str]) -> None:
    one, other = words
    assert akin(one, one + other)
    assert akin(one, other) == akin(other, one)
    assume(one[:3] != other[:3])
    assert not akin(one, other)


def test_common_and_rare_words_are_not_hidden(corpus: Corpus) -> None:
    source = Cloze(corpus, common=0.4, shots=(2, 8), query=4)
    limit = 0.4 * len(corpus.sentences)
    counts = {word: len(rows) for word, rows in corpus.index.items()}
    assert {"the", "and", "place"}.isdisjoint(source.vocabulary)
    assert set(source.vocabulary) == {w for w, n in counts.items() if 6 <= n <= limit and len(w) >= 3}
    assert [counts[w] for w in source.vocabulary] == sorted((counts[w] for w in source.vocabulary), reverse=True)
    assert {"the", "and", "place"} <= set(replace(source, common=1.0).vocabulary)
    assert replace(source, words=["Horse", "MOUSE", "unseen"]).vocabulary == tuple(
        sorted(("horse", "mouse"), key=lambda w: (-counts[w], w))
    )


def test_hard_episodes_are_of_one_cluster_and_easy_ones_of_several(corpus: Corpus) -> None:
    clusters = dict.fromkeys(ANIMALS, 0) | dict.fromkeys(TOOLS, 1) | {word.upper(): 2 for word in FILL}
    source = Cloze(corpus, common=0.9, ways=3, shots=2, query=1, words=clusters, clusters=clusters)

    def spread(hard: float) -> Counter[int]:
        drawn = [replace(source, hard=hard).draw(seed).support.examples for seed in range(60)]
        words = [set[str]().union(*(hidden(row, corpus, "[MASK]") for row in rows)) for rows in drawn]
        return Counter(len({clusters.get(word, 2) for word in own}) for own in words)

    assert spread(1.0) == {1: 60}
    assert spread(0.0) == {3: 60}
    assert spread(0.5).keys() == {1, 3}
    lonely = replace(source, clusters={"horse": 0}, hard=1.0)  # no cluster is large enough: any words
    assert len(lonely.draw(0).support.labels) == 3
    few = replace(source, clusters=dict.fromkeys([*clusters, *FILL], 0), hard=0.0)  # no three clusters either
    assert len(few.draw(0).support.labels) == 3
    assert source.digest() != replace(source, clusters=None).digest()


def test_clusters_of_a_backbone_are_of_meaning(minilm: Backbone) -> None:
    months, colours, foods = ["may", "june", "july"], ["red", "green", "blue"], ["bread", "soup", "pasta"]
    found = cluster_words([*months, *colours, *foods], minilm, num_clusters=3)
    groups = [{found[word] for word in words} for words in (months, colours, foods)]
    assert all(len(group) == 1 for group in groups)
    assert len(set[int]().union(*groups)) == 3
    assert found == cluster_words([*months, *colours, *foods], minilm, num_clusters=3)
    with pytest.raises(BackboneError, match="reads no text"):
        cluster_words(months, replace(minilm, tokenizer=None))


def test_lines_become_sentences() -> None:
    long = "The first one goes on for a while here. " * 6 + "“Is that the end?” he asked her then. " + "x " * 20
    assert len(long) > 300
    lines = [
        "  A line of five words. And more in it.  ", "too short a line", "A LINE of five words: and more in it?",
        long, "one endless line without an end " * 20, "", "The last one, the fifth",
    ]  # fmt: skip
    assert index_sentences(lines).sentences == (
        "A line of five words. And more in it.", "The first one goes on for a while here.",
        "x x x x x x x x x x x x x x x x x x x x", "The last one, the fifth",
    )  # fmt: skip
    assert sentences("One. “Two!” Three? (Four…) 5.5 is five") == ["One.", "“Two!”", "Three?", "(Four…)", "5.5 is five"]
    assert sentences("一。二！三") == ["一。", "二！", "三"]


def test_files_of_plain_text_and_of_tasks(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First line\r\n\n   \nsecond line\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("packed\n")
    (tmp_path / "c.csv").write_text("text_a,text_b,label\nleft,right,x\nup,down,y\n")
    assert read_lines(tmp_path / "a.txt") == ["First line", "second line"]
    assert read_lines(str(tmp_path / "b.txt.gz")) == ["packed"]
    assert read_lines(tmp_path / "c.csv") == ["left", "right", "up", "down"]
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match="It is empty"):
        read_lines(tmp_path / "empty.txt")


def test_held_out_words_are_others(corpus: Corpus) -> None:
    source = Cloze(corpus, common=1.0, shots=2, query=2)
    train, held = hold_out(source, 0.4, seed=1)
    assert isinstance(train, Cloze)
    assert isinstance(held, Cloze)
    assert sorted((*train.vocabulary, *held.vocabulary)) == sorted(source.vocabulary)
    assert not any(akin(one, other) for one in train.vocabulary for other in held.vocabulary)
    assert {"horse", "horses"} <= set(train.vocabulary) or {"horse", "horses"} <= set(held.vocabulary)
    assert held.name == "cloze, held out"
    assert hold_out(replace(source, words=["horse", "mouse"]), 0.4)[1] is None


def test_unmasked_test_rows_are_found_in_the_text(corpus: Corpus) -> None:
    source = Cloze(corpus, common=0.5)
    fresh = [Example(f"A quite different remark, number {i}", None, f"c{i % 2}") for i in range(20)]
    assert overlap([source], [Task("fresh", fresh, ("c0", "c1"))]) == []
    told = Example(f"Well. {corpus.sentences[7].upper()} Indeed.", None, "c0")
    with pytest.raises(DataError, match=r"fresh was to be measured on after meta-training on cloze\. 1 of its 21 rows"):
        overlap([source], [Task("fresh", [*fresh, told], ("c0", "c1"))])
    assert overlap([Supervised(Task("t", fresh, ("c0", "c1")))], [Task("u", [told], ("c0",))]) == []


def test_every_process_draws_the_same(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("\n".join(made()))
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from handful.cloze import Cloze, index_sentences, read_lines
words = [*index_sentences(read_lines(sys.argv[2])).index]
clusters = {word: len(word) for word in sorted(words)}
source = Cloze(index_sentences(read_lines(sys.argv[2])), common=0.5, words=frozenset(words), clusters=clusters)
print(source.digest(), sorted(source.contents())[:2], [source.draw(seed) for seed in range(8)])
"""
    arguments = [sys.executable, "-c", code, str(Path(handful.__file__).parents[1]), str(tmp_path / "plain.txt")]
    out = {
        subprocess.run(arguments, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert len(out) == 1


WRONG: dict[str, tuple[Callable[[Corpus], object], type[Exception], str]] = {
    "words": (
        lambda corpus: Cloze(corpus, words=["horse", "nowhere"], common=1.0), DataError,
        r"2 or more hidden words .* of cloze\. 1 of its words are in 5 or more of the 600 sentences and in at most 100",
    ),
    "shots": (lambda corpus: Cloze(corpus, shots=1000), DataError, r"0 of its words are in 1004 or more of the 600"),
    "empty": (lambda _: Cloze(index_sentences([])), DataError, r"0 of its words .* the 0 sentences .* Give more text"),
    "script": (lambda _: Cloze(index_sentences(["我们昨天去了动物园"] * 9)), DataError, r"of the 0 sentences"),
    "ways": (lambda corpus: Cloze(corpus, ways=(1, 3)), RequestError, r"smallest number of ways is 2"),
    "query": (lambda corpus: Cloze(corpus, query=0), RequestError, r"smallest number of query rows is 1"),
    "common": (lambda corpus: Cloze(corpus, common=5), RequestError, r"common=5 was asked for\. It is a share"),
    "hard": (lambda corpus: Cloze(corpus, hard=-1), RequestError, r"hard=-1 was asked for"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_too_little_text_and_wrong_numbers(case: str, corpus: Corpus) -> None:
    make, error, said = WRONG[case]
    with pytest.raises(error, match=said):
        make(corpus)
