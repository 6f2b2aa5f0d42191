"""Sources of meta-training tasks: draws by seed alone, class order, other labelings, mixtures, overlaps."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import handful
from handful.errors import DataError, HandfulWarning, RequestError
from handful.holdouts import by_domain, hold_out, overlap, split_classes, without
from handful.metasources import read_sources
from handful.metatasks import Grouped, Mixture, Supervised, by_size
from handful.recipes import parse
from handful.types import Episode, Example, Task


def task(classes: int = 6, rows: int = 14, name: str = "tickets", pairs: bool = False) -> Task:
    examples = [
        Example(f"row {i} says {name} {c}", f"and also {i}" if pairs else None, f"c{c}")
        for i in range(rows) for c in range(classes)
    ]  # fmt: skip
    return Task(name, examples, tuple(f"c{c}" for c in range(classes)), template="{text}!")


def texts(part: Task) -> list[str]:
    return [e.text for e in part.examples]


def count(part: Task) -> Counter[object]:
    return Counter(e.label for e in part.examples)


def check_fair(episode: Episode, query: int) -> int:
    """What holds for every episode; its shots."""
    support, asked = episode.support, episode.query
    assert support.labels == asked.labels
    assert len(set(support.labels)) == len(support.labels) >= 2
    assert not set(texts(support)) & set(texts(asked))
    for part in (support, asked):
        assert len(set(texts(part))) == len(part.examples)
        assert set(count(part)) == set(part.labels)
        assert len(set(count(part).values())) == 1
    assert set(count(asked).values()) == {query}
    return count(support)[support.labels[0]]


@given(seed=st.integers(0, 2**40), query=st.integers(1, 5), rows=st.integers(6, 14), pairs=st.booleans())
@settings(max_examples=60)
def test_an_episode_is_n_way_and_k_shot(seed: int, query: int, rows: int, pairs: bool) -> None:
    given_task = task(rows=rows, pairs=pairs)
    source = Supervised(given_task, ways=(2, 4), shots=(1, 8), query=query)
    episode = source.draw(seed)
    shots = check_fair(episode, query)
    assert 1 <= shots <= min(8, rows - query)
    assert len(episode.support.labels) <= 4
    assert episode == source.draw(seed) == replace(source).draw(seed)
    assert set(episode.support.examples) <= set(given_task.examples)
    assert episode.support.template == "{text}!"


def test_ways_and_shots_take_every_number_that_the_task_allows() -> None:
    source = Supervised(task(classes=5, rows=9), ways=(2, 8), shots=(2, 16), query=4)
    drawn = [source.draw(seed) for seed in range(300)]
    assert {len(e.support.labels) for e in drawn} == {2, 3, 4, 5}
    assert {count(e.support)[e.support.labels[0]] for e in drawn} == {2, 3, 4, 5}


def test_a_class_has_no_place_of_its_own() -> None:
    source = Supervised(task(classes=3), ways=3)
    places = Counter(source.draw(seed).support.labels.index("c0") for seed in range(300))
    assert set(places) == {0, 1, 2}
    assert max(places.values()) < 150


def test_rows_are_in_no_order_of_classes() -> None:
    labels = [e.label for e in Supervised(task(), ways=6, shots=4).draw(0).support.examples]
    assert labels != sorted(labels, key=labels.index)


def test_small_classes_are_drawn_only_where_they_suffice() -> None:
    rows = [Example(f"{c} {i}", None, c) for c, n in {"big": 20, "also": 20, "small": 5}.items() for i in range(n)]
    source = Supervised(Task("uneven", rows, ("big", "also", "small")), ways=(2, 3), shots=(1, 8), query=3)
    seen = Counter[bool]()
    for seed in range(200):
        episode = source.draw(seed)
        check_fair(episode, 3)
        seen["small" in episode.support.labels] += count(episode.support)["big"] > 2
    assert seen[False] > 0
    assert seen[True] == 0


def test_a_text_with_two_labels_is_never_drawn() -> None:
    rows = [*task(classes=2).examples, *[Example("both", None, c) for c in ("c0", "c1")], Example("both", None, "c0")]
    source = Supervised(Task("t", rows, ("c0", "c1")), shots=(8, 16), query=4)
    assert all("both" not in texts(side) for seed in range(30) for side in vars(source.draw(seed)).values())


@given(seed=st.integers(0, 2**40), query=st.integers(1, 6))
@settings(max_examples=60)
def test_a_grouped_way_is_a_union_of_classes(seed: int, query: int) -> None:
    given_task = task(classes=9, rows=12)
    own = {e.text: e.label for e in given_task.examples}
    episode = Grouped(given_task, groups=(2, 4), members=(2, 4), shots=(4, 6), query=query).draw(seed)
    shots = check_fair(episode, query)
    ways = {
        way: Counter(own[e.text] for e in episode.support.examples if e.label == way) for way in episode.support.labels
    }
    assert 2 <= len(ways) <= 4
    assert all(2 <= len(members) <= 4 for members in ways.values())
    assert all(max(members.values()) - min(members.values()) <= 1 for members in ways.values())
    assert sum(len(members) for members in ways.values()) == len({c for members in ways.values() for c in members})
    assert all(own[e.text] in ways[str(e.label)] for e in episode.query.examples)
    assert 4 <= shots <= 6


def test_grouped_labelings_differ_and_are_named_by_numbers() -> None:
    source = Grouped(task(classes=6), groups=2, members=3, shots=3)
    own = {e.text: e.label for e in source.task.examples}
    cuts = {
        frozenset(frozenset(own[e.text] for e in side.examples if e.label == way) for way in side.labels)
        for side in (source.draw(seed).support for seed in range(100))
    }
    assert len(cuts) == 10  # 6! / (3! 3! 2!)
    assert set(source.draw(0).support.labels) == {"0", "1"}


def test_a_mixture_draws_by_share() -> None:
    first, second = Supervised(task(name="first")), Supervised(task(name="second"))
    drawn = Counter(Mixture([first, second], [3, 1]).draw(seed).support.name for seed in range(400))
    assert 260 < drawn["first"] < 340
    assert drawn["second"] == 400 - drawn["first"]
    assert by_size([Supervised(task(rows=10)), Supervised(task(rows=40))]) == pytest.approx([1 / 3, 2 / 3])
    inner = Mixture([Supervised(task(name="a")), Supervised(task(name="b"))], name="inner")
    both = {Mixture([first, inner], [1, 1]).draw(seed).support.name for seed in range(60)}
    assert both == {"first", "a", "b"}


def test_a_digest_follows_everything_that_decides() -> None:
    source = Supervised(task())
    others = [
        replace(source, ways=3), replace(source, shots=(1, 4)), replace(source, query=2),
        replace(source, task=task(rows=13)), replace(source, task=task(pairs=True)), Grouped(task()),
        Mixture([source]), Mixture([source, source], [1, 2]), Mixture([source, source], [1, 3]),
    ]  # fmt: skip
    assert source.digest() == Supervised(task()).digest()
    assert len({source.digest(), *(other.digest() for other in others)}) == 1 + len(others)


def test_every_process_draws_the_same() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from handful.metatasks import Grouped, Mixture, Supervised
from handful.types import Example, Task
rows = [Example(f"row {i} {c}", None, f"c{c}") for i in range(14) for c in range(6)]
task = Task("t", rows, tuple(f"c{c}" for c in range(6)))
mixture = Mixture([Supervised(task), Grouped(task)], [1, 1])
print(mixture.digest(), sorted(mixture.contents())[:2], [mixture.draw(seed) for seed in range(6)])
"""
    src = str(Path(handful.__file__).parents[1])
    out = {
        subprocess.run(
            [sys.executable, "-c", code, src], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(out) == 1
    assert "Supervised" not in out.pop()


def test_domains_are_tasks() -> None:
    first, second = by_domain(task(), {"bank": ["c1", "c0"], "travel": ["c4", "c5"]})
    assert (first.name, first.labels) == ("tickets/bank", ("c0", "c1"))
    assert (second.name, second.labels) == ("tickets/travel", ("c4", "c5"))
    assert set(count(second)) == {"c4", "c5"}
    assert len(first.examples) == 28
    with pytest.raises(DataError, match=r"domain 'bank'.*names 'c9', which tickets has not.*as the task writes them"):
        by_domain(task(), {"bank": ["c1", "c9"]})
    with pytest.raises(DataError, match=r"names 1 of the classes of tickets"):
        by_domain(task(), {"bank": ["c1"]})


@given(classes=st.integers(4, 12), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**40))
@settings(max_examples=40)
def test_held_out_classes_are_others(classes: int, fraction: float, seed: int) -> None:
    given_task = task(classes=classes, rows=3)
    given_task = replace(given_task, examples=[*given_task.examples, Example("Shared", None, "c0")])
    given_task = replace(given_task, examples=[*given_task.examples, Example("shared!", None, "c1")])
    train, held = split_classes(given_task, fraction, seed=seed)
    assert sorted((*train.labels, *held.labels)) == sorted(given_task.labels)
    assert min(len(train.labels), len(held.labels)) >= 2
    assert set(count(train)) == set(train.labels)
    assert set(count(held)) == set(held.labels)
    assert not {t.strip("!").lower() for t in texts(train)} & {t.strip("!").lower() for t in texts(held)}


def test_sources_of_one_set_hold_out_no_row_that_another_trains_on() -> None:
    given_task = task(classes=20)
    parts = by_domain(given_task, {"a": given_task.labels[:10], "b": given_task.labels[10:]})
    two = replace(task(classes=2), name="two")
    source = Mixture([Grouped(given_task), *map(Supervised, parts), Supervised(two)], [4, 2, 2, 1])
    train, held = hold_out(source, 0.25, seed=3)
    assert isinstance(train, Mixture)
    assert isinstance(held, Mixture)
    assert train.chances == source.chances
    assert held.chances == pytest.approx([0.5, 0.25, 0.25])
    seen = {e.text for seed in range(200) for e in train.draw(seed).support.examples}
    asked = {e.text for seed in range(200) for e in held.draw(seed).query.examples}
    assert len(asked) > 20
    assert not seen & asked
    assert hold_out(Supervised(two))[1] is None


def test_overlap_names_both_tasks_and_an_example() -> None:
    seen = [Supervised(task(name="seen")), Supervised(task(name="other"))]
    test = task(name="fresh")
    assert overlap(seen, [test]) == []
    leaked = Example("  Row 3 says SEEN 2?", None, "c1")
    test = replace(test, examples=[*test.examples, leaked])
    with pytest.raises(DataError) as error:
        overlap([Mixture(seen)], [test])
    for part in ("fresh", "seen", "1 of its 85 rows", "Row 3 says SEEN 2", "force"):
        assert part in str(error.value)
    (found,) = overlap(seen, [test], force=True)
    assert (found.source, found.task, found.count, found.rows, found.example) == ("seen", "fresh", 1, 85, leaked.text)
    assert overlap([Supervised(without(task(name="seen"), [test]))], [test]) == []


def test_overlap_sees_through_pairs_lead_ins_and_longer_texts() -> None:
    premise = "The river that flows through the old town is full of fish."
    pairs = [Example(premise if i == 0 else f"premise {i}", f"claim {i}", f"c{i % 2}") for i in range(40)]
    train = [Supervised(Task("pairs", pairs, ("c0", "c1")))]

    def found(text: str, pair: str | None = None, others: int = 30) -> bool:
        rows = [Example(f"Another remark, number {i}", pair and f"claim {i}", "c0") for i in range(others)]
        return bool(overlap(train, [Task("test", [*rows, Example(text, pair, "c0")], ("c0",))], force=True))

    assert found("premise 4", "claim 4")
    assert not found("premise 4", "claim 5")
    assert found(premise, "another claim")
    assert found(f"Sentence: {premise}")
    assert found(f"I was there. {premise} It was fine.")
    train = [
        Supervised(
            Task(
                "talk", [Example(f"Thanks {i}" if i else "Thanks", None, f"c{i % 2}") for i in range(20)], ("c0", "c1")
            )
        )
    ]
    assert found("thanks!", others=30)  # more than 1 % of the rows
    assert not found("thanks!", others=300)


TOO_FEW: dict[str, tuple[Callable[[], object], str]] = {
    "ways": (lambda: Supervised(task(classes=3), ways=5), r"5 or more classes of tickets .* 3 of its 3 classes have"),
    "shots": (
        lambda: Supervised(task(rows=14), shots=12, query=4),
        r"12 or more shots and 4 query rows each\. 0 of its 6 classes have the 16 different texts .* largest has 14",
    ),
    "groups": (lambda: Grouped(task(classes=5), groups=3, members=2), r"6 or more classes .* 5 of its 5 classes"),
    "held": (lambda: split_classes(task(classes=3)), r"task of 3 classes; two are needed on either side"),
}  # fmt: skip
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "ways": (lambda: Supervised(task(), ways=1), r"1 ways were asked for\. The smallest number of ways is 2"),
    "order": (lambda: Supervised(task(), shots=(8, 4)), r"8 to 4 shots were asked for\. The first .* above the second"),
    "query": (lambda: Supervised(task(), query=0), r"0 query rows were asked for"),
    "members": (lambda: Grouped(task(), shots=(1, 8)), r"at least 2 classes each .* With 1 shots a way"),
    "seed": (lambda: Supervised(task()).draw(-1), r"the seed -1\. Seeds start at 0"),
    "share": (lambda: Mixture([Supervised(task())], [0]), r"1 sources were to be mixed by the shares \[0\]"),
    "shares": (lambda: Mixture([Supervised(task())], [1, 2]), r"not one number above 0 for each"),
    "fraction": (lambda: split_classes(task(), 1.5), r"1.5 is not between 0 and 1"),
    "kind": (
        lambda: Supervised(Task("tags", [Example("a", None, ("x", "y"))], ("x", "y"), "multilabel")),
        r"from tags\. It is a multilabel task\. Give tasks whose rows have one label each",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_FEW)
def test_too_few_classes_or_rows(case: str) -> None:
    with pytest.raises(DataError, match=TOO_FEW[case][1]):
        TOO_FEW[case][0]()


@pytest.mark.parametrize("case", WRONG)
def test_numbers_out_of_range(case: str) -> None:
    with pytest.raises(RequestError, match=WRONG[case][1]):
        WRONG[case][0]()


def write(path: Path, given_task: Task) -> Path:
    rows = [{"text": e.text, "label": e.label} for e in given_task.examples]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def animal(i: int) -> str:
    return ("fox", "dog", "horse", "sparrow")[i % 4]


def test_a_command_line_of_sources(tmp_path: Path) -> None:
    data, wide = write(tmp_path / "data.jsonl", task()), write(tmp_path / "wide.jsonl", task(classes=9, name="wide"))
    (tmp_path / "domains.json").write_text(json.dumps({"x": ["c0", "c1", "c2"], "y": ["c3", "c4", "c5"]}))
    text = tmp_path / "plain.txt"
    text.write_text("".join(f"{i} the quick {animal(i)} jumps over {i}\n\n" for i in range(400)))
    mixture = read_sources(
        [
            f"{data}:ways=2-4:shots=[2,5]:query=3", f"{wide}:grouped=true:ways=2:members=3:shots=6",
            f"{data}:domains={tmp_path / 'domains.json'}", f"cloze:{text}:share=0.5:common=0.3:ways=2:query=2",
        ],
        mask_token="<mask>",
    )  # fmt: skip
    names = ["wide, grouped", "data", "data/x", "data/y"]
    by_name = {source.name: (source, share) for source, share in zip(mixture.sources, mixture.chances, strict=True)}
    assert set(by_name) == {*names, f"cloze:{text}"}
    assert by_name[f"cloze:{text}"][1] == pytest.approx(0.5)
    assert by_name["data"][1] / by_name["data/x"][1] == pytest.approx(2**0.5)
    narrow, grouped = by_name["data"][0], by_name["wide, grouped"][0]
    assert isinstance(narrow, Supervised)
    assert isinstance(grouped, Grouped)
    assert (narrow.ways, narrow.shots, narrow.query) == ((2, 4), (2, 5), 3)
    assert (grouped.groups, grouped.members, grouped.shots) == (2, 3, 6)
    assert "<mask>" in by_name[f"cloze:{text}"][0].draw(0).support.examples[0].text


def test_shares_are_stated_or_follow_sizes(tmp_path: Path) -> None:
    small, large = write(tmp_path / "small.jsonl", task(rows=10)), write(tmp_path / "large.jsonl", task(rows=40))
    assert read_sources([str(small), str(large)]).chances == pytest.approx([1 / 3, 2 / 3])
    assert read_sources([f"{small}:share=3", f"{large}:share=1"]).chances == pytest.approx([0.75, 0.25])
    assert sorted(read_sources([str(large), f"{small}:share=0.1"]).chances) == pytest.approx([0.1, 0.9])
    text = tmp_path / "plain.txt"
    text.write_text("".join(f"{i} the quick {animal(i)} jumps over {i}\n" for i in range(50)))
    halves = read_sources([str(small), str(large), f"cloze:{text}:common=0.3"])
    assert halves.chances[2] == pytest.approx(0.5)
    with pytest.raises(RequestError, match=r"Shares of 2 .* leave nothing for .*large.* every source a share"):
        read_sources([f"{small}:share=2", str(large)])


def test_a_folder_keeps_its_test_rows_out(tmp_path: Path) -> None:
    train, test = task(), replace(task(), examples=task().examples[:6])
    write(tmp_path / "set" / "train.jsonl", train)
    write(tmp_path / "set" / "test.jsonl", test)
    (source,) = read_sources([str(tmp_path / "set")]).sources
    assert source.size == 78
    assert overlap([source], [test]) == []


def test_tasks_of_a_suite(tmp_path: Path) -> None:
    for name, labels in {"hotels_en": "pnxo", "products_en": "pnxo"}.items():
        rows = [Example(f"{name} remark number {i} of many", None, labels[i % 4]) for i in range(2000)]
        write(tmp_path / "multiemo_sentiment" / name / "train.jsonl", Task("t", rows[:999], tuple(labels)))
        rest = rows[999:2000] if name == "hotels_en" else [*rows[999:2000], rows[0]]
        write(tmp_path / "multiemo_sentiment" / name / "test.jsonl", Task("t", rest, tuple(labels)))
    (source,) = read_sources(["dev/multiemo_hotels"], tmp_path).sources
    assert (source.name, source.size) == ("multiemo_hotels", 999)
    with pytest.raises(DataError, match=r"dev/snips.* no folder snips .*Say where its data lies"):
        read_sources(["dev/snips"], tmp_path)
    with pytest.warns(HandfulWarning, match=r"Not meta-trained on: .*banking77"):
        assert [own.name for own in read_sources(["dev"], tmp_path).sources] == ["multiemo_hotels"]


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_sets_that_may_only_be_measured_on_are_named() -> None:
    with pytest.warns(HandfulWarning, match=r"leopard/airline is for measuring only .*do not hand on"):
        read_sources(["leopard/airline"], SHARED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (scitail,) = read_sources(["leopard/scitail"], SHARED).sources
    check_fair(scitail.draw(0), 4)
    assert scitail.draw(0).support.examples[0].text_pair is not None


BAD = {
    "data.csv:ways": "'ways' is not an option",
    "data.csv:ways=2:ways=3": "'ways=3' is not an option",
    "data.csv:way=2": "'way' is no option of labelled tasks. Its options are share, ways",
    "cloze:a.txt:grouped=true": "'grouped' is no option of plain text",
    "data.csv:ways=few": "ways is 'few'. Write ways=4, or ways=2-5",
    "data.csv:query=2-5": "query is '2-5'. Write one whole number",
    "data.csv:share=none": "share 'none' is no number above 0",
    "data.csv:share=-1": "share -1 is no number above 0",
    "data.csv:members=2": "members only if they are grouped",
    "data.csv:grouped=3": "grouped is 3",
    "dev/snips:text=body": "A suite says itself which columns are read, and text was given",
    "dev/nosuch": "The task 'nosuch' of the suite 'dev'",
    "nowhere.csv": "There is no such file",
    "cloze:nowhere.txt": "There is no such file",
}


@pytest.mark.parametrize("spec", BAD)
def test_what_cannot_be_understood_is_named(spec: str) -> None:
    with pytest.raises(RequestError) as error:
        read_sources([spec])
    assert BAD[spec] in str(error.value)


def test_sources_are_named_once(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No tasks were given"):
        read_sources([])
    with pytest.raises(RequestError, match=r"'a\.csv' was given\. It was given twice"):
        read_sources(["a.csv", "a.csv"])
    data = write(tmp_path / "data.jsonl", task())
    for content in ("{", '{"x": "c0"}', '["c0"]'):
        (tmp_path / "domains.json").write_text(content)
        with pytest.raises(DataError, match=r'Give a JSON file of \{"domain"'):
            read_sources([f"{data}:domains={tmp_path / 'domains.json'}"])


def test_recipes_read_options_as_before() -> None:
    assert parse("lora:rank=4:lr=1e-3:start=x") == ("lora", {"rank": 4, "lr": 1e-3, "start": "x"})
    with pytest.raises(
        RequestError, match=r"The recipe 'lora:rank' was asked for\. 'rank' is not an option\. .*steps=100"
    ):
        parse("lora:rank")
