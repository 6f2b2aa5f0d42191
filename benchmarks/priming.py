"""Priming in cross-lingual entity recognition: e5 primed on some languages, adapters tuned on a few rows of others.

python benchmarks/priming.py train --data DIR --backbone E5 --out PRIMED
python benchmarks/priming.py measure --data DIR --backbone E5 --out PRIMED --store results/priming.sqlite

E5 is a folder with multilingual-e5-small. Rates of tuning were chosen on `LEARNED[0]`, none on a language reported.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from prior import handful

LEARNED = ("ner3/uner_da", "ner3/uner_pt", "ner3/uner_hr", "ner3/masakhaner2_kin", "ner3/masakhaner2_yor")
TARGETS = ("ner3/masakhaner2_swa", "ner3/masakhaner2_hau", "ner3/uner_zh")
METHOD = "pfeiffer:start=6"
STEPS, EPISODES, LR = 40, 4, 1e-3
ARMS = {"primed": "fomaml:steps=3:head=learned", "multitask": "fomaml:steps=0:head=learned"}
"""Folder of a backbone -> what it learned by; the second is ordinary training on the same episodes."""
TUNED = "steps=40:batch_size=8:num_folds=0"


def train(data: str, backbone: Path, out: Path) -> None:
    """`handful prime`, without a validation curve: every arm takes the same outer steps."""
    for name, algorithm in ARMS.items():
        handful(
            "prime", *(f"{task}:shots=16:query=16" for task in LEARNED), "--data", data,
            "--backbone", os.path.relpath(backbone), "--method", METHOD, "--algorithm", algorithm,
            "--steps", str(STEPS), "--episodes", str(EPISODES), "--lr", f"{LR:g}", "--validation", "0",
            "--out", os.path.relpath(out / name), "--resume",
        )  # fmt: skip


def measure(data: str, backbone: Path, out: Path, store: Path, shots: str) -> None:
    """`handful compare` on the other languages: adapters on each backbone, and full fine-tuning."""
    common = ("--data", data, "--shots", shots, "--seeds", "5", "--store", str(store))
    folders = ",".join(os.path.relpath(folder) for folder in (backbone, *(out / name for name in ARMS)))
    handful("compare", *TARGETS, "--backbones", folders, "--recipes", f"{METHOD}:lr=0.006:{TUNED}", *common)
    full = f"full:start=6:lr=0.001:{TUNED}"
    handful("compare", *TARGETS, "--backbones", os.path.relpath(backbone), "--recipes", full, *common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "measure"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=Path("results/priming.sqlite"))
    parser.add_argument("--shots", default="4,16")
    asked = parser.parse_args()
    if asked.what == "train":
        train(asked.data, asked.backbone, asked.out)
    else:
        measure(asked.data, asked.backbone, asked.out, asked.store, asked.shots)


if __name__ == "__main__":
    main()
