"""docs/results.md is what results/ says: verdicts by rule, counts, stores made small, and no figure without a row."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gridstore
from handful.cells import Cell, Outcome
from handful.store import Store
from handful.suites import suite
from handful.suites.dev import CHOSEN_ON

ROOT = Path(__file__).parents[2]


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import evidence

    return evidence


@pytest.fixture
def claims(evidence: ModuleType) -> ModuleType:
    return sys.modules[evidence.read.__module__]


@pytest.mark.parametrize(
    ("value", "low", "above", "expected"),
    [
        (2.0, 0.5, 0.0, "holds"),
        (2.0, -0.5, 0.0, "holds in direction"),
        (2.0, 0.0, 0.0, "holds in direction"),
        (2.0, None, 0.0, "holds in direction"),
        (0.0, -1.0, 0.0, "does not hold"),
        (-2.0, -3.0, 0.0, "does not hold"),
        (-0.5, -0.8, -1.0, "holds"),
        (2.0, 0.5, 1.0, "holds in direction"),
    ],
)
def test_the_verdict_follows_from_the_interval(
    claims: ModuleType, value: float, low: float | None, above: float, expected: str
) -> None:
    assert claims.verdict(value, low, above) == expected


def test_a_claim_is_as_strong_as_its_weakest_figure(claims: ModuleType) -> None:
    claim = claims.Claim("x", "A paper", "It is so.", "Table 1", ())
    lines = {name: claims.Line("", "", "", "", "", name) for name in (*claims.STRENGTH, claims.UNTESTED)}
    assert claim.verdict == claims.UNTESTED
    both = replace(claim, lines=(lines["holds"], lines["holds in direction"]))
    assert (both.verdict, both.in_part) == ("holds in direction", False)
    part = replace(claim, lines=(lines["holds"], lines[claims.UNTESTED]))
    assert (part.verdict, part.in_part) == ("holds", True)


def marked(task: str) -> str:
    return f"{task}*" if task in CHOSEN_ON else task


CLAIMS = """
[[claim]]
id = "sizes"
paper = "A paper"
statement = "It is small."
source = "Table 1"
[[claim.figure]]
what = "right"
published = "1,024"
value = 1024
within = 0
count = { backbone = "bert-tiny", spec = "lora:rank=1" }
[[claim.figure]]
what = "on the upper block only, with norms"
published = "1 %"
unit = "percent"
value = 1.0
within = 0.1
count = { backbone = "bert-tiny", spec = "lora:rank=1:start=1+layernorm", extra = 7, extra_is = "a head" }
[[claim.figure]]
what = "for three tasks, of all that there is then"
published = "0.03305 % a task"
unit = "percent a task"
value = 0.03305
within = 0.00001
count = { backbone = "bert-tiny", spec = "lora:rank=1", tasks = 3, once = "layernorm", of = "all" }
[[claim.figure]]
what = "on disk"
published = "4 kB"
unit = "MiB"
value = 0.00390625
within = 0
count = { backbone = "bert-tiny", spec = "lora:rank=1" }

[[claim]]
id = "gain"
paper = "A paper"
statement = "The first recipe is better."
source = "Table 2"
[[claim.figure]]
what = "first - last"
published = "+3"
compare = { store = "made", suite = "intents", shots = [4, 16], first = "default", second = "prototypes" }
[[claim.figure]]
what = "last - first"
published = "+3"
compare = { store = "made", suite = "intents", shots = [4], first = "ia3", second = "default", tasks = ["banking77"] }
[[claim.figure]]
what = "nobody ran it"
published = "+3"
compare = { store = "made", suite = "intents", shots = [4], first = "default", second = "absent" }
[[claim.figure]]
what = "cannot be"
published = "+3"
missing = "there is no such data"
"""


def test_figures_are_worked_out(claims: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "claims.toml").write_text(CLAIMS, encoding="utf-8")
    gridstore.build(tmp_path / "made.sqlite", seeds=3)
    sizes, gain = claims.read(tmp_path / "claims.toml")
    assert [line.verdict for line in sizes.lines] == ["holds", "does not hold", "holds", "holds"]
    assert sizes.lines[0].ours == "1,024"  # 2 blocks x 2 sites x (128 + 128)
    trained = 512 + 5 * 256 + 7  # and five norms with a shift
    assert f"({trained:,})" in sizes.lines[1].ours
    assert sizes.lines[1].basis == "shape of bert-tiny, with 7: a head"
    assert sizes.lines[2].ours.endswith(f"({3 * 1024 + 5 * 256:,} for 3)")
    assert sizes.lines[3].ours == "0.00 MiB (1,024 x 4 bytes)"
    assert sizes.verdict == "does not hold"
    first, last, absent, missing = gain.lines
    assert first.verdict == "holds"
    assert first.basis.startswith("8 sets, k = 4, 16, 3 seeds, 48 pairs; interval over tasks")
    assert (last.verdict, last.basis[:8]) == ("does not hold", "1 set, k")
    assert (absent.verdict, missing.verdict) == (claims.UNTESTED, claims.UNTESTED)
    assert missing.basis == "there is no such data"
    table = "\n".join(claims.claim_table(gain))
    assert table.count("not testable here") == 2


def test_the_committed_page_is_what_results_says(evidence: ModuleType, claims: ModuleType) -> None:
    pytest.importorskip("jinja2")
    before = evidence.STORE.read_bytes()
    made = evidence.page()
    assert made == evidence.PAGE.read_text(encoding="utf-8"), "run python benchmarks/evidence.py"
    assert evidence.STORE.read_bytes() == before
    assert evidence.STORE.stat().st_size < 2_000_000
    listed = claims.read()
    assert len({claim.id for claim in listed}) == len(listed)
    assert all(f"\n### {claim.id}\n" in made for claim in listed)


def test_a_store_in_the_making_makes_a_page(evidence: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    recipes = ("default", "embedding-lr", "peft-lora", "tfidf-lr", "setfit")
    tasks = tuple(task.name for task in suite("dev").tasks)
    lost = [("peft-lora", task, 16, seed) for task in tasks[2:] for seed in range(5)]
    gridstore.build(tmp_path / "dev.sqlite", recipes=recipes, tasks=tasks, shots=(4, 8, 16), failed=lost, suite="dev")
    made = evidence.page(tmp_path / "dev.sqlite")
    by_shots = [part.split("###")[0] for part in made.split(" examples a class\n")[1:]]
    assert ["(b) peft LoRA |" in part for part in by_shots] == [True, True, False]
    assert "left out, with 10 of 40 cells: (b) peft LoRA" in by_shots[2]
    assert made.count("- failed: peft-lora on ") == 30
    table = made.split("### SetFit\n")[1].split("###")[0]
    assert all(f"| {marked(task)} |" in table for task in tasks)
    assert " nan" not in made
    assert "None yet." in evidence.page(tmp_path / "absent.sqlite")


def test_tables_of_all_methods(evidence: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    recipes = tuple(f"{name}:lr=0.01:num_folds=0:steps=30" for name in ("full", "compacter", "said:rank_one=true"))
    gridstore.build(
        tmp_path / "shelf.sqlite", recipes=recipes, tasks=("fewrel_wiki", "multiemo_hotels"), shots=(16,), suite="dev"
    )
    results = evidence.results_of(tmp_path / "shelf.sqlite")
    table = "\n".join(evidence.shelf_tables.table(results, 16))
    assert all(f"| `{name}` | 0.01 |" in table for name in ("full", "compacter", "said:rank_one=true"))
    assert "| `compacter` - `full` |" in "\n".join(evidence.shelf_tables.pairs(results))
    assert evidence.shelf_tables.table(results, 64) == ["None yet.", ""]


def test_a_change_is_told(evidence: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evidence, "page", lambda: "new\n")
    monkeypatch.setattr(evidence, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(sys, "argv", ["evidence.py", "--check"])
    with pytest.raises(SystemExit, match=r"run python benchmarks/evidence\.py"):
        evidence.main()
    monkeypatch.setattr(sys, "argv", ["evidence.py"])
    evidence.main()
    monkeypatch.setattr(sys, "argv", ["evidence.py", "--check"])
    with pytest.raises(SystemExit) as end:
        evidence.main()
    assert end.value.code == 0


def test_the_readme_points_at_what_is_there() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"docs/results\.md#([\w-]+)", readme)) <= anchors
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= anchors


def made_store(path: Path, recipe: str, *scores: float) -> Path:
    store = Store(path)
    cells = [Cell(f"{path.stem}{i}", recipe, "tiny", "", "tickets", 4, i) for i in range(len(scores) + 2)]
    store.add(cells)
    confusion = {"labels": ["a", "b", "c"], "counts": [[0, 0, 4]]}
    done = [
        Outcome(cell.key, score, {"accuracy": score, "n": 4, "confusion": confusion})
        for cell, score in zip(cells, scores, strict=False)
    ]
    store.finish([*done, Outcome(cells[-1].key, error="It diverged.", trace="Traceback ...")])
    return path


def test_a_store_is_made_small(evidence: ModuleType, tmp_path: Path) -> None:
    from slim import slim

    first, second = (
        made_store(tmp_path / "a.sqlite", "probe", 0.5, 0.6),
        made_store(tmp_path / "b.sqlite", "probe", 0.7),
    )
    with sqlite3.connect(first) as connection:  # as an earlier version wrote it
        connection.execute("ALTER TABLE cells DROP COLUMN listed")
    Store(second).choose("probe", {"digest": "tickets"}, "handful search")
    target = tmp_path / "small.sqlite"
    slim([first, second], target, most_labels=2)
    found = Store(target, create=False)
    by_seed: dict[int, Any] = {result.cell.seed: result.outcome for result in found.results()}
    assert [by_seed[seed].score for seed in (0, 1)] == [0.7, 0.6]  # the later store's, then what it has not
    assert sorted(by_seed) == [0, 1, 2, 3]  # a pending cell is left out, failed ones stay
    assert all(outcome.trace == "" and "confusion" not in outcome.measures for outcome in by_seed.values())
    assert found.choices() == {"probe": {"digest": "tickets"}}
    slim([target], target, most_labels=3)
    assert json.dumps([r.to_json() for r in Store(target).results()]) == json.dumps(
        [r.to_json() for r in found.results()]
    )
    slim([first], target, most_labels=3)
    kept = [r.outcome.measures for r in Store(target).results() if r.outcome is not None and not r.outcome.error]
    assert all("confusion" in measures for measures in kept)
    assert [path.name for path in tmp_path.glob("small*")] == ["small.sqlite"]
