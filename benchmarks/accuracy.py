"""Accuracy of recipes and peers on the training-allowed sets, cell by cell, into benchmarks/results/accuracy.jsonl.

    python benchmarks/accuracy.py ARM [ARM ...] [--shots 4 8 16] [--seeds 5]

Arms: default, embedding-lr, tfidf-lr, peft-lora, and any of handful's recipes. A cell that is there already is not run
again. `python benchmarks/accuracy_table.py` makes the tables of docs/results.md from the file.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fewshot_sets import SETS, draw, grid
from handful.backbone import Backbone, load
from handful.batches import gather, lengths
from handful.prompts import encode
from handful.types import Batch, Example, Task

RESULTS = Path(__file__).parent / "results" / "accuracy.jsonl"
Answer = Sequence[str]


def embeddings(backbone: Backbone, examples: Sequence[Example]) -> np.ndarray:
    """Mean-pooled final states of unit length, as sentence-transformers makes them."""
    from handful.views import Views

    return Views(("pool:1",)).compute(backbone, encode(backbone, examples))[0].numpy()


def embedding_lr(task: Task, test: Sequence[Example], backbone: Backbone, seed: int) -> Answer:
    from sklearn.linear_model import LogisticRegression

    head = LogisticRegression(max_iter=2000)
    head.fit(embeddings(backbone, task.examples), [example.label for example in task.examples])
    return head.predict(embeddings(backbone, test)).tolist()


def tfidf_lr(task: Task, test: Sequence[Example], backbone: Backbone, seed: int) -> Answer:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    model.fit([example.text for example in task.examples], [example.label for example in task.examples])
    return model.predict([example.text for example in test]).tolist()


def peft_lora(task: Task, test: Sequence[Example], backbone: Backbone, seed: int) -> Answer:
    """LoRA r = 8 on query and value and a linear head on the mean-pooled states, 20 epochs of batches of 16, AdamW."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    from handful.backbone import aliases

    torch.manual_seed(seed)
    frozen = AutoModel.from_pretrained(aliases()["minilm"]())
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["query", "value"])
    model = get_peft_model(frozen, config).train()
    head = torch.nn.Linear(384, len(task.labels))
    trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    pool, size = encode(backbone, task.examples), 16
    labels = torch.tensor([task.labels.index(str(example.label)) for example in task.examples])
    steps = 20 * -(-len(labels) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / (0.1 * steps)) * (1 - s / steps)
    )

    def scores(batch: Batch) -> torch.Tensor:
        hidden = model(**batch.inputs).last_hidden_state
        mask = batch.inputs["attention_mask"][..., None].float()
        return head((hidden * mask).sum(1) / mask.sum(1))

    for _ in range(20):
        for index in torch.randperm(len(labels)).split(size):
            loss = torch.nn.functional.cross_entropy(scores(gather(pool, index)), labels[index])
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    asked = encode(backbone, test)
    found = torch.zeros(len(test), dtype=torch.long)
    with torch.no_grad():
        for index in lengths(asked).argsort().split(64):
            found[index] = scores(gather(asked, index)).argmax(-1)
    return [task.labels[i] for i in found.tolist()]


def handful_recipe(name: str) -> Callable[[Task, Sequence[Example], Backbone, int], Answer]:
    from handful.predictor import Predictor
    from handful.recipes import recipe

    def run(task: Task, test: Sequence[Example], backbone: Backbone, seed: int) -> Answer:
        artifact = recipe(name)([task], backbone, seed=seed)[0]
        run.estimate = artifact.estimate  # type: ignore[attr-defined]
        found = Predictor(artifact, backbone).scores(test).logits.argmax(-1).tolist()
        return [task.labels[i] for i in found]

    return run


PEERS = {"embedding-lr": embedding_lr, "tfidf-lr": tfidf_lr, "peft-lora": peft_lora}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arms", nargs="+")
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    arguments.results.parent.mkdir(exist_ok=True)
    done = set()
    if arguments.results.exists():
        done = {
            tuple(json.loads(line)[key] for key in ("arm", "set", "shots", "seed")) for line in arguments.results.open()
        }
    backbone = load("minilm")
    for name, k, seed in grid(tuple(arguments.shots), arguments.seeds):
        if name not in arguments.sets:
            continue
        task, test = draw(name, k, seed)
        for arm in arguments.arms:
            if (arm, name, k, seed) in done:
                continue
            run = PEERS[arm] if arm in PEERS else handful_recipe(arm)
            start = time.process_time()
            answers = run(task, test, backbone, seed)
            correct = sum(a == e.label for a, e in zip(answers, test, strict=True))
            cell = {"arm": arm, "set": name, "shots": k, "seed": seed, "n": len(test), "accuracy": correct / len(test),
                    "cpu_seconds": round(time.process_time() - start, 2)}  # fmt: skip
            if estimate := getattr(run, "estimate", None):
                cell["estimate"] = estimate["accuracy"]
            with arguments.results.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            print(cell, flush=True)


if __name__ == "__main__":
    main()
