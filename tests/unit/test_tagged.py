"""Sources of tagging tasks: CoNLL files in their dialects, rows with lists, and what is wrong, by line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from handful import conll
from handful.errors import DataError, HandfulWarning
from handful.pools import find_pools
from handful.sources import load, load_test, load_texts, load_words
from handful.suites import suite
from handful.suites.ner import COMMON, TaggedPool
from handful.tables import read_table
from handful.tagging import example_types
from handful.types import Example, Task
from tinytags import tiny_tagging, write_conll, write_jsonl

DATA = Path(__file__).parents[3] / "shared" / "data"
NEWS = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
lamb NN B-NP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
of NN B-NP O
EU NNP B-NP B-ORG

Peter NNP B-NP I-PER
"""
UNIVERSAL = """# newdoc id = 1
# text = # Paris I
# note = the last field of a comment may be O
1\t#\tO\t-\tann
2\tParis\tB-LOC\t-\tann
3\tI\tO\t-\tann

# sent_id = 2
1\tParis\tB-LOC\t-\tann
"""


def read(tmp_path: Path, name: str, text: str) -> Task:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return load(file)


def tagged(task: Task) -> list[str]:
    return [" ".join(f"{w}/{t}" for w, t in zip(e.words or (), e.label or (), strict=True)) for e in task.examples]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_four_columns(tmp_path: Path, line_end: str) -> None:
    task = read(tmp_path, "news.conll", NEWS.replace("\n", line_end))
    assert task.kind == "tagging"
    assert task.name == "news"
    assert task.labels == ("O", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert tagged(task) == ["EU/B-ORG rejects/O lamb/O", "Peter/B-PER Blackburn/I-PER of/O EU/B-ORG", "Peter/B-PER"]
    assert task.examples[0].text == "EU rejects lamb"


def test_universal_ner(tmp_path: Path) -> None:
    task = read(tmp_path, "da.iob2", UNIVERSAL)
    assert tagged(task) == ["#/O Paris/B-LOC I/O", "Paris/B-LOC"]
    assert task.labels == ("O", "B-LOC", "I-LOC")


def test_wikiann(tmp_path: Path) -> None:
    file = tmp_path / "train"  # it has no ending there
    file.write_text("en:New\tB-LOC\nen:York\tI-LOC\n\nen:a:b\tO\nen:Bob\tB-PER\n", encoding="utf-8")
    table = read_table(file, tagged=True)
    assert [row["tokens"] for row in table.rows] == [["New", "York"], ["a:b", "Bob"]]
    assert table.lines == [1, 4]
    rows, _ = conll.parse("here", "en:New B-LOC\nda:York O\n")
    assert rows[0]["tokens"] == ["en:New", "da:York"]


@pytest.mark.parametrize(
    "tags",
    ["B-X I-X O B-X", "I-X I-X O I-X", "B-X E-X O S-X", "B-X L-X O U-X"],
    ids=["BIO", "IOB1", "BIOES", "BILOU"],
)
def test_schemes_become_bio(tmp_path: Path, tags: str) -> None:
    lines = [f"w{i} {tag}" for i, tag in enumerate(tags.split())]
    task = read(tmp_path, "a.bio", "\n".join(lines) + "\n\nx B-X\n")
    assert task.examples[0].label == ("B-X", "I-X", "O", "B-X")
    assert task.labels == ("O", "B-X", "I-X")


@pytest.mark.parametrize(("tokens", "tags"), [("tokens", "tags"), ("words", "ner_tags"), ("Tokens", "labels")])
def test_rows_with_lists(tmp_path: Path, tokens: str, tags: str) -> None:
    rows = [{tokens: ["New", "York"], tags: ["B-L", "I-L"], "id": 1}, {tokens: ["is"], tags: ["O"], "id": 2}]
    with pytest.warns(HandfulWarning, match="A single entity of 'L'"):
        task = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert tagged(task) == ["New/B-L York/I-L", "is/O"]


def test_written_and_read_again(tmp_path: Path) -> None:
    task = tiny_tagging(20)
    for file in (write_conll(tmp_path / "a.conll", task), write_jsonl(tmp_path / "a.jsonl", task)):
        again = load(file, name=task.name)
        assert again.examples == task.examples
        assert set(again.labels) == set(task.labels)
        zipped = file.with_name(f"{file.name}.gz")
        zipped.write_bytes(gzip.compress(file.read_bytes()))
        assert load(zipped, name=task.name) == again


def test_named_columns_and_other_tables(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    row = {"w": ["a", "b"], "t": ["B-X", "O"], "tokens": ["c"], "tags": ["O"], "text": "d", "label": "e"}
    file.write_text(f"{json.dumps(row)}\n{json.dumps(row | {'label': 'f'})}\n", encoding="utf-8")
    assert load(file, text="w", label="t").examples[0].words == ("a", "b")
    with pytest.warns(HandfulWarning):
        assert load(file, text="text", label="label").kind == "classification"
    relations = tmp_path / "r.jsonl"
    relations.write_text('{"tokens": ["a"], "text": "a", "label": "x"}\n{"tokens": ["b"], "text": "b", "label": "y"}\n')
    with pytest.warns(HandfulWarning, match="A single example"):
        assert load(relations).kind == "classification"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.conll", "EU B-ORG\nis\n", r"Line 2 has 1 fields, line 1 has 2\."),
        ("a.conll", "EU B-ORG\n\nis X-ORG\n", r"Line 3: 'X-ORG' is not a tag"),
        ("a.conll", "EU ORG\n", r"Line 1: 'ORG' is not a tag"),
        ("a.conll", "\tB-ORG\n", r"Line 1 has no word\."),
        ("a.conll", "# only a comment\n", r"No line holds a word\."),
        ("a.conll", "EU\nis\n", r"It has words but no tags\."),
        ("a.conll", "EU O\nis O\n", r"All words of its 1 sentence are O\."),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', r"Line 1: the sentence has 2 words and 1 tag\."),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": [], "tags": []}', r"Line 2: .* has no words\."),
        ("a.jsonl", '{"tokens": ["a", ""], "tags": ["O", "O"]}', r"Line 1: the word '' is empty\."),
        ("a.jsonl", '{"tokens": ["a", 3], "tags": ["O", "O"]}', r"Line 1: the word 3 is not text but a whole number\."),
        ("a.jsonl", '{"tokens": ["a"], "tags": [3]}', r"Line 1: the tag of 'a' is a whole number, not a name"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["PER"]}', r"Line 1: 'PER', the tag of 'a', is not of the schemes"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a"]}', r"Line 2: .* and tags that are null\."),
    ],
)
def test_what_is_wrong_is_said_by_line(tmp_path: Path, name: str, text: str, found: str) -> None:
    with pytest.raises(DataError, match=found) as caught:
        read(tmp_path, name, text)
    assert str(tmp_path / name) in caught.value.asked


def test_the_same_sentence_with_other_tags(tmp_path: Path) -> None:
    with pytest.warns(HandfulWarning, match=r"'a b' \(line 1 and line 7\)"):
        read(tmp_path, "a.conll", "a B-X\nb O\n\na B-X\nb O\n\na O\nb B-X\n")


def test_words_to_ask(tmp_path: Path) -> None:
    expected = [Example("a b", words=("a", "b")), Example("c", words=("c",))]
    for name, text in {
        "a.conll": "a\nb\n\nc\n",
        "b.conll": "a O\nb O\n\nc O\n",
        "a.jsonl": '{"tokens": ["a", "b"]}\n{"tokens": ["c"]}\n',
        "b.jsonl": '"a b"\n{"text": "c"}\n',
        "a.csv": "text\na b\nc\n",
        "a.txt": "a b\nc\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert load_words(tmp_path / name) == expected
    (tmp_path / "c.csv").write_text("id,body\n1,a b\n2,c\n", encoding="utf-8")
    assert load_words(tmp_path / "c.csv", "body") == expected
    with pytest.raises(DataError, match="'id', 'body'"):
        load_words(tmp_path / "c.csv")
    assert [e.words for e in load_texts(tmp_path / "a.csv")] == [None, None]


def test_a_test_file_may_lack_entities(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("a O\nb O\n", encoding="utf-8")
    assert load_test(tmp_path / "a.conll").labels == ("O",)


# -- pools and suites --------------------------------------------------------------------------------------------------


def test_a_file_of_tags_is_a_pool(tmp_path: Path) -> None:
    write_conll(tmp_path / "task" / "train.conll", tiny_tagging(40))
    write_jsonl(tmp_path / "task" / "test.jsonl", tiny_tagging(30, seed=1))
    with pytest.raises(DataError, match="in both"):
        (find_pools(str(tmp_path))[0]).episode(3, 0)
    (pool,) = find_pools(str(tmp_path / "task" / "train.conll"))
    episode = pool.episode(3, 0)
    assert episode.support.kind == episode.query.kind == "tagging"


def folder(tmp_path: Path) -> Path:
    for source, language in (("masakhaner2", "swa"), ("wikiann", "yo")):
        train, test = tiny_tagging(40, kinds=("X", "Y")), tiny_tagging(30, seed=1, kinds=("Y",))
        write_jsonl(tmp_path / source / language / "train.jsonl", train)
        write_jsonl(tmp_path / source / language / "test.jsonl", test)
    wikiann = tmp_path / "wikiann" / "yo"
    for split in ("train", "test"):
        task = load_test(wikiann / f"{split}.jsonl")
        write_conll(wikiann / split, task)
        (wikiann / split).write_text(
            "\n".join(f"yo:{line}" if line else "" for line in (wikiann / split).read_text().splitlines()) + "\n"
        )
        (wikiann / f"{split}.jsonl").unlink()
    return tmp_path


def test_the_suite_finds_what_is_there(tmp_path: Path) -> None:
    data = folder(tmp_path)
    own = suite("ner")
    assert [pool.name for pool in own.pools(data)] == ["masakhaner2_swa", "wikiann_yo"]
    assert own.missing(data)["uner_da"] == f"no folder uner/da with data in {data}"
    first, second = own.pools(data)
    assert (first.metric, first.suite) == ("entity_f1", "ner")
    episode = first.episode(4, 0)
    assert episode == first.episode(4, 0)
    assert episode != first.episode(4, 1)
    assert episode.support.labels == episode.query.labels == ("O", "B-X", "I-X", "B-Y", "I-Y")
    asked = {example.words for example in episode.query.examples}
    assert not asked & {example.words for example in first.rows().examples}
    assert [e.words for e in second.episode(4, 0).query.examples] == [e.words for e in episode.query.examples]
    (one,) = suite("ner/wikiann_yo").pools(data)
    assert one == second
    before = first.digest()
    write_jsonl(data / "masakhaner2" / "swa" / "test.jsonl", tiny_tagging(9, seed=3))
    assert first.digest() != before
    (data / "masakhaner2" / "swa" / "test.jsonl").unlink()
    with pytest.raises(DataError, match="no split test"):
        own.pools(data)


def test_types_that_are_not_common_become_outside(tmp_path: Path) -> None:
    data = folder(tmp_path) / "masakhaner2" / "swa"
    pool = TaggedPool("a", "ner", "entity_f1", str(data / "train.jsonl"), str(data / "test.jsonl"), ("Z", "X"))
    with pytest.warns(HandfulWarning, match="'Z' has 0"):
        episode = pool.episode(2, 0)
    assert episode.support.labels == ("O", "B-Z", "I-Z", "B-X", "I-X")
    kinds = {kind for example in pool.rows().examples for kind in example_types(example)}
    assert kinds == {"X"}


@pytest.mark.skipif(not (DATA / "uner").is_dir(), reason="the shared data is not here")
def test_the_real_sets() -> None:
    pools = {pool.name: pool for pool in suite("ner3").pools(DATA)}
    assert len(pools) == 10
    for name in ("uner_en", "uner_da", "masakhaner2_hau"):
        episode = pools[name].episode(8, 0)
        assert episode.support.labels == ("O", *(f"{letter}-{kind}" for kind in COMMON for letter in "BI"))
        assert len(episode.query.examples) == 500
        counts = [kind for example in episode.support.examples for kind in example_types(example)]
        assert all(counts.count(kind) >= 8 for kind in COMMON)
