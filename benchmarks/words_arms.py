"""T-Few beside in-context learning: arms on tasks that end in text, on smollm2, the same rows for all.

python benchmarks/words_arms.py choose --data DIR --store results/words_chosen.sqlite
python benchmarks/words_arms.py pretrain --data DIR --out PRIORS
python benchmarks/words_arms.py measure --data DIR --out PRIORS --store results/words.sqlite

1,000 steps, as the paper's, take up to an hour a draw on a core; 50 are taken, at a rate that is chosen for them.
Rates and variants are chosen on tasks that are not reported; (IA)^3 is pretrained on sets that may be trained on.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from prior import handful

BACKBONE, SHOTS = "smollm2", 32
TASKS = ("copa", "snips", "sst2", "wic", "disambiguation_qa", "winogrande")
FEW = "tfew:steps=50"
TUNED = f"{FEW}:lr=3e-2"
PRIOR = "words"
ARMS = {
    TUNED: "T-Few",
    f"{TUNED}:prior={PRIOR}": "pretrained first",
    f"{TUNED}:losses=lm": "language modelling alone",
    f"{FEW}:method=lora:losses=lm:optimizer=adamw:lr=1e-3": "LoRA, language modelling",
    "icl:shots=16:select=similar": "16 like it in the prompt",
    "icl:shots=16": "16 at random",
    "icl:shots=0:normalise=false": "zero-shot, sums",
    "icl:shots=0": "zero-shot",
}
"""Recipe -> what the tables call it; the first is what the others are compared with."""
CHOICES = {
    "T-Few's rate": (("emoji_movie", "subj"), 2, (FEW, TUNED)),
    "LoRA's rate": (
        ("emoji_movie", "subj"), 2,
        tuple(f"{FEW}:method=lora:losses=lm:optimizer=adamw:lr={lr}" for lr in ("1e-3", "3e-3")),
    ),
    "how to prompt": (
        ("cb", "date_understanding", "emoji_movie", "subj"), 2,
        (
            *(f"icl:shots=0{also}" for also in ("", ":normalise=false", ":calibrate=true")),
            *(f"icl:shots=16{also}" for also in ("", ":calibrate=true", ":select=balanced", ":select=similar")),
        ),
    ),
}  # fmt: skip
"""What was chosen -> on which tasks, in how many draws, among which recipes."""
NAMED = {
    "banking77": "banking77/train.jsonl.gz", "clinc150": "clinc150/train.jsonl.gz",
    "query-wellformedness": "query_wellformedness/train.jsonl.gz",
}  # fmt: skip
OPINIONS = ("hotels_en", "products_en")
RIDDLES = ("riddle_sense.jsonl", "ruin_names.jsonl", "temporal_sequences.jsonl.gz")
JUDGED = (
    "causal_judgment", "entailed_polarity", "fantasy_reasoning", "hyperbaton", "implicatures", "irony_identification",
    "metaphor_boolean", "misconceptions", "navigate", "presuppositions_as_nli", "social_support", "strategyqa",
    "vitaminc_fact_verification", "winowhy",
)  # fmt: skip


def mixture(data: str) -> list[str]:
    """What (IA)^3 is pretrained on: none of the tasks, and nothing that was drawn from one."""
    return [
        *(f"{name}={data}/{file}" for name, file in NAMED.items()),
        *(f"multiemo={data}/multiemo_sentiment/{name}/train.jsonl" for name in OPINIONS),
        *(f"bigbench-choice={data}/bigbench_multiple_choice/{file}" for file in RIDDLES),
        *(f"{data}/bigbench_classification/{name}/train.jsonl" for name in JUDGED),
    ]


def pretrain(data: str, out: Path) -> None:
    handful(
        "pretrain", *mixture(data), "--held-out", "words/emoji_movie", "--held-out", "words/subj", "--data", data,
        "--backbone", BACKBONE, "--dtype", "bfloat16", "--steps", "400", "--lr", "5e-3", "--cap", "2000",
        "--validation", "6", "--looks", "200", "--out", os.path.relpath(out / PRIOR), "--resume",
    )  # fmt: skip


def compare(tasks: tuple[str, ...], recipe: str, seeds: int, data: str, store: Path) -> None:
    for task in tasks:
        handful(
            "compare", f"words/{task}", "--data", data, "--recipes", recipe, "--shots", str(SHOTS),
            "--seeds", str(seeds), "--backbones", BACKBONE, "--dtype", "bfloat16", "--store", str(store),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["choose", "pretrain", "measure"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("priors"))
    parser.add_argument("--store", type=Path, default=Path("results/words.sqlite"))
    asked = parser.parse_args()
    if asked.what == "pretrain":
        pretrain(asked.data, asked.out)
    elif asked.what == "choose":
        for tasks, seeds, recipes in CHOICES.values():
            for recipe in recipes:
                compare(tasks, recipe, seeds, asked.data, asked.store)
    else:
        for recipe in ARMS:
            own = recipe.replace(f"prior={PRIOR}", f"prior={os.path.relpath(asked.out / PRIOR)}")
            compare(TASKS, own, 5, asked.data, asked.store)


if __name__ == "__main__":
    main()
