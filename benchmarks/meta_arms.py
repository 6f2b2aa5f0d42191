"""Meta-Adapters on LEOPARD beside their ablations: the arms of the paper's tables, on minilm.

python benchmarks/meta_arms.py train --data DIR --out PRIORS
python benchmarks/meta_arms.py measure --data DIR --out PRIORS --store results/arms.sqlite

All arms tune the same adapters of a task, with the same steps; what differs is where they start and what stands around
them. No row of LEOPARD is learned from, and nothing was chosen on it.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from prior import handful, sources

META, ALONE = "meta_adapter:start=3", "meta_adapter:wrap=none:start=3"
ALGORITHM = "meta-adapters:steps=5:head=prototype"
STEPS, EPISODES, LR = 60, 4, 1e-3
SHAPE = re.compile(r":(ways|shots)=[^:]*")
ARMS = {
    "meta-adapters": (META, ALGORITHM, 0.5),
    "maml-adapters": (ALONE, ALGORITHM, 0.5),
    "no-smlmt": (META, ALGORITHM, 0.0),
    "multitask": (ALONE, "multitask", 0.0),
}
"""Folder -> the method, the algorithm, and the share of hidden words (0.5 as in the released Hybrid-SMLMT)."""

TUNED = "steps=25:num_folds=0"
TASKS = ("political_message", "rating_dvd", "rating_electronics")
"""Those at hand with the fewest test rows."""


def learned_from(data: str, cloze: float) -> list[str]:
    """The shipped prior's sources in small episodes, the share of hidden words being `cloze`."""
    parts = [spec.partition(":share=") for spec in sources(data)]
    shares = {SHAPE.sub("", name): float(share) for name, _, share in parts}
    hidden = [name for name in shares if name.startswith("cloze:")]
    labelled = {name: share for name, share in shares.items() if name not in hidden}
    each = cloze / (1 - cloze) * sum(labelled.values()) / len(hidden)
    mixed = labelled | {name: each for name in hidden if cloze}
    return [f"{name}:ways=2-4:shots=4:query=4:share={share:.3f}" for name, share in mixed.items()]


def train(data: str, out: Path) -> None:
    """`handful meta-train` of each arm that learns before a task is seen."""
    for name, (method, algorithm, cloze) in ARMS.items():
        learned = learned_from(data, cloze)
        if algorithm == "multitask":  # which takes sets with the labels that they have
            learned = [spec for spec in learned if not re.search(":(grouped|domains|phrases)=", spec)]
        handful(
            "meta-train", *learned, "--data", data, "--method", method, "--algorithm", algorithm,
            "--steps", str(STEPS), "--episodes", str(EPISODES), "--lr", f"{LR:g}", "--validation", "0",
            "--held-out", "leopard", "--out", os.path.relpath(out / name), "--resume",
        )  # fmt: skip


def measure(data: str, out: Path, store: Path, shots: str) -> None:
    """`handful compare` of all arms."""
    priors = {name: os.path.relpath(out / name) for name in ARMS}
    recipes = [
        *(f"adapt:prior={priors[name]}:{TUNED}" for name in ("meta-adapters", "maml-adapters", "no-smlmt")),
        f"{ALONE}:prior={priors['multitask']}:{TUNED}", f"{ALONE}:{TUNED}", f"full:{TUNED}", "probe",
    ]  # fmt: skip
    handful(
        "compare", *(f"leopard/{task}" for task in TASKS), "--data", data, "--recipes", ",".join(recipes),
        "--shots", shots, "--seeds", "5", "--store", str(store),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "measure"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=Path("results/arms.sqlite"))
    parser.add_argument("--shots", default="4,8,16")
    asked = parser.parse_args()
    if asked.what == "train":
        train(asked.data, asked.out)
    else:
        measure(asked.data, asked.out, asked.store, asked.shots)


if __name__ == "__main__":
    main()
