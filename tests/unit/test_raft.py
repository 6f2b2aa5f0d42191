"""RAFT: tasks, prompts and episodes on made-up files, published figures, and the commands from fit to submission."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from handful import artifact, tables
from handful.cli import app
from handful.errors import DataError, HandfulError, RunError
from handful.suites import raftdata, suite
from handful.suites.raft import FOLDS, LEARNED, RaftPool, average
from handful.suites.raftdata import SPECS, Asked, asked, exact, learned
from handful.types import Task
from raftfiles import CLASSES, make, row, write_csv
from tinytext import save_tiny

NEURIPS, BANK, TAI, OVER = "neurips_impact_statement_risks", "banking_77", "tai_safety_research", "overruling"


def task(data: Path, name: str) -> Task:
    found = learned(name, data)
    assert isinstance(found, Task)
    return found


def asked_of(data: Path, name: str) -> Asked:
    found = asked(name, data)
    assert isinstance(found, Asked)
    return found


def pool_of(data: Path, name: str) -> RaftPool:
    (pool,) = suite(f"raft/{name}").pools(data)
    assert isinstance(pool, RaftPool)
    return pool


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_there_are_eleven_tasks_with_the_fields_of_the_sheet() -> None:
    assert len(SPECS) == 11
    assert [own.name for own in suite("raft").tasks] == list(SPECS)
    assert SPECS[TAI].fields == ("Title", "Abstract Note", "Publication Title", "Item Type", "Publication Year")
    assert SPECS["systematic_review_inclusion"].fields == ("Title", "Abstract", "Journal")
    assert SPECS["semiconductor_org_types"].fields == ("Organization name", "Paper title")
    for spec in SPECS.values():
        assert spec.cut in spec.fields


@pytest.mark.parametrize("name", SPECS)
def test_a_prompt_is_instruction_labels_fields_and_label(tmp_path: Path, name: str) -> None:
    found = task(make(tmp_path, name), name)
    (template,) = found.templates
    first, spec = row(name, 0), SPECS[name]
    prompt = template.render(found.examples[0], found.labels)
    lines = [f"{spec.instruction} Possible labels: yes, no", *(f"{own}: {first[own]}" for own in spec.fields), "Label:"]
    assert prompt.text.split("\n") == lines
    assert prompt.choices == found.labels == CLASSES
    assert template.cut in (found.examples[0].fields or {})
    assert found.examples[0].text == "\n".join(lines[1:-1])  # for recipes that read no template
    assert (found.name, found.kind, len(found.examples)) == (name, "classification", 50)


def test_empty_fields_are_skipped_and_what_rows_hold_is_no_template(tmp_path: Path) -> None:
    data = make(tmp_path, TAI)
    rows = [row(TAI, i) | {"Label": CLASSES[i % 2]} for i in range(50)]
    rows[0] |= {"Abstract Note": " ", "Publication Title": "{{ 7 * 7 }}", "Publication Year": ""}
    rows[1] |= dict.fromkeys(SPECS[TAI].fields, "")
    write_csv(data / "raft" / TAI / "train.csv", rows)
    found = task(data, TAI)
    texts = [found.templates[0].render(example, found.labels).text for example in found.examples[:2]]
    assert texts[0].split("\n")[1:] == [
        "Title: red title 0", "Publication Title: {{ 7 * 7 }}", "Item Type: red item type 0", "Label:",
    ]  # fmt: skip
    assert texts[1].split("\n")[1:] == ["Label:"]
    assert found.examples[1].text == "Title:"


def test_words_of_banking_labels_have_spaces_and_lead_back(tmp_path: Path) -> None:
    classes = ("card_lost", "Refund_not_there", "top up")
    found = task(make(tmp_path, BANK, classes=classes), BANK)
    prompt = found.templates[0].render(found.examples[0], found.labels)
    assert found.labels == classes
    assert prompt.choices == ("card lost", "Refund not there", "top up")
    assert "Possible labels: card lost, Refund not there, top up\n" in prompt.text
    assert [exact(word, classes) for word in prompt.choices] == list(classes)
    assert [exact(name, classes) for name in classes] == list(classes)
    assert exact("lost", classes) is None


def test_a_folder_may_name_classes_that_no_row_has(tmp_path: Path) -> None:
    data = make(tmp_path, BANK)
    assert asked_of(data, BANK).whole is False
    names = [*CLASSES, *(f"class_{i}" for i in range(75))]
    (data / "raft" / BANK / "labels.txt").write_text("\n".join(names) + "\n")
    assert task(data, BANK).labels == asked_of(data, BANK).classes == tuple(names)
    assert asked_of(data, BANK).whole


@pytest.mark.parametrize("tested", ["test.csv", "test_unlabeled.csv"])
def test_test_rows_keep_their_ids(tmp_path: Path, tested: str) -> None:
    found = asked_of(make(tmp_path, NEURIPS, tested=tested), NEURIPS)
    assert found.ids == (50, 51, 52, 53)
    assert [example.label for example in found.examples] == [None] * 4
    assert found.examples[1].fields == {
        "impact_statement": "blue impact statement 51", "paper_title": "blue paper title 51",
    }  # fmt: skip
    assert (found.classes, found.whole) == (CLASSES, True)


@pytest.mark.parametrize("place", ["raft", "data", "."])
def test_layouts(tmp_path: Path, place: str) -> None:
    make(tmp_path, NEURIPS)
    if place != "raft":
        (tmp_path / "raft").rename(tmp_path / "other")
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / "other" / NEURIPS).rename(tmp_path / place / NEURIPS)
    assert len(task(tmp_path, NEURIPS).examples) == 50


def test_tasks_that_are_not_there_are_missing(tmp_path: Path) -> None:
    data = make(tmp_path, NEURIPS, TAI)
    write_csv(data / "raft" / BANK / "train.csv", [row(BANK, i) | {"Label": "a"} for i in range(49)])
    own = suite("raft")
    assert [pool.name for pool in own.pools(data)] == [NEURIPS, TAI]
    missing = own.missing(data)
    assert set(missing) == set(SPECS) - {NEURIPS, TAI}
    assert missing["overruling"] == f"no folder raft/overruling in {data}"
    assert missing[BANK].endswith("holds other rows: 49 in train.csv, the benchmark's are 50")


def spoil(data: Path, name: str, split: str, number: int, **cells: str | None) -> None:
    """Changes cells of a row of a split; None takes the column out."""
    file = data / "raft" / name / f"{split}.csv"
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    for column, value in cells.items():
        if value is None:
            rows = [{key: cell for key, cell in own.items() if key != column} for own in rows]
        else:
            rows[number][column] = value
    write_csv(file, rows)


BAD: list[tuple[str, dict[str, str | None], str]] = [
    ("train", {"Sentence": None}, r"It has no column 'Sentence'; it has 'ID', 'Label'\. Take the file"),
    ("train", {"Label": "Unlabeled"}, r"There is none in line 4\. Write the class"),
    ("train", {"Label": " "}, r"There is none in line 4\. Write the class"),
    ("test", {"Sentence": None}, r"It has no column 'Sentence'"),
    ("test", {"ID": None}, r"It has no column 'ID'"),
    ("test", {"ID": "5.0"}, r"It is no whole number in line 4\. Take the file"),
    ("test", {"ID": "9" * 5000}, r"It is no whole number in line 4\. Take the file"),
    ("test", {"ID": ""}, r"It is no whole number in line 4\. Take the file"),
    ("test", {"ID": "50"}, r"50 is there more than once\. Take the file"),
]


@pytest.mark.parametrize(("split", "cells", "said"), BAD, ids=lambda value: str(value)[:30])
def test_bad_files_are_named_in_three_sentences(
    tmp_path: Path, split: str, cells: dict[str, str | None], said: str
) -> None:
    data = make(tmp_path, "overruling")
    spoil(data, "overruling", split, 2, **cells)
    with pytest.raises(DataError, match=said) as raised:
        _ = task(data, "overruling"), asked_of(data, "overruling")
    assert all(part.endswith(".") for part in (raised.value.asked, raised.value.found, raised.value.todo))
    assert str(data) in raised.value.asked


def test_labels_that_no_list_has_and_lists_that_are_none(tmp_path: Path) -> None:
    data = make(tmp_path, "overruling")
    file = data / "raft" / "overruling" / "labels.txt"
    file.write_text("yes\nmaybe\n")
    with pytest.raises(DataError, match=r"'no', in line 3, is no class of overruling\. Its classes are 'yes', 'maybe'"):
        task(data, "overruling")
    file.write_text("yes\nno\nyes\n")
    with pytest.raises(DataError, match=r"has 3 lines of 2 different names\. Write each class name"):
        task(data, "overruling")


def test_one_class_and_missing_splits(tmp_path: Path) -> None:
    data = make(tmp_path, "overruling", classes=("yes",))
    with pytest.raises(DataError, match=r"only one class, 'yes'\. Name all classes"):
        task(data, "overruling")
    (data / "raft" / "overruling" / "test.csv").unlink()
    with pytest.raises(DataError, match=r"It has no split test or test_unlabeled\."):
        asked("overruling", data)
    (make(data, "overruling") / "raft" / "overruling" / "train.csv").unlink()
    with pytest.raises(DataError, match=r"It has no split train\."):
        learned("overruling", data)
    with pytest.raises(DataError, match=r"no such folder"):
        learned("overruling", tmp_path / "nowhere")


# -- the hub -----------------------------------------------------------------------------------------------------------


def test_hub_tasks_have_the_classes_of_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(name: str, split: str) -> tables.Table:
        assert name == f"ought/raft:{BANK}"
        numbers = range(50) if split == "train" else range(50, 53)
        rows: list[dict[str, Any]] = [{"Query": f"query {i}", "ID": i, "Label": "card_lost"} for i in numbers]
        return tables.Table(f"{name} {split}", ("Query", "ID", "Label"), rows, range(len(rows)), "row")

    classes = ("card_lost", "top_up")
    monkeypatch.setattr(tables, "_hub", hub)
    monkeypatch.setattr(raftdata, "_hub_classes", lambda name: classes if name == BANK else "not here")
    found, tests = learned(BANK), asked(BANK)
    assert isinstance(found, Task)
    assert isinstance(tests, Asked)
    assert found.labels == tests.classes == classes
    assert tests.ids == (50, 51, 52)
    assert learned(TAI) == asked(TAI) == "not here"
    (pool,) = suite("raft").pools()
    assert pool.contents() == pool.contents()
    assert len(pool.digest()) == 64


def test_a_schema_without_the_unlabelled_class_and_a_hub_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["Unlabeled", "a", "b"])

    class Builder:
        info = datasets.DatasetInfo(features=datasets.Features({"Label": names}))

    def load(name: str, config: str) -> Builder:
        if config == TAI:
            raise RuntimeError("Dataset scripts are no longer supported\nbut found one")
        return Builder()

    monkeypatch.setattr(raftdata, "why_not_on_hub", lambda hub: "")
    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    raftdata._hub_classes.cache_clear()
    try:
        assert raftdata._hub_classes(BANK) == ("a", "b")
        said = "ought/raft cannot be read from the hub (Dataset scripts are no longer supported); give its folder"
        assert str(raftdata._hub_classes(TAI)).startswith(said)
    finally:
        raftdata._hub_classes.cache_clear()


# -- episodes ----------------------------------------------------------------------------------------------------------


def test_five_parts_of_ten_rows_each_asked_once(tmp_path: Path) -> None:
    pool = pool_of(make(tmp_path, "overruling"), "overruling")
    asked_texts: list[str] = []
    for seed in range(FOLDS):
        episode = pool.episode(LEARNED, seed)
        support, query = ({e.text for e in part.examples} for part in (episode.support, episode.query))
        assert (len(support), len(query), support & query) == (40, 10, set())
        assert episode.support.labels == episode.query.labels == CLASSES
        assert episode.support.templates == episode.query.templates != ()
        asked_texts += query
    assert Counter(asked_texts) == Counter(e.text for e in pool.rows().examples)
    few, more = ({e.text for e in pool.episode(shots, 3).support.examples} for shots in (8, 16))
    assert len(few) == 8
    assert few < more


@pytest.mark.parametrize(("shots", "seed"), [(41, 0), (0, 0), (40, 5), (40, -1)])
def test_there_are_no_other_episodes(tmp_path: Path, shots: int, seed: int) -> None:
    with pytest.raises(DataError, match=r"Ask for 1 to 40 shots in all and seeds 0 to 4\."):
        pool_of(make(tmp_path, "overruling"), "overruling").episode(shots, seed)


def test_rows_that_are_asked_are_not_learned_from(tmp_path: Path) -> None:
    data = make(tmp_path, "overruling")
    for number in range(25):
        spoil(data, "overruling", "train", number, Sentence="the same words")
    pool = pool_of(data, "overruling")
    for seed in range(FOLDS):
        episode = pool.episode(LEARNED, seed)
        assert not {e.text for e in episode.support.examples} & {e.text for e in episode.query.examples}


def test_digests_tell_data_and_not_places(tmp_path: Path) -> None:
    pools = [pool_of(make(tmp_path / place, "overruling"), "overruling") for place in ("one", "two")]
    assert pools[0].digest() == pools[1].digest()
    spoil(tmp_path / "two", "overruling", "train", 0, Sentence="another")
    assert pools[0].digest() != pools[1].digest()
    assert pools[1].rows().examples[0].text == "Sentence: another"  # what was read before is not kept


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["T-Few", "Human", "PET", "SetFit", "GPT-3"])
def test_published_averages_agree_with_their_cells(system: str) -> None:
    rows = {r.task: r.value for r in suite("raft").published if r.system == system}
    assert list(rows) == [*SPECS, "average"]
    mean, without = average({name: value for name, value in rows.items() if name != "average"})
    assert without == ()
    assert mean == pytest.approx(rows["average"], abs=0.1)  # cells and averages are rounded to a tenth


def test_an_average_says_what_it_is_without() -> None:
    mean, without = average({TAI: 0.5, BANK: 0.7, "other": 0.0})
    assert mean == pytest.approx(0.6)
    assert set(without) == set(SPECS) - {TAI, BANK}
    assert average({}) == (None, tuple(SPECS))


# -- the commands ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Data of two tasks, one with labels that are spoken otherwise; what was fitted on it; what the fit said."""
    place = tmp_path_factory.mktemp("raft")
    data = make(make(place / "data", OVER), BANK, classes=("card_lost", "top_up"))
    save_tiny(place / "tiny")
    asked = ["raft", "fit", "--data", str(data), "--out", str(place / "fitted"), "--recipe", "prototypes"]
    done = CliRunner().invoke(app, [*asked, "--backbone", str(place / "tiny"), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return data, place / "fitted", json.loads(done.stdout)


def invoke(*arguments: object) -> tuple[int, str]:
    """Exit status and standard output of a command, as `cli.main` takes it from typer."""
    done = CliRunner().invoke(app, list(map(str, arguments)), standalone_mode=False, catch_exceptions=False)
    return done.return_value or 0, done.stdout


def test_fit_says_how_good_and_what_is_missing(fitted: tuple[Path, Path, dict[str, Any]]) -> None:
    data, folder, said = fitted
    assert [row["task"] for row in said["tasks"]] == [BANK, OVER]
    assert set(said["missing"]) == set(SPECS) - {BANK, OVER} == set(said["macro_f1_without"])
    shares = [row["macro_f1"] for row in said["tasks"]]
    assert said["macro_f1"] == pytest.approx(fmean(shares))
    before = (folder / OVER / "handful.json").read_bytes()
    status, out = invoke(
        "raft", "fit", "--data", data, "--out", folder, "--recipe", "prototypes", "--backbone", folder.parent / "tiny"
    )
    assert status == 0
    assert out.count("kept") == 2
    assert f"mean of 2 of 11 tasks: {fmean(shares):.1%}" in out
    assert (folder / OVER / "handful.json").read_bytes() == before


def test_fit_of_one_task(fitted: tuple[Path, Path, dict[str, Any]]) -> None:
    data, folder, _ = fitted
    common = ("raft", "fit", "--data", data, "--out", folder, "--backbone", folder.parent / "tiny", "--json")
    _, said = invoke(*common, "--recipe", "prototypes", "--task", OVER)
    assert [row["task"] for row in json.loads(said)["tasks"]] == [OVER]
    assert json.loads(said)["missing"] == {}
    with pytest.raises(HandfulError, match=r"'over' of RAFT was to be fitted\. Its tasks are ade_.*\. Choose among"):
        invoke(*common, "--task", "over")


def test_a_task_that_fails_stops_no_other(
    tmp_path: Path, fitted: tuple[Path, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = artifact.save

    def fails(fitted: artifact.Artifact, folder: Path) -> Path:
        if folder.name == BANK:
            raise RunError("It was asked.", "It failed.", "Try again.")
        return save(fitted, folder)

    monkeypatch.setattr(artifact, "save", fails)
    common = ("raft", "fit", "--data", fitted[0], "--out", tmp_path, "--backbone", fitted[1].parent / "tiny")
    status, said = invoke(*common, "--recipe", "prototypes", "--json")
    assert status == 1
    assert json.loads(said)["failed"] == {BANK: "It was asked. It failed. Try again."}
    assert [row["task"] for row in json.loads(said)["tasks"]] == [OVER]
    assert sorted(own.name for own in tmp_path.iterdir()) == [OVER]


def test_fit_keeps_no_task_of_another_seed(fitted: tuple[Path, Path, dict[str, Any]]) -> None:
    data, folder, _ = fitted
    with pytest.raises(HandfulError, match=r"with seed 1\. .* with seed 0\. Choose another folder\."):
        invoke(
            "raft", "fit", "--data", data, "--out", folder, "--recipe", "prototypes", "--seed", 1,
            "--backbone", folder.parent / "tiny",
        )  # fmt: skip


def test_submit_writes_what_validate_takes_but_for_missing_tasks(
    fitted: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    data, folder, _ = fitted
    status, said = invoke("raft", "submit", "--data", data, "--fitted", folder, "--out", tmp_path / "mine", "--json")
    found = json.loads(said)
    assert status == 1  # nine tasks are not there
    assert found["rows"] == {BANK: 4, OVER: 4}
    assert {own["file"] for own in found["problems"]} == {
        f"data/{name}/predictions.csv" for name in set(SPECS) - {BANK, OVER}
    }
    rows = (tmp_path / "mine" / "data" / BANK / "predictions.csv").read_text().splitlines()
    assert rows[0] == "ID,Label"
    assert [own.split(",")[0] for own in rows[1:]] == ["50", "51", "52", "53"]
    assert {own.split(",")[1] for own in rows[1:]} <= {"card_lost", "top_up"}
    assert (tmp_path / "mine" / "README.md").read_text().splitlines()[3] == "submission_name: mine"
    status, said = invoke("raft", "validate", tmp_path / "mine", "--data", data, "--json")
    assert (status, json.loads(said)["problems"]) == (1, found["problems"])
    assert json.loads(said)["labels_not_compared"] == [BANK]


@pytest.mark.filterwarnings("ignore:Cut:handful.errors.HandfulWarning")  # the tiny backbone reads 64 letters
def test_a_whole_submission_is_valid(tmp_path: Path, fitted: tuple[Path, Path, dict[str, Any]]) -> None:
    """The tasks have the same columns or fewer and the same classes, so one fitted task stands in for all of them."""
    data = make(tmp_path / "data", asked=3)
    for name in SPECS:
        (tmp_path / "fitted").mkdir(exist_ok=True)
        (tmp_path / "fitted" / name).symlink_to(fitted[1] / OVER)
    arguments = ("--data", data, "--fitted", tmp_path / "fitted", "--out", tmp_path / "out", "--name", "A name: with")
    status, said = invoke("raft", "submit", *arguments)
    assert status == 0
    assert "33 answers to 11 of 11 tasks" in said
    assert "no problem found" in said
    names = Counter(
        line.split(",")[1]
        for file in (tmp_path / "out").rglob("predictions.csv")
        for line in file.read_text().splitlines()[1:]
    )
    assert names.total() == 33
    assert set(names) <= set(CLASSES)


def test_submit_refuses_before_it_answers(tmp_path: Path, fitted: tuple[Path, Path, dict[str, Any]]) -> None:
    data, folder, _ = fitted
    common = ("raft", "submit", "--data", data)
    with pytest.raises(HandfulError, match=r"no folder banking_77, overruling or another\. Fit them first"):
        invoke(*common, "--fitted", tmp_path, "--out", tmp_path / "out")
    (tmp_path / BANK).symlink_to(folder / OVER)
    with pytest.raises(HandfulError, match=r"'yes', 'no' are none of it; it has 'card_lost', 'top_up'\. Fit it on"):
        invoke(*common, "--fitted", tmp_path, "--out", tmp_path / "out")
    with pytest.raises(HandfulError, match=r"called ''\. That is no line of text\. Give it a name\."):
        invoke(*common, "--fitted", folder, "--out", tmp_path / "out", "--name", "")
    (tmp_path / "other" / ".git").mkdir(parents=True)
    with pytest.raises(HandfulError, match=r"It holds \.git, which is not of a submission\. Choose a new folder"):
        invoke(*common, "--fitted", folder, "--out", tmp_path / "other")
    with pytest.raises(
        HandfulError, match=r"None could be found: no folder raft/ade_corpus_v2 in .*\. Say with --data"
    ):
        invoke("raft", "submit", "--data", tmp_path, "--fitted", folder, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_validate_for_people(tmp_path: Path, fitted: tuple[Path, Path, dict[str, Any]]) -> None:
    data, folder, _ = fitted
    invoke("raft", "submit", "--data", data, "--fitted", folder, "--out", tmp_path / "out", "--json")
    file = tmp_path / "out" / "data" / OVER / "predictions.csv"
    file.write_text(file.read_text() + "x,perhaps\n")
    status, said = invoke("raft", "validate", tmp_path / "out", "--data", data)
    assert status == 1
    assert f"data/{OVER}/predictions.csv:6: the ID 'x' is no whole number" in said
    assert f"data/{OVER}/predictions.csv:6: the label 'perhaps' is no class; the classes are 'yes', 'no'" in said
    assert "12 problems found" in said


def test_development_mode_runs_in_a_comparison(tmp_path: Path, fitted: tuple[Path, Path, dict[str, Any]]) -> None:
    data, folder, _ = fitted
    asked = ("compare", f"raft/{OVER}", "--data", data, "--store", tmp_path / "runs.sqlite", "--recipes", "prototypes")
    status, said = invoke(*asked, "--backbones", folder.parent / "tiny", "--seeds", 2, "--json")
    cells = [event for line in said.splitlines() if (event := json.loads(line))["event"] == "cell"]
    assert status == 0
    assert [(own["suite"], own["task"], own["shots"], own["seed"]) for own in cells] == [
        ("raft", OVER, 40, 0), ("raft", OVER, 40, 1),
    ]  # fmt: skip
    assert all(0 <= own["score"] <= 1 and not math.isnan(own["score"]) for own in cells)
    assert np.isfinite([own["score"] for own in cells]).all()
