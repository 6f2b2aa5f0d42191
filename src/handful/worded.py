"""Tasks that end in text, on the way to training: their rows in every wording, and what an answer and a step cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from handful.backbone import Backbone
from handful.batches import Rows, gather, lengths, stack
from handful.choices import NOTHING, Spoken, speak, together
from handful.chooser import Chooser
from handful.costs import count_flops, learning
from handful.errors import DataError, RequestError
from handful.losses import Loss
from handful.packing import ANSWER
from handful.prompts import targets
from handful.templates import DEFAULTS, Template
from handful.types import Batch, Example, Params, Task


@dataclass(frozen=True)
class Worded:
    """Tasks in words.

    tasks   with labels that are the positions of choices where rows bring their own
    rows    the rows of all tasks in their first wording, task after task, then in the others
    others  `[n, W]`: where each row of the first wording is in all W wordings, -1 where its task has fewer
    labels  the position of the right choice of each task's rows
    """

    tasks: Sequence[Task]
    rows: Batch
    others: Tensor
    labels: Sequence[Tensor]

    @staticmethod
    def of(tasks: Sequence[Task], backbone: Backbone, *, limit: int, end: bool = True) -> Worded:
        """Tasks in the words of their templates, cut to `limit` tokens."""
        tasks = [numbered(task) for task in tasks]
        spoken, places = list[Spoken](), [list[Tensor]() for _ in tasks]
        for turn in range(max(len(templates_of(task)) for task in tasks)):
            for task, own in zip(tasks, places, strict=True):
                if turn < len(templates_of(task)):
                    own.append(torch.arange(len(task.examples)) + len(spoken))
                    template = templates_of(task)[turn]
                    free = task.kind == "generation"
                    spoken += speak(
                        backbone, task.examples, () if free else task.labels, template, limit=limit, end=end,
                        only=[0] * len(task.examples) if free else None,
                    )  # fmt: skip
        each = [row for own in places for row in torch.stack(own, 1)]
        others = pad_sequence(each, batch_first=True, padding_value=-1)
        return Worded(tasks, together(backbone, spoken), others, [right(task) for task in tasks])

    def training(self, rows: Rows) -> Rows:
        """Rows of the first wording in all their wordings: a step draws from these, so each comes in one at random."""
        index, labels = list[list[int]](), list[Tensor]()
        for own, known in zip(rows.index, rows.labels, strict=True):
            every = self.others[own[own >= 0].cpu()]
            index.append(every[every >= 0].tolist())
            labels.append(known[own >= 0].cpu()[:, None].expand_as(every)[every >= 0])
        return stack(rows.pool, index, labels, rows.class_mask.sum(1).tolist())


def templates_of(task: Task) -> Sequence[Template]:
    """The task's templates, or the default one of its kind.

    RequestError for a kind that does not end in text, and for a text with `{text}`, which an encoder reads.
    """
    if task.kind not in DEFAULTS:
        raise RequestError(
            f"The task {task.name} was to be answered in words.", f"It is a {task.kind} task.",
            "Use another recipe for it: `handful recipes` lists them.",
        )  # fmt: skip
    if task.template is not None:
        raise RequestError(
            f"The task {task.name} was to be answered in words, by the template {task.template!r}.",
            "It is no prompt: it has no column to fill in.", "Write columns as {{ name }}, such as {{ text }}.",
        )  # fmt: skip
    return task.templates or (DEFAULTS[task.kind],)


def check_ranked(tasks: Sequence[Task]) -> None:
    """RequestError for a task without choices to rank."""
    if written := next((task for task in tasks if task.kind == "generation"), None):
        raise RequestError(
            f"The choices of the task {written.name} were to be ranked.",
            "It is a generation task, whose answers are written freely.",
            "Define it with choices, or as a classification with labels.",
        )  # fmt: skip


def numbered(task: Task) -> Task:
    """A task whose rows bring their own choices, with labels that are the choices' positions; others as they are.

    An answer that is written freely is the only choice of its row.
    """
    if task.kind == "generation":
        return replace(task, labels=("1",))
    if task.kind != "choice":
        return task
    most = max((len(example.choices or ()) for example in task.examples), default=0)
    return replace(task, labels=tuple(str(position + 1) for position in range(most)))


def as_split(task: Task) -> Task:
    """The task as folds are made of it: rows of a choice task are of one class, as positions are none."""
    alike = [replace(example, label=task.labels[0]) for example in task.examples]
    return replace(task, examples=alike) if task.kind == "choice" else task


def right(task: Task) -> Tensor:
    """The position of each row's right choice `[n]`. DataError for a row whose label is none of its choices."""
    if task.kind == "generation":
        return torch.zeros(len(task.examples), dtype=torch.long)
    if task.kind != "choice":
        return targets(task)
    return torch.tensor([_position(task, number, example) for number, example in enumerate(task.examples, 1)])


def _position(task: Task, number: int, example: Example) -> int:
    if example.label not in (example.choices or ()):
        raise DataError(
            f"The right choice of row {number} of {task.name} was looked for.",
            f"{example.label!r} is none of {', '.join(map(repr, example.choices or ())) or 'no choices'}.",
            "Write the label as one of the choices.",
        )
    return (example.choices or ()).index(str(example.label))


def wording_cost(
    model: Chooser, params: Params, loss: Loss, rows: Batch, own: range, *, steps: int, batch_size: int
) -> dict[str, Any]:
    """FLOPs of an answer, and of training, by the row of median length among a task's `own` rows of a pool.

    `query_tokens` are those that an answer reads in one row, and `scored_tokens` those of its choices. An
    encoder-decoder's decoder reads `decoder_tokens` beside: all choices, brought to the length of the longest.
    """
    order = lengths(rows)[own.start : own.stop].argsort()
    row = gather(rows, order[len(order) // 2].reshape(1) + own.start)
    rate = model.adapted.method.rate
    tree, leaves = learning(params, lambda _, name: rate(name) > 0)
    gold = torch.zeros(1, dtype=torch.long, device=rows.row_mask.device)
    asked = replace(row, inputs={name: x for name, x in row.inputs.items() if name != "states"})  # from the text on
    real = row.inputs["targets"] != NOTHING
    with torch.no_grad():
        query = count_flops(lambda: model(params, asked))
    step = count_flops(lambda: torch.autograd.grad(loss(model(tree, row), gold).sum(), leaves, allow_unused=True))
    trained = sum(leaf.numel() for leaf in leaves)
    return {
        "training_flops": step * min(batch_size, len(own)) * steps,
        "query_flops": query,
        "query_tokens": int(lengths(row)[0]),
        "scored_tokens": int(real.sum()),
        "choices": real.shape[-2],
        **({"decoder_tokens": real.numel()} if "decoder_input_ids" in row.inputs else {}),
        "trained_parameters": trained,
        "method_parameters": trained,
        "backbone_parameters": model.adapted.backbone.num_parameters,
    }


def shown_sizes(rows: Batch, own: range, labels: Tensor) -> dict[str, Any]:
    """How many rows a task has, its `own` in a pool, and the mean number of tokens of one with its right answer."""
    kept = torch.arange(own.start, own.stop)
    mask = rows.inputs["attention_mask"].cpu()[kept].bool()
    prompt = mask & (rows.inputs[ANSWER].cpu()[kept] == 0) if ANSWER in rows.inputs else mask
    answer = rows.inputs["targets"].cpu()[kept, labels.cpu()] != NOTHING
    return {"training_rows": len(own), "row_tokens": round(float((prompt.sum() + answer.sum()) / len(own)), 1)}
