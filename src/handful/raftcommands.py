"""What `handful raft` does: fits the benchmark's tasks, answers their test rows, and checks what is to be submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from handful import submission
from handful.console import err_console, out_console, print_json, progress_bar, quiet_libraries
from handful.errors import DataError, HandfulError, RequestError, RunError
from handful.submission import Expected, Problem
from handful.suites.raft import average
from handful.suites.raftdata import NAME, SPECS, Asked, asked, exact, learned

if TYPE_CHECKING:
    from handful.artifact import Artifact
    from handful.types import Task

SHOWN = 50
"""So many problems are printed; --json has all."""


def fit(
    data: Path | None, out: Path, *, only: Sequence[str], recipe: str, backbone: str, prior: Path | None, seed: int,
    dtype: str | None, device: str, as_json: bool,
) -> int:  # fmt: skip
    """`handful raft fit`: every task that is there, or those of `only`; one that is fitted already is kept.

    A task that fails is said, and the others go on; exit status 1 then.
    """
    from handful import artifact as artifacts
    from handful.backbone import shared
    from handful.recipes import recipe as recipe_named

    quiet_libraries()
    if unknown := [name for name in only if name not in SPECS]:
        raise RequestError(
            f"The task {unknown[0]!r} of RAFT was to be fitted.", f"Its tasks are {', '.join(SPECS)}.",
            "Choose among these.",
        )  # fmt: skip
    run = recipe_named(recipe, **({"prior": prior} if prior else {}))
    tasks, missing = _found(data, learned, only or tuple(SPECS))
    kept = {name: artifacts.load(out / name) for name in tasks if (out / name).exists()}
    for name, own in kept.items():
        if (own.backbone, own.seed) != (backbone, seed):
            raise RequestError(
                f"{NAME}/{name} was to be fitted on {backbone!r} with seed {seed}.",
                f"{out / name} was fitted on {own.backbone!r} with seed {own.seed}.", "Choose another folder.",
            )  # fmt: skip
    frozen = shared(backbone, dtype=dtype, device=device) if len(kept) < len(tasks) else None
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for name, task in tasks.items():
        fitted = kept.get(name)
        if fitted is None and frozen is not None:
            _say_about(task)
            try:
                with progress_bar(f"fitting {name}") as report:
                    (fitted,) = run([task], frozen, seed=seed, progress=report)
                artifacts.save(fitted, out / name)
            except HandfulError as error:
                failed[name] = str(error)
                continue
        if fitted is not None:
            rows.append(_line(name, fitted, name in kept))
    _show_fits(rows, missing, failed, as_json)
    return 1 if failed else 0


def submit(
    data: Path | None, fitted: Path, out: Path, *, name: str, backbone: str | None, device: str, as_json: bool
) -> int:
    """`handful raft submit`: exit status 1 where the folder is not yet what the benchmark takes."""
    quiet_libraries()
    submission.check_name(name)
    submission.check_out(out, NAME)
    tests, missing = _found(data, asked)
    parts = _fitted(tests, fitted, missing)
    answers = {task: _answers(tests[task], own, backbone, device) for task, own in parts.items()}
    submission.write(out, NAME, name, answers)
    problems = submission.validate(out, NAME, _expected(tests))
    if as_json:
        rows = {task: len(own) for task, own in answers.items()}
        print_json({"out": str(out), "rows": rows, "missing": missing, "problems": list(map(asdict, problems))})
        return 1 if problems else 0
    _say("missing", missing)
    out_console.print(f"{sum(map(len, answers.values())):,} answers to {len(answers)} of {len(SPECS)} tasks in {out}")
    _show_problems(problems)
    return 1 if problems else 0


def validate(folder: Path, data: Path | None, *, as_json: bool) -> int:
    """`handful raft validate`: exit status 1 if anything is wrong."""
    quiet_libraries()
    tests, missing = _each(data, asked)
    problems = submission.validate(folder, NAME, _expected(tests))
    unknown = [name for name, own in tests.items() if not own.whole]
    if as_json:
        print_json(
            {
                "valid": not problems, "problems": list(map(asdict, problems)), "not_compared": missing,
                "labels_not_compared": unknown,
            }
        )  # fmt: skip
        return 1 if problems else 0
    _say("not compared with test rows", missing)
    if unknown:
        said = f"labels not compared, since not all classes are known: {', '.join(unknown)}; labels.txt names all"
        err_console.print(said, highlight=False, markup=False, soft_wrap=True)
    _show_problems(problems)
    return 1 if problems else 0


# -- tasks and answers -------------------------------------------------------------------------------------------------


def _each(
    data: Path | None, read: Any, names: Sequence[str] = tuple(SPECS)
) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
    """What there is of each task, and why there is nothing of the others."""
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name in names:
        own = read(name, data)
        (missing if isinstance(own, str) else found)[name] = own
    return found, missing


def _found(
    data: Path | None, read: Any, names: Sequence[str] = tuple(SPECS)
) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
    """As `_each`; RequestError where there is nothing at all."""
    found, missing = _each(data, read, names)
    if not found:
        raise RequestError(
            "The tasks of RAFT were asked for.", f"None could be found: {next(iter(missing.values()))}.",
            "Say with --data where they lie; docs/raft.md shows how.",
        )  # fmt: skip
    return found, missing


def _expected(tests: Mapping[str, Asked]) -> dict[str, Expected]:
    """What a submission is compared with; where not all classes are known, labels are not."""
    return {
        name: Expected(tests[name].classes if tests[name].whole else (), tests[name].ids)
        if name in tests
        else Expected()
        for name in SPECS
    }


def _fitted(tests: Mapping[str, Asked], folder: Path, missing: dict[str, str]) -> dict[str, Artifact]:
    """The fitted tasks, whose classes are the benchmark's; those that are not there are added to `missing`."""
    from handful import artifact as artifacts

    found: dict[str, Artifact] = {}
    for name, test in tests.items():
        if not (folder / name).is_dir():
            missing[name] = f"no fitted task {name} in {folder}"
            continue
        own = artifacts.load(folder / name)
        strange = [label for label in own.labels if exact(label, test.classes) is None]
        if own.kind != "classification" or strange:
            raise DataError(
                f"The fitted task in {folder / name} was to answer {NAME}/{name}.",
                f"Its classes {', '.join(map(repr, strange[:5]))} are none of it; it has "
                f"{', '.join(map(repr, test.classes[:10]))}."
                if strange
                else f"It is a {own.kind} task, and a classification is asked.",
                f"Fit it on the benchmark's rows: handful raft fit --out {folder}.",
            )
        found[name] = own
    if not found:
        raise RequestError(
            f"Fitted tasks were looked for in {folder}.", f"It has no folder {', '.join(list(tests)[:3])} or another.",
            "Fit them first: handful raft fit --out DIR.",
        )  # fmt: skip
    return found


def _answers(test: Asked, fitted: Artifact, backbone: str | None, device: str) -> list[tuple[int, str]]:
    """The ID and the class of each test row, by the benchmark's own name of it."""
    from handful.backbone import shared
    from handful.predictor import Predictor

    with progress_bar(f"answering {fitted.task}"):
        predictor = Predictor(fitted, shared(backbone or fitted.backbone, device=device))
        logits = predictor.scores(test.examples).logits
    if bool(logits.isnan().any()):
        raise RunError(
            f"The test rows of {fitted.task!r} were to be answered.", "Some scores are not numbers.", "Fit it again."
        )
    names = [exact(label, test.classes) or label for label in fitted.labels]
    return [(own, names[best]) for own, best in zip(test.ids, logits.argmax(-1).tolist(), strict=True)]


def _say_about(task: Task) -> None:
    """A warning where not all classes are known."""
    if len(task.labels) < (classes := SPECS[task.name].num_classes):
        said = f"{task.name} has {classes} classes, {len(task.labels)} are known: labels.txt beside train.csv names all"
        err_console.print(f"warning: {said}", highlight=False, markup=False, soft_wrap=True)


# -- showing -----------------------------------------------------------------------------------------------------------


def _line(name: str, fitted: Artifact, kept: bool) -> dict[str, Any]:
    estimate = fitted.estimate or {}
    return {
        "task": name, "classes": len(fitted.labels), "recipe": fitted.recipe, "backbone": fitted.backbone,
        "seed": fitted.seed, "kept": kept, "macro_f1": (estimate.get("macro_f1") or {}).get("value"),
        "seconds": fitted.cost.get("seconds"),
    }  # fmt: skip


def _show_fits(
    rows: Sequence[Mapping[str, Any]], missing: Mapping[str, str], failed: Mapping[str, str], as_json: bool
) -> None:  # fmt: skip
    known = {row["task"]: row["macro_f1"] for row in rows if row["macro_f1"] is not None}
    mean, without = average(known)
    if as_json:
        found = {"tasks": list(rows), "missing": missing, "failed": failed}
        print_json(found | {"macro_f1": mean, "macro_f1_without": list(without)})
        return
    table = Table("task", "classes", "recipe", "seed", "macro-F1 by its folds", "seconds", box=None)
    for row in rows:
        share = "-" if row["macro_f1"] is None else f"{row['macro_f1']:.1%}"
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.1f}"
        cells = [row["task"], str(row["classes"]), row["recipe"], str(row["seed"]), share]
        table.add_row(*map(Text, (*cells, "kept" if row["kept"] else seconds)))
    out_console.print(table)
    if mean is not None:
        out_console.print(f"mean of {len(known)} of {len(SPECS)} tasks: {mean:.1%}", highlight=False)
    _say("missing", missing)
    _say("failed", failed)


def _say(what: str, reasons: Mapping[str, str]) -> None:
    """Reasons on standard error, the same one once for all tasks that have it."""
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault(why.replace(name, "TASK"), []).append(name)
    for why, names in groups.items():
        shown = why if len(names) > 1 else why.replace("TASK", names[0])
        err_console.print(f"{what}: {', '.join(names)}: {shown}", highlight=False, markup=False, soft_wrap=True)


def _show_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:SHOWN]:
        out_console.print(str(problem), highlight=False, markup=False, soft_wrap=True)
    if problems[SHOWN:]:
        out_console.print(f"and {len(problems) - SHOWN:,} more, which --json has", highlight=False)
    count = f"{len(problems):,} problem{'s' * (len(problems) != 1)}" if problems else "no problem"
    out_console.print(f"{count} found", highlight=False)
