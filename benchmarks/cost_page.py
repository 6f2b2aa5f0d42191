"""docs/cost.md, made from shapes: T-Few's published table of costs beside ours.

python benchmarks/cost_page.py            rewrite docs/cost.md
python benchmarks/cost_page.py --check    exit status 1 if that would change it
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from handful.bill import Bill, Work, break_even, prompting, tuning

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cost.md"
PUBLISHED = (
    ("T-Few, on T0", "1.1e12", "2.7e16", "4.2 MB", tuning("t0-11b", Work())),
    ("T5+LM, in context", "4.5e13", "0", "16 kB", prompting("t0-11b", Work())),
    ("GPT-3 6.7B, in context", "5.4e13", "0", "16 kB", prompting("gpt3-6.7b", Work())),
    ("GPT-3 13B, in context", "1.0e14", "0", "16 kB", prompting("gpt3-13b", Work())),
    ("GPT-3 175B, in context", "1.4e15", "0", "16 kB", prompting("gpt3-175b", Work())),
)
"""As printed in Liu et al. 2022 (arXiv 2205.05638v2), section 4.2: FLOPs an answer, FLOPs to train, disk; and ours."""


def page() -> str:
    """docs/cost.md."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    prose = Environment(
        loader=FileSystemLoader(ROOT / "results"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    tuned, prompted = PUBLISHED[0][-1], PUBLISHED[-1][-1]
    return prose.get_template("cost.md.j2").render(
        rows="\n".join(_row(*published) for published in PUBLISHED),
        answers=break_even(tuned, prompted),
        cache=f"{prompting('gpt3-175b', Work(shots=32, tokens=512)).kv_cache_bytes / 2**30:.1f}",
        ratio=f"{prompted.inference_flops / prompted.cached_flops:.0f}",
    )


def _row(name: str, inference: str, training: str, disk: str, ours: Bill) -> str:
    trained = f"{ours.training_flops:.1e}" if ours.training_flops else "0"
    answer = f"{ours.inference_flops:.1e} + {ours.attention_flops:.1e}"
    cells = [name, inference, answer, training, trained, disk, f"{ours.disk_bytes:,} B"]
    return "| " + " | ".join(said.replace("e+", "e") for said in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check, made = parser.parse_args().check, page()
    if check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == made
        sys.exit(0 if same else "docs/cost.md is not what the shapes say: run python benchmarks/cost_page.py")
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
