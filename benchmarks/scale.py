"""How the cost of a fit grows with tasks, examples, the backbone's size and nodes: slopes, one thread each."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from benchmarks.grid import TextPool
from benchmarks.subjects import minilm, realistic_texts
from benchmarks.timing import Figure, Ratio, Report

from handful.backbone import Backbone, from_model
from handful.engines import Ray
from handful.features import memory
from handful.recipes import recipe
from handful.runs import JOB_CELLS, Grid, run_grid
from handful.types import Example, Task

TUNED, ONE_STEP = "lora:num_folds=0:steps=5:batch_size=16", "lora:num_folds=0:steps=1:batch_size=16"
CLASSES, REPEATS = 4, 3
NODES = (1, 2)
SIZES = {"2 x 128": (2, 128), "4 x 256": (4, 256), "6 x 384": (6, 384)}
"""Blocks and width of BERTs with random weights: what a step costs does not depend on their values."""


def run(quick: bool) -> Report:
    torch.set_num_threads(1)
    tasks, shots, repeats = ((1, 4), (4, 8), 1) if quick else ((1, 2, 4, 8), (4, 8, 16), REPEATS)
    sizes = dict(list(SIZES.items())[:2]) if quick else SIZES
    tables: dict[str, Mapping[float, float]] = {}
    for name, said in {"default": "default", "LoRA": TUNED}.items():
        tables[f"{name}: tasks of 8 examples a class"] = {t: seconds(partial(fit, said, t, 8), repeats) for t in tasks}
        tables[f"{name}: examples a class of one task"] = {k: seconds(partial(fit, said, 1, k), repeats) for k in shots}
    models = [bert(*size) for size in sizes.values()]
    tables["LoRA: million parameters of the blocks"] = {
        in_blocks(model) / 1e6: seconds(partial(fit, TUNED, 1, 8, model), repeats) for model in models
    }
    tables["grid: nodes of one thread"] = {n: on_nodes(n, 2 if quick else 8) for n in NODES}
    figures = [Figure(f"{name}: slope", Ratio.exact(slope(table))) for name, table in tables.items()]
    return Report(figures, {"seconds": {name: _rounded(table) for name, table in tables.items()}})


def fit(said: str, num_tasks: int, shots: int, backbone: Backbone | None = None) -> None:
    """Tasks of realistic texts, nothing known from before."""
    memory.cache_clear()
    labels = tuple(f"class {c}" for c in range(CLASSES))
    tasks = [
        Task(f"task {t}", [Example(text, None, labels[i % CLASSES]) for i, text in enumerate(texts)], labels)
        for t in range(num_tasks)
        for texts in [realistic_texts(CLASSES * shots, t)]
    ]
    recipe(said)(tasks, backbone or minilm(), seed=0)


def bert(blocks: int, width: int) -> Backbone:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30522, hidden_size=width, num_hidden_layers=blocks, num_attention_heads=width // 64,
        intermediate_size=4 * width, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    return from_model(BertModel(config, add_pooling_layer=False), minilm().tokenizer, id=f"bert {blocks} x {width}")


def in_blocks(backbone: Backbone) -> int:
    """Parameters without the embedding tables, of which a row costs a look."""
    return sum(value.numel() for name, value in backbone.model.named_parameters() if not name.startswith("embeddings."))


def seconds(work: Callable[[], None], repeats: int) -> float:
    work()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return median(found)


def slope(table: Mapping[float, float]) -> float:
    """Of the logarithm of seconds over that of the size, by least squares: 1 is proportional, 0 is free."""
    xs, ys = [math.log(x) for x in table], [math.log(y) for y in table.values()]
    x0, y0 = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / sum((x - x0) ** 2 for x in xs)


def on_nodes(nodes: int, num_tasks: int) -> float:
    """Seconds of a grid over Ray nodes of one processor each, whose workers have read the backbone before."""
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**small)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        with tempfile.TemporaryDirectory() as folder:
            _on_ray(range(nodes), 1, Path(folder) / "warm.sqlite")
            start = time.perf_counter()
            _on_ray(range(100, 100 + num_tasks), JOB_CELLS, Path(folder) / "runs.sqlite")
            return time.perf_counter() - start
    finally:
        ray.shutdown()
        cluster.shutdown()


def _on_ray(tasks: Sequence[int], seeds: int, store: Path) -> None:
    """A job for each task once the seeds fill one, so that no node is left over."""
    grid = Grid([ONE_STEP], ["minilm"], [TextPool(task) for task in tasks], [4], range(seeds))
    progress = run_grid(grid, store, lambda: Ray("auto"), lambda _, __: None)
    assert not progress.keys("failed"), progress.keys("failed")


def _rounded(table: Mapping[float, float]) -> dict[str, float]:
    return {f"{x:g}": round(y, 3) for x, y in table.items()}
