"""The last chapters of a report: every task for itself, and what is taken for what."""

from __future__ import annotations

from handful.pooled import Confusion, confusions
from handful.report.comparisons import at_shots
from handful.report.document import DASH, Block, Column, Entry, Folded, Section, Table, counted, with_half
from handful.report.study import Study, clean
from handful.stats import means


def single_tasks(study: Study) -> Section:
    """A table of tasks by arms for each number of shots."""
    shots = study.shots
    blocks: list[Block] = []
    for k in reversed(shots):
        table = _task_table(study, k)
        blocks.append(table if k == shots[-1] else Folded(table.caption, (table,)))
    return Section("tasks", "Task by task", tuple(blocks))


def mistakes(study: Study) -> Section | None:
    """The best arm's confusions with the most examples, folded."""
    shots = study.shots[-1]
    found = confusions(study.kept, study.best, shots)
    if not found:
        return None
    text = (
        f"Answers of {study.label(study.best)} with {shots} examples a class, all seeds together: a row for each true "
        "class, a column for each answer. Right answers stand on the diagonal."
    )
    blocks = [
        Folded(f"{study.task(c.task)}: {_worst(c)}", (_confusion_table(study, c, i),)) for i, c in enumerate(found)
    ]
    return Section("confusion", "What is taken for what", (text, *blocks))


def _task_table(study: Study, shots: int) -> Table:
    rows: list[tuple[Entry, ...]] = []
    data: list[tuple[object, ...]] = [(
        "task", "shots", "recipe", "backbone", "mean", "low", "high", "level",
        "lower_quartile", "median", "upper_quartile", "seeds",
    )]  # fmt: skip
    for task, results in study.by_task.items():
        own = [r for r in results if r.cell.shots == shots]
        found = {mean.arm: mean for mean in means(own, study.level)}
        if not found:
            continue
        top = max(found.values(), key=lambda mean: mean.span.value).arm
        noise = {c.second for c in at_shots(own, top, shots, study.level) if c.inside_noise}
        row = [Entry(study.task(task))]
        for arm in study.arms:
            mean = found.get(arm)
            if mean is None:
                row.append(Entry(DASH))
                continue
            text = ("\u2248 " if arm in noise else "") + with_half(mean.span)
            row.append(Entry(text, mean.span.value, "best" if arm == top else "noise" if arm in noise else ""))
            data.append((str(task), shots, arm.recipe, arm.backbone, mean.span.value, mean.span.low, mean.span.high, study.level, *mean.quartiles, mean.seeds))  # fmt: skip  # noqa: E501
        rows.append((*row, Entry(str(found[top].seeds), found[top].seeds)))
    columns = (Column("task", number=False), *(Column(study.label(arm)) for arm in study.arms), Column("seeds"))
    level = f"{100 * study.level:.0f} %"
    note = (
        f"Mean ± half of its {level} interval over seeds, in percent; median and quartiles are in the data. "
        "\u2248: inside the noise of the task's highest."
    )
    caption = f"Tasks with {shots} examples a class"
    return Table(f"tasks-{shots}", caption, columns, tuple(rows), note, study.basis(len(rows)), tuple(data))


def _confusion_table(study: Study, c: Confusion, index: int) -> Table:
    labels = [clean(label) for label in c.labels]
    rows: list[tuple[Entry, ...]] = []
    for truth, counts in zip(labels, c.counts, strict=True):
        total = max(sum(counts), 1)
        rows.append((Entry(truth), *(Entry(str(n) if n else "\u00b7", n, shade=n / total) for n in counts)))
    columns = (Column("true class", number=False), *(Column(label) for label in labels))
    note = f"{c.hidden} classes with fewer mistakes are not shown." if c.hidden else ""
    data = (("truth", *c.labels), *((label, *counts) for label, counts in zip(c.labels, c.counts, strict=True)))
    basis = study.basis(1, note=counted(c.cells, "cell"))
    return Table(
        f"confusion-{index}",
        f"{study.task(c.task)}: answers by true class",
        columns,
        tuple(rows),
        note,
        basis,
        data,
        False,
        True,
    )


def _worst(c: Confusion) -> str:
    """The most frequent mistake, in words."""
    n = len(c.labels)
    pairs = [(c.counts[t][a], t, a) for t in range(n) for a in range(n) if t != a and c.counts[t][a]]
    if not pairs:
        return "no mistake"
    count, truth, answer = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
    return f"most often {clean(c.labels[truth])} is taken for {clean(c.labels[answer])} ({counted(count, 'time')})"
