"""What the commands do, and how it looks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from handful import artifact as artifacts
from handful import choicecommands, counting, definitions, distributed, packaged, tagcommands
from handful.artifact import Artifact
from handful.backbone import aliases, shared
from handful.cache import FeatureCache
from handful.console import (
    err_console,
    out_console,
    print_json,
    print_listing,
    progress_bar,
    quiet_libraries,
    write_whole,
)
from handful.errors import DataError
from handful.estimate import estimate, headlines
from handful.methods import methods
from handful.predictor import Predictor
from handful.prompts import targets
from handful.recipes import recipe as recipe_named
from handful.recipes import recipes
from handful.shapes import shape
from handful.sources import load_words
from handful.taskfiles import load_task
from handful.types import Scores


def fit(
    train: str, out: Path, *, columns: Mapping[str, Any], separator: str | None, definition: str | None,
    backbone: str, recipe: str, prior: Path | None, template: str | None, shots: int | None, seed: int,
    dtype: str | None, device: str, cache: Path | None, resume: bool, as_json: bool,
) -> None:  # fmt: skip
    """`handful fit`."""
    quiet_libraries()
    artifacts.check_target(out)
    run = recipe_named(recipe, **({"prior": prior} if prior else {}))
    defined = definitions.read(definition) if definition is not None else None
    task = load_task(train, definition=defined, columns=columns, separator=separator, template=template)
    task = choicecommands.drawn(task, shots, seed)
    progress_folder = out.with_name(f".{out.name}.progress")
    if not resume:
        shutil.rmtree(progress_folder, ignore_errors=True)
    with progress_bar(f"fitting {choicecommands.counted(task)}") as report:
        frozen = shared(backbone, dtype=dtype, device=device)
        store = FeatureCache(cache) if cache else None
        (fitted,) = run([task], frozen, seed=seed, store=store, checkpoint=progress_folder, progress=report)
    if not distributed.main_process():
        return  # the first rank writes and speaks
    fitted = replace(fitted, definition=defined.model_dump()) if defined else fitted
    folder = artifacts.save(fitted, out)
    shutil.rmtree(progress_folder, ignore_errors=True)
    summary = {
        "out": str(folder), "recipe": fitted.recipe, "classes": choicecommands.classes(fitted),
        "rows": len(task.examples), "estimate": fitted.estimate, "cost": fitted.cost,
        "bytes_on_disk": artifacts.size_on_disk(folder), "notes": list(fitted.notes),
    }  # fmt: skip
    if as_json:
        print_json(summary)
    else:
        show_fit(fitted, summary)


def predict(
    folder: Path, source: str, out: Path | None, *, columns: Mapping[str, Any], definition: str | None,
    backbone: str | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """`handful predict`."""
    quiet_libraries()
    fitted = artifacts.load(folder)
    tagging = fitted.kind == "tagging"
    examples = (
        load_words(source, text=columns["text"])
        if tagging
        else choicecommands.as_fitted(
            fitted, source, definition=definition, columns=columns, purpose="predict"
        ).examples
    )
    predictor = Predictor(fitted, shared(backbone or fitted.backbone, device=device))
    if tagging:
        rows = tagcommands.answers(fitted, predictor, examples)
    elif fitted.kind in choicecommands.UNCLASSED:
        rows = choicecommands.answers(predictor, examples)
    else:
        rows = [answer(fitted, row) for row in _probabilities(fitted, predictor.scores(examples))]
    if out is not None:
        write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif out_console.is_terminal and not as_json and tagging:
        tagcommands.show_answers(rows)
    elif out_console.is_terminal and not as_json and fitted.kind in choicecommands.UNCLASSED:
        choicecommands.show_answers(examples, rows)
    elif out_console.is_terminal and not as_json:
        table = Table("text", "label", "probability", box=None)
        for example, row in zip(examples, rows, strict=True):
            label = row["label"]
            best = ", ".join(f"{row['scores'][name]:.2f}" for name in ([label] if isinstance(label, str) else label))
            table.add_row(example.text[:80], label if isinstance(label, str) else ", ".join(label), best)
        out_console.print(table)
    else:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


def evaluate(
    folder: Path, test: str, *, columns: Mapping[str, Any], separator: str | None, definition: str | None,
    backbone: str | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """`handful evaluate`."""
    quiet_libraries()
    fitted = artifacts.load(folder)
    task = choicecommands.as_fitted(
        fitted, test, definition=definition, columns=columns, purpose="test", separator=separator
    )
    unknown = [label for label in task.labels if label not in fitted.labels]
    if unknown:
        raise DataError(
            f"The task in {folder} was to be measured on {test}.",
            f"It has labels that the task does not know: {', '.join(map(repr, unknown[:5]))}; "
            f"it knows {', '.join(map(repr, fitted.labels[:10]))}.",
            "Correct the labels, or fit the task with examples of them.",
        )
    predictor = Predictor(fitted, shared(backbone or fitted.backbone, device=device))
    if fitted.kind == "tagging":
        found = tagcommands.measured(predictor, task.examples)
    elif fitted.kind in choicecommands.UNCLASSED:
        found = choicecommands.measured(predictor, task)
    else:
        labels = targets(replace(task, labels=fitted.labels, kind=fitted.kind)).numpy()
        logits = predictor.scores(task.examples).logits.cpu().numpy()
        found = estimate(logits, labels, fitted.labels, [True] * len(labels), 0, fitted.kind).to_dict()
    if as_json:
        print_json({key: found[key] for key in choicecommands.MEASURES if key in found})
        return
    if fitted.kind != "generation":
        show_measures(found)
    if fitted.kind in choicecommands.UNCLASSED:
        choicecommands.show_measured(found)
        return
    if fitted.kind == "tagging":
        tagcommands.show_types(found["per_class"])
        return
    table = Table("class", "rows", "right", "recall", box=None)
    for name, own in found["per_class"].items():
        table.add_row(
            name, str(own["n"]), str(own["correct"]), "-" if own["recall"] is None else f"{own['recall']:.2f}"
        )
    out_console.print(table)


def info(what: str, *, as_json: bool) -> None:
    """`handful info`."""
    quiet_libraries()
    if Path(what).is_dir() and not (Path(what) / "config.json").is_file():
        fitted = artifacts.load(what)
        fields = {
            "task": fitted.task, "kind": fitted.kind, "classes": choicecommands.classes(fitted),
            "recipe": fitted.recipe, "method": fitted.method, "backbone": fitted.backbone,
            "fingerprint": fitted.fingerprint, "estimate": fitted.estimate, "cost": fitted.cost,
            "temperature": fitted.temperature, "seed": fitted.seed, "notes": list(fitted.notes),
            "bytes_on_disk": artifacts.size_on_disk(what), **choicecommands.about(fitted),
        }  # fmt: skip
    else:
        backbone = shared(what)
        config = backbone.model.config
        fields = {
            "backbone": what, "architecture": type(backbone.model).__name__, "family": backbone.family.name,
            "parameters": backbone.num_parameters, "width": getattr(config, "hidden_size", None),
            "blocks": getattr(config, "num_hidden_layers", None), "max_length": backbone.max_length,
            "pooling": backbone.pooling, "fingerprint": backbone.fingerprint,
        }  # fmt: skip
    if as_json:
        print_json(fields)
        return
    table = Table(box=None, show_header=False)
    for name, value in fields.items():
        table.add_row(
            name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        )
    out_console.print(table)


def list_methods(*, as_json: bool) -> None:
    """`handful methods`."""
    quiet_libraries()
    default, rows = shape(counting.DEFAULT), list[dict[str, Any]]()
    for name, kind in methods().items():
        found = counting.count(default, kind())
        source = getattr(kind, "source", "") or _first_line(sys.modules[kind.__module__])
        numbers = found.to_dict() if as_json else {f"of {default.id}": _shares(found)}
        rows.append({"name": name, **numbers, "does": _first_line(kind), "source": source})
    print_listing(rows, as_json)


def _shares(found: counting.Count) -> str:
    kept = "" if found.kept is None else f", kept {found.kept / found.total:.3%}"
    return f"{found.share:.3%}{kept}"


def count_method(backbone: str, method: str, *, tasks: int, as_json: bool) -> None:
    """`handful methods count`."""
    quiet_libraries()
    found = counting.count_said(backbone, method, tasks=tasks)
    if as_json:
        print_json(found.to_dict())
        return
    table = Table(box=None, show_header=False)
    table.add_row("trainable", f"{found.trainable:,}")
    table.add_row("total", f"{found.total:,}")
    table.add_row("share", f"{found.share:.4%}")
    if found.kept is not None:
        table.add_row("kept", f"{found.kept:,} after training")
    for figure in counting.published(backbone, method) if tasks == 1 else ():
        table.add_row("published", Text(figure))
    out_console.print(table)


def list_recipes(*, as_json: bool) -> None:
    """`handful recipes`."""
    rows = [{"name": name, "does": _first_line(sys.modules[run.__module__])} for name, run in recipes().items()]
    print_listing([*rows, {"name": "METHOD", "does": "tune with that method: " + ", ".join(methods())}], as_json)


def list_backbones(*, as_json: bool) -> None:
    """`handful backbones`."""
    rows = []
    for name, locate in aliases().items():
        try:
            where = packaged.described(name) if name in packaged.PACKAGED else locate()
            rows.append({"name": name, "where": where})
        except Exception as error:  # an alias whose package is missing is still worth listing
            rows.append({"name": name, "where": f"not installed: {error}"})
    print_listing(
        [*rows, {"name": "ID or FOLDER", "where": "any hub id or local folder of a known architecture"}], as_json
    )


# -- showing -----------------------------------------------------------------------------------------------------------


def show_fit(fitted: Artifact, summary: Mapping[str, Any]) -> None:
    """The table that a fit ends with."""
    if fitted.estimate:
        show_measures(fitted.estimate)
    cost, size = fitted.cost, summary["bytes_on_disk"]
    table = Table(box=None, show_header=False)
    if cost:  # a plug-in's recipe may not say
        share = cost["trained_parameters"] / cost["backbone_parameters"]
        table.add_row("seconds", f"{cost['seconds']:.1f}")
        table.add_row("parameters", f"{cost['trained_parameters']:,} ({share:.2%} of the backbone)")
        table.add_row("per query", f"{cost['query_flops'] / 1e9:.2f} GFLOP at {cost['query_tokens']} tokens")
    table.add_row("on disk", f"{size / 1000:.0f} kB in {summary['out']}")
    for note in fitted.notes:
        table.add_row("note", note)
    out_console.print(table)


def show_measures(found: Mapping[str, Any]) -> None:
    """Accuracy and macro-F1 (of tags, entity F1) with their intervals, and what is to be warned of."""
    table = Table(box=None, show_header=False)
    for name in headlines(found):
        own = found[name]
        if own["value"] is not None:
            text = f"{own['value']:.1%}  ({own['level']:.0%} interval {own['low']:.1%} to {own['high']:.1%})"
            table.add_row(name.replace("_", " "), text)
    if found["n"]:
        table.add_row("measured", found["note"].removeprefix("measured "))
    out_console.print(table)
    for warning in found["warnings"]:
        err_console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)


def answer(fitted: Artifact, probabilities: Sequence[float]) -> dict[str, Any]:
    """One line of `handful predict`."""
    scores = dict(zip(fitted.labels, (round(p, 6) for p in probabilities), strict=True))
    if fitted.kind == "multilabel":
        return {"label": [name for name, p in scores.items() if p >= 0.5], "scores": scores}
    return {"label": max(scores, key=lambda name: scores[name]), "scores": scores}


def _probabilities(fitted: Artifact, scores: Scores) -> list[list[float]]:
    return scores.probabilities(fitted.kind).double().tolist()


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().split("\n")[0]
