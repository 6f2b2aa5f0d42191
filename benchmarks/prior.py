"""The shipped prior, priors that left a domain out, and what they are worth on tasks that they have not seen.

python benchmarks/prior.py train --data DIR --out PRIORS            all sources: what ships as src/handful/priors/minilm
python benchmarks/prior.py train --data DIR --out PRIORS --without opinion
python benchmarks/prior.py measure --data DIR --out PRIORS --store results/prior.sqlite

`measure` compares on the tasks of each left-out domain with the prior that has not seen it, and on LEOPARD, which no
prior has seen, with the one that ships.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

METHOD = "lora:roles=linears:start=3:rank=16:alpha=32"
STEPS, LEFT_OUT_STEPS, EPISODES, LR = 420, 80, 8, 1e-3
RECIPES = ("default:prior=none", "embedding-lr")
MEASURED = {
    "opinion": ("dev/multiemo_hotels", "dev/multiemo_products"),
    "relations": ("dev/fewrel_wiki",),
    "intents": ("dev/banking77", "dev/clinc150", "dev/snips", "dev/chatterbot_topics", "dev/query_wellformedness"),
}
"""Tasks that a prior is measured on which has not seen their domain; chatterbot is in none."""


def sources(data: str, without: Sequence[str] = ()) -> list[str]:
    """What tasks are drawn from, with shares, but for what is of a domain `without`. All licences allow to ship it."""
    shapes = {"opinion": ":ways=2-4:shots=4-8", "way": ":ways=3-8:shots=2-6", "groups": ":grouped=true:ways=2-4"}
    clinc, found = f"{data}/clinc150", list[tuple[str, str]]()

    def add(domains: str, *specs: str) -> None:
        found.extend((domains, spec) for spec in specs)

    for name, share in (("hotels", "0.12"), ("products", "0.10")):
        add("opinion", f"dev/multiemo_{name}{shapes['opinion']}:share={share}")
    for name in ("hotels_es", "hotels_fr", "products_de", "products_es"):
        add("opinion", f"{data}/multiemo_sentiment/{name}/train.jsonl{shapes['opinion']}:share=0.01")
    add("intents", "dev/query_wellformedness:ways=2:shots=4-8:share=0.06")
    add("relations", f"dev/fewrel_wiki{shapes['way']}:share=0.12")
    add("relations", f"dev/fewrel_wiki{shapes['groups']}:members=2-3:shots=4-8:share=0.03")
    for name in ("ai", "literature", "music", "politics"):
        add("relations", f"{data}/crossner/{name}/dev.jsonl:phrases=pair{shapes['way']}:share=0.03")
        add("relations", f"{data}/crossner/{name}/train.jsonl:phrases=marked{shapes['way']}:share=0.01")
    add("relations", f"{data}/uner/en/dev.jsonl:phrases=pair:ways=3:shots=2-8:share=0.02")
    add("relations intents", f"{data}/snips/train.jsonl.gz:phrases=pair{shapes['way']}:share=0.03")
    add("relations", f"{data}/restaurant8k/train.jsonl.gz:phrases=pair:ways=3-5:shots=2-6:share=0.03")
    add("intents", *(f"dev/{name}{shapes['way']}:share=0.05" for name in ("banking77", "clinc150")))
    add("intents", f"{clinc}/train.jsonl.gz:domains={clinc}/domains.json{shapes['way']}:share=0.05")
    add("intents", "dev/snips:ways=2-7:shots=2-6:share=0.04")
    add("intents", f"dev/banking77{shapes['groups']}:members=2-4:shots=4-8:share=0.04")
    add("intents", f"dev/clinc150{shapes['groups']}:members=2-4:shots=4-8:share=0.03")
    for domain, name, share in (("opinion", "multiemo_hotels", "0.02"), ("intents", "banking77", "0.02")):
        add(domain, f"cloze:dev/{name}:share={share}")
    add("relations", "cloze:dev/fewrel_wiki:share=0.03")
    return [spec for domains, spec in found if not set(domains.split()) & set(without)]


def train(data: str, out: Path, without: Sequence[str]) -> None:
    """`handful meta-train`, which prints the validation curve."""
    steps = LEFT_OUT_STEPS if without else STEPS
    name = "-".join(["without", *without]) if without else "minilm"
    handful(
        "meta-train", *sources(data, without), "--data", data, "--method", METHOD, "--algorithm", "protonet",
        "--steps", str(steps),
        "--episodes", str(EPISODES), "--lr", f"{LR:g}", "--looks", "70", "--validation", "0.2",
        "--held-out", "leopard", "--out", os.path.relpath(out / name), "--resume",
    )  # fmt: skip


def measure(data: str, out: Path, store: Path) -> None:
    """`handful compare` on unseen domains, and on LEOPARD."""
    common = ("--data", data, "--store", str(store), "--shots", "4,8,16", "--seeds", "5")
    for domain, tasks in MEASURED.items():
        own = f"default:prior={os.path.relpath(out / f'without-{domain}')}"
        handful("compare", *tasks, "--recipes", ",".join([own, *RECIPES]), *common)
    handful("compare", "leopard", "--recipes", ",".join(["default", *RECIPES]), *common)


def handful(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "handful", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "measure"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without", nargs="*", default=[], choices=sorted(MEASURED))
    parser.add_argument("--store", type=Path, default=Path("results/prior.sqlite"))
    asked = parser.parse_args()
    if asked.what == "train":
        train(asked.data, asked.out, asked.without)
    else:
        measure(asked.data, asked.out, asked.store)


if __name__ == "__main__":
    main()
