"""What the benchmarks run: the backbone, rows, texts, training by `handful` and the same by `peft`."""

from __future__ import annotations

import gzip
import json
import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.attach import Adapted, attach
from handful.backbone import Backbone, aliases, load
from handful.batches import Rows, stack
from handful.fit import Schedule, fit
from handful.losses import cross_entropy
from handful.methods.base import Method
from handful.scoring import Classifier
from handful.types import Batch, Example, Params

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
CLASSES = 5


@cache
def minilm(dtype: str = "float32") -> Backbone:
    return load("minilm", dtype=dtype)


def random_rows(count: int, length: int, seed: int = 0) -> Batch:
    """Rows of `length` real tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, 30000, (count, length), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return Batch(inputs, torch.ones(count, dtype=torch.bool))


def random_labels(count: int, classes: int = CLASSES, seed: int = 0) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def tasks_of(pool: Batch, num_tasks: int, rows: int, classes: int = CLASSES) -> Rows:
    """The pool's rows dealt out to tasks of `rows` rows."""
    index = [list(range(t * rows, (t + 1) * rows)) for t in range(num_tasks)]
    return stack(pool, index, [random_labels(rows, classes, t) for t in range(num_tasks)], [classes] * num_tasks)


def frozen_forward(pool: Batch, times: int, backbone: Backbone | None = None) -> Callable[[], None]:
    """`times` forwards of all rows of a pool in one batch, without a method and without gradients."""
    model, inputs = (backbone or minilm()).model, dict(pool.inputs)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(times):
                model(**inputs)

    return run


def zero_head(num_tasks: int, classes: int = CLASSES, width: int = 384) -> dict[str, Tensor]:
    return {"weight": torch.zeros(num_tasks, classes, width), "bias": torch.zeros(num_tasks, classes)}


def start(adapted: Adapted | None, num_tasks: int, classes: int = CLASSES, width: int = 384) -> Params:
    """Fresh parameters of a method and a class head."""
    params = adapted.init(0, tasks=num_tasks) if adapted else {}
    return params | {"head": zero_head(num_tasks, classes, width)}


def training(
    method: Method | Adapted | None, rows: Rows, steps: int, batch_size: int | None = None, **options: Any
) -> Callable[[], None]:
    """`steps` steps of handful's own loop; without a method a head on `inputs["features"]`."""
    adapted = attach(minilm(), method) if isinstance(method, Method) else method
    width = 384 if adapted else rows.pool.inputs["features"].shape[-1]
    params = start(adapted, rows.num_tasks, rows.class_mask.shape[1], width)
    model, schedule = Classifier(adapted), Schedule(steps=steps, lr=1e-3, batch_size=batch_size)

    def run() -> None:
        fit(model, params, rows, cross_entropy, schedule, seed=0, **options)

    return run


def plain_model() -> nn.Module:
    """The backbone as transformers loads it, for the peers."""
    from transformers import AutoModel

    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # transformers says it of peft
    return AutoModel.from_pretrained(aliases()["minilm"](), dtype=torch.float32)


def peft_lora(layers: list[int] | None = None, linears: bool = False) -> Any:
    """LoRA of rank 8 on query and value, or on all six linear layers of a block."""
    from peft import LoraConfig

    targets: Any = ["query", "value"]
    if linears:
        targets = r".*layer\.\d+\..*(query|key|value|dense)"
    return LoraConfig(r=8, lora_alpha=16, target_modules=targets, layers_to_transform=layers)


def peft_ia3() -> Any:
    """(IA)^3 on keys, values and the input of the second feed-forward layer."""
    from peft import IA3Config

    down = r".*layer\.\d+\.output\.dense"
    return IA3Config(target_modules=rf".*(key|value)|{down}", feedforward_modules=down)


class Peer:
    """Training with `peft` as its documentation shows it: the model in training mode, mean pooling, torch's AdamW.

    `dropout=False` sets the backbone's dropout to zero, which `handful` never has on.
    """

    def __init__(self, config: Any, classes: int = CLASSES, *, dropout: bool = True) -> None:
        from peft import get_peft_model

        self.model = get_peft_model(plain_model(), config)  # type: ignore[arg-type]
        self.model.train(dropout)
        self.head = nn.Linear(384, classes)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW([*trained, *self.head.parameters()], lr=1e-3)

    def step(self, inputs: Mapping[str, Tensor], labels: Tensor) -> None:
        hidden = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(hidden.dtype)
        hidden = hidden[:, -mask.shape[1] :]  # without virtual tokens
        logits = self.head((hidden * mask).sum(1) / mask.sum(1))
        self.optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        self.optimizer.step()

    def steps(self, pool: Batch, labels: Tensor, count: int) -> Callable[[], None]:
        """`count` steps on all rows of a pool."""
        inputs = dict(pool.inputs)

        def run() -> None:
            for _ in range(count):
                self.step(inputs, labels)

        return run


def realistic_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of three data sets mixed: short questions, review sentences, encyclopedia sentences.

    Without the shared data: texts of the installed `chatterbot_corpus`, joined to log-normal lengths.
    """
    rng = random.Random(seed)
    if DATA.is_dir():
        names = ("banking77/train.jsonl.gz", "multiemo_sentiment/hotels_en/train.jsonl", "fewrel_wiki/all.jsonl.gz")
        each = -(-count // len(names))
        texts = [text for name in names for text in rng.sample([text for text, _ in rows_of(name)], each)]
    else:
        short = [line for line in _chatterbot_lines() if line.strip()]
        texts = [_joined(short, math.exp(rng.gauss(3.0, 0.6)), rng) for _ in range(count)]
    rng.shuffle(texts)
    return texts[:count]


@cache
def rows_of(name: str) -> list[tuple[str, str]]:
    """(text, label) of the rows of a shared data file."""
    path = DATA / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["text"] if "text" in row else " ".join(row["tokens"]), row["label"]) for row in rows]


def examples(texts: Iterable[str]) -> list[Example]:
    return [Example(text) for text in texts]


def _chatterbot_lines() -> Iterable[str]:
    import chatterbot_corpus
    import yaml

    for path in sorted((Path(chatterbot_corpus.__file__).parent / "data" / "english").glob("*.yml")):
        for conversation in yaml.safe_load(path.read_text())["conversations"]:
            yield from map(str, conversation)


def _joined(short: list[str], words: float, rng: random.Random) -> str:
    text = rng.choice(short)
    while len(text.split()) < words:
        text += " " + rng.choice(short)
    return text
