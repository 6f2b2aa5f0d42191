"""T-Few beside in-context learning: arms on tasks that end in text, on smollm2, the same rows for all.

python benchmarks/words_arms.py --data DIR [--backbone smollm2] [--store results/words.sqlite]

1,000 steps, as the paper's, take hours a task on two cores; here 50 are taken, at ten times the paper's rate, which was
chosen on two other tasks (subj and emoji_movie: 51.5 against 46.5 with the paper's rate).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prior import handful

SHOTS = 32
TASKS = ("copa", "snips", "sst2", "wic", "disambiguation_qa", "winogrande")
FEW = "steps=50:lr=3e-2"
ARMS = {
    f"tfew:{FEW}": "T-Few, 50 steps",
    f"tfew:{FEW}:losses=lm": "language modelling alone",
    "icl:shots=16": "16 in the prompt",
    "icl:shots=0": "zero-shot",
}
"""Recipe -> what the tables call it; the first is what the others are compared with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default="smollm2")
    parser.add_argument("--store", type=Path, default=Path("results/words.sqlite"))
    asked = parser.parse_args()
    for recipe in ARMS:
        for task in TASKS:
            handful(
                "compare", f"words/{task}", "--data", asked.data, "--recipes", recipe, "--shots", str(SHOTS),
                "--seeds", "5", "--backbones", asked.backbone, "--dtype", "bfloat16", "--store", str(asked.store),
            )  # fmt: skip


if __name__ == "__main__":
    main()
