"""Submissions: what is written is valid, and everything that can be wrong is found, all of it at once."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handful.errors import ArtifactError, DataError, RequestError
from handful.submission import Expected, Problem, check_out, front_matter, validate, write

TASKS = {"one": Expected(("yes", "no, never"), (50, 51, 52)), "two": Expected()}
ANSWERS = {"one": [(50, "yes"), (51, "no, never"), (52, "yes")], "two": [(7, "a"), (8, 'say "b"')]}
ONE, TWO = "data/one/predictions.csv", "data/two/predictions.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "mine", "raft", "My name", ANSWERS)


def found(folder: Path) -> list[str]:
    return [str(problem) for problem in validate(folder, "raft", TASKS)]


def test_the_format_is_the_benchmarks(folder: Path) -> None:
    assert sorted(str(own.relative_to(folder)) for own in folder.rglob("*") if own.is_file()) == ["README.md", ONE, TWO]
    assert (folder / ONE).read_bytes() == b'ID,Label\n50,yes\n51,"no, never"\n52,yes\n'
    assert (folder / TWO).read_bytes() == b'ID,Label\n7,a\n8,"say ""b"""\n'
    text = "---\nbenchmark: raft\ntype: prediction\nsubmission_name: My name\n---\n"
    assert (folder / "README.md").read_text() == text
    assert found(folder) == []


LABELS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"))  # a class name is a line of text


@settings(max_examples=30)
@given(
    name=st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda own: own.strip() and own.isprintable()),
    rows=st.dictionaries(st.integers(0, 10**9), LABELS),
)
def test_what_is_written_is_valid_and_reads_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: dict[int, str]
) -> None:
    answers = [(own, f"c{label}") for own, label in rows.items()] or [(1, "c")]
    folder = write(tmp_path_factory.mktemp("mine") / "out", "raft", name, {"one": answers})
    expected = Expected(tuple({label for _, label in answers}), tuple(own for own, _ in answers))
    assert validate(folder, "raft", {"one": expected}) == []
    assert (front_matter(folder / "README.md") or {})["submission_name"] == name
    with (folder / ONE).open(encoding="utf-8", newline="") as file:
        assert [(int(own), label) for own, label in list(csv.reader(file))[1:]] == answers


# -- what is wrong -----------------------------------------------------------------------------------------------------


def test_everything_is_said_at_once(folder: Path) -> None:
    lines = ["ID,Label", "50,maybe", "x,yes", ",yes", "50,yes", "51,", "99,yes", "52", "52,Unlabeled,3", "5.0,yes"]
    (folder / ONE).write_text("\n".join(lines) + "\n")
    (folder / TWO).unlink()
    (folder / "data" / "three").mkdir()
    (folder / "README.md").write_text("---\nbenchmark: draft\nsubmission_name:\n---\n")
    assert found(folder) == [
        "README.md:2: benchmark is 'draft', not 'raft'",
        "README.md:1: it does not say type: prediction",
        "README.md:3: submission_name is None, not a text",
        f"{ONE}:2: the label 'maybe' is no class; the classes are 'yes', 'no, never'",
        f"{ONE}:3: the ID 'x' is no whole number",
        f"{ONE}:4: the ID is missing",
        f"{ONE}:5: the ID 50 is in line 2 already",
        f"{ONE}:6: the label is missing",
        f"{ONE}:7: the ID 99 is not in the test split",
        f"{ONE}:8: it has 1 cells, not 2",
        f"{ONE}:9: it has 3 cells, not 2",
        f"{ONE}:10: the ID '5.0' is no whole number",
        f"{ONE}: it has 9 rows, the test split has 3",
        f"{ONE}: there is no row with the ID 52",
        f"{TWO}: there is no such file",
        "data/three: it is no task; the tasks are one, two",
    ]


def write_text(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(text.encode())


def removed(file: Path) -> None:
    file.unlink()


def made_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


FILES: list[tuple[Callable[[Path], object], str]] = [
    (removed, f"{TWO}: there is no such file"),
    (made_folder, f"{TWO}: Is a directory"),
    (write_text(""), f"{TWO}: it is empty"),
    (write_text("\n\n"), f"{TWO}: it is empty"),
    (write_text("ID,Label\n"), f"{TWO}: it has a header and no rows"),
    (write_text("Label,ID\na,1\n"), f"{TWO}:1: the columns are 'Label', 'ID', not 'ID', 'Label'"),
    (write_text("id,label\n1,a\n"), f"{TWO}:1: the columns are 'id', 'label', not 'ID', 'Label'"),
    (write_text("ID;Label\n1;a\n"), f"{TWO}:1: the columns are 'ID;Label', not 'ID', 'Label'"),
    (write_text("\ufeffID,Label\n1,a\n"), f"{TWO}:1: the columns are '\\ufeffID', 'Label', not 'ID', 'Label'"),
    (write_text(",ID,Label\n0,1,a\n"), f"{TWO}:1: the columns are '', 'ID', 'Label', not 'ID', 'Label'"),
    (write_text("ID,Label\n1,Unlabeled\n"), f"{TWO}:2: the label 'Unlabeled' is no class"),
    (write_text('ID,Label\n1,"a\nb"\n-1,c\n'), f"{TWO}:4: the ID '-1' is no whole number"),
    (write_text("ID,Label\n1,a\n01,a\n"), f"{TWO}:3: the ID 1 is in line 2 already"),
    (write_text("ID,Label\n٣,a\n"), f"{TWO}:2: the ID '٣' is no whole number"),
    (write_text('ID,Label\n1,a\n2,"b\n'), f"{TWO}:3: it cannot be read on from here: unexpected end of data"),
    (lambda file: file.write_bytes(b"ID,Label\n1,a\n2,\xff\n"), f"{TWO}:3: it is not UTF-8"),
]


@pytest.mark.parametrize(("spoil", "said"), FILES, ids=[said for _, said in FILES])
def test_files_that_are_wrong(folder: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(folder / TWO)
    assert found(folder) == [said]


def test_broken_quotes_do_not_hide_what_comes_before(folder: Path) -> None:
    (folder / TWO).write_text('ID,Label\nx,a\n2,"b\n')
    assert [own.partition(": ")[0] for own in found(folder)] == [f"{TWO}:2", f"{TWO}:3"]


def test_a_very_long_number_is_no_id(folder: Path) -> None:
    (folder / TWO).write_text("ID,Label\n" + "9" * 5000 + ",a\n")
    assert found(folder) == [f"{TWO}:2: the ID '{'9' * 40}' is no whole number"]


CARDS = [
    ("# Mine\n", "README.md:1: it does not begin with keys and values between two lines of ---"),
    ("---\nbenchmark: raft\n", "README.md:1: it does not begin with keys and values between two lines of ---"),
    ("---\n- raft\n---\n", "README.md:1: it does not begin with keys and values between two lines of ---"),
    ("---\na: [\n---\n", "README.md:1: it does not begin with keys and values between two lines of ---"),
    ("---\nbenchmark: raft\ntype: prediction\n---\n", "README.md:1: it does not say submission_name"),
    (
        "---\nbenchmark: raft\ntype: model\nsubmission_name: a\n---\n",
        "README.md:3: type is 'model', not 'prediction'",
    ),
    (
        "---\nbenchmark: raft\ntype: prediction\nsubmission_name: 7\n---\n",
        "README.md:4: submission_name is 7, not a text",
    ),
]


@pytest.mark.parametrize(("text", "said"), CARDS, ids=[said for _, said in CARDS])
def test_cards_that_are_wrong(folder: Path, text: str, said: str) -> None:
    (folder / "README.md").write_text(text)
    assert found(folder) == [said]


def test_a_card_may_say_more_and_may_be_missing(folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("type:", "tags: [a]\ntype:") + "\n# How it was made\n")
    assert found(folder) == []
    card.unlink()
    assert found(folder) == ["README.md: there is no such file"]


def test_what_is_not_known_is_not_compared(folder: Path) -> None:
    (folder / ONE).write_text("ID,Label\n1,anything\n")
    assert validate(folder, "raft", {"one": Expected(), "two": Expected()}) == []
    assert [own.line for own in validate(folder, "raft", {"one": Expected(("a",)), "two": Expected()})] == [2]


def test_many_missing_rows_are_one_problem(folder: Path) -> None:
    problems = validate(folder, "raft", {"one": Expected((), tuple(range(50, 80))), "two": Expected()})
    assert problems[-1] == Problem(
        ONE, 0, "there is no row with the ID 53, 54, 55, 56, 57, 58, 59, 60, 61, 62 and 17 more"
    )


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"checked in .*nowhere\. There is no such folder\. Give the one"):
        validate(tmp_path / "nowhere", "raft", TASKS)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_an_older_submission_is_replaced(folder: Path) -> None:
    write(folder, "raft", "Newer", {"one": ANSWERS["one"]})
    assert "submission_name: Newer" in (folder / "README.md").read_text()
    assert not (folder / TWO).exists()
    assert sorted(own.name for own in folder.parent.iterdir()) == ["mine"]


@pytest.mark.parametrize(
    "strange", [".git/config", "data/one/train.csv", "handful.json", "data/one/old/predictions.csv"]
)
def test_a_folder_with_anything_else_is_left_alone(folder: Path, strange: str) -> None:
    (folder / strange).parent.mkdir(exist_ok=True)
    (folder / strange).write_text("mine")
    with pytest.raises(ArtifactError, match=r"which is not of a submission\. Choose a new folder"):
        write(folder, "raft", "Newer", {"one": ANSWERS["one"], "two": []})
    assert (folder / strange).read_text() == "mine"
    assert "My name" in (folder / "README.md").read_text()


def test_a_submission_to_another_benchmark_is_left_alone(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"It holds no submission to other\. Choose a new folder"):
        check_out(folder, "other")
    (folder.parent / "file").write_text("mine")
    with pytest.raises(ArtifactError, match=r"It exists and holds no submission\."):
        check_out(folder.parent / "file", "raft")
    with pytest.raises(ArtifactError, match=r"file is a file\."):
        check_out(folder.parent / "file" / "out", "raft")


def test_a_write_that_fails_leaves_the_older_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {own: own.read_bytes() for own in folder.rglob("*") if own.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("handful.folders.os.fsync", full)
    with pytest.raises(ArtifactError, match=r"No space left on device\. Nothing was changed there\. Free some space"):
        write(folder, "raft", "Newer", {"one": []})
    assert {own: own.read_bytes() for own in folder.rglob("*") if own.is_file()} == before
    assert sorted(own.name for own in folder.parent.iterdir()) == ["mine"]


@pytest.mark.parametrize("name", ["", "  ", "a\nb"])
def test_names_are_lines_of_text(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"That is no line of text\. Give it a name\."):
        write(tmp_path / "mine", "raft", name, ANSWERS)
    assert not (tmp_path / "mine").exists()
