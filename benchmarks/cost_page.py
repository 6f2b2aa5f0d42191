"""docs/cost.md, made from shapes: T-Few's published table of costs beside ours, the formulas beside torch's counter.

python benchmarks/cost_page.py            count again, and rewrite results/counted.json and docs/cost.md
python benchmarks/cost_page.py --check    exit status 1 if the page is not what the kept counts and the shapes say
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from handful.bill import (
    Bill,
    Pass,
    Work,
    answers_until,
    break_even,
    pass_flops,
    prompting,
    token_flops,
    tuning,
)
from handful.shapes import shape

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cost.md"
KEPT = ROOT / "results" / "counted.json"
PUBLISHED = (
    ("T-Few, on T0", "1.1e12", "2.7e16", "4.2 MB", tuning("t0-11b", Work())),
    ("T0, zero-shot", "1.1e12", "0", "0", prompting("t0-11b", Work(shots=0))),
    ("T5+LM, in context", "4.5e13", "0", "16 kB", prompting("t0-11b", Work())),
    ("GPT-3 6.7B, in context", "5.4e13", "0", "16 kB", prompting("gpt3-6.7b", Work())),
    ("GPT-3 13B, in context", "1.0e14", "0", "16 kB", prompting("gpt3-13b", Work())),
    ("GPT-3 175B, in context", "1.4e15", "0", "16 kB", prompting("gpt3-175b", Work())),
)
"""As printed in Liu et al. 2022 (arXiv 2205.05638v2), section 4.2: FLOPs an answer, FLOPs to train, disk; and ours."""
COUNTED = ("smollm2", "t5-small", "bart-base", "minilm")
SIZES = ((16, 2, 2), (128, 4, 4), (512, 4, 16))
"""Tokens of a prompt, choices, tokens of each."""
PAIRS = (("t0-11b", "gpt3-175b"), ("t0-11b", "t0-11b"), ("t0-3b", "t0-3b"), ("smollm2", "smollm2"))


@dataclass(frozen=True)
class Counted:
    """What torch's counter finds on a shape: of reading a row for its choices' scores, and of a step of (IA)^3 on it.

    prompt, choices, each  tokens of the prompt, number of choices, tokens of each
    """

    backbone: str
    prompt: int
    choices: int
    each: int
    query: int
    step: int

    @property
    def tokens(self) -> int:
        """Of all that is read; a decoder does not read the last token of a choice, an encoder has them masked."""
        kind = shape(self.backbone).family.architecture
        return self.prompt + self.choices * {"encoder-decoder": self.each, "decoder": self.each - 1}.get(kind, 0)

    @property
    def formula(self) -> Pass:
        work = Work(query=self.tokens, choices=self.choices, scored=self.choices * self.each)
        return pass_flops(shape(self.backbone), work, self.tokens)

    @property
    def paper(self) -> int:
        """FLOPs of the answer by the paper's formula."""
        return token_flops(shape(self.backbone)) * self.tokens


def counted(name: str, sizes: Sequence[tuple[int, int, int]] = SIZES) -> Iterator[Counted]:
    """A known shape at several sizes. Tensors have shapes and no content, so that nothing is computed."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModel

    from handful.attach import attach
    from handful.backbone import from_model
    from handful.costs import count_flops
    from handful.methods import method
    from handful.types import Batch
    from handful.vocabulary import vocabulary

    bare = shape(name)
    kind, words = bare.family.architecture, vocabulary(bare)
    # transformers looks into masks, which it leaves be only of fake tensors; a decoder's come whole, and meta is faster
    empty = torch.device("meta") if kind == "decoder" else FakeTensorMode(allow_non_fake_inputs=True)
    with empty:
        model = from_model(AutoModel.from_config(bare.model.config), id=name, fingerprint="none")
        adapted = attach(model, method("ia3"))
        params = adapted.init(0)
        leaves = [p.requires_grad_() for own in params.values() for p in own.values()]
        for prompt, choices, each in sizes:
            inputs, scored = _row(kind, prompt, choices, each)
            batch = Batch(inputs, torch.ones(1, dtype=torch.bool))
            states = torch.zeros(scored, int(bare.model.config.hidden_size), device="meta")

            def answer(batch: Batch = batch) -> Any:
                return adapted(params, batch).hidden

            def learned(states: Any = states) -> Any:
                given = states.clone().requires_grad_()
                return torch.autograd.grad(words(given).sum(), given)

            with torch.no_grad():
                query = count_flops(answer) + count_flops(lambda states=states: words(states))
            step = count_flops(lambda run=answer: torch.autograd.grad(run().sum(), leaves, allow_unused=True))
            yield Counted(name, prompt, choices, each, query, step + count_flops(learned))


def _row(kind: str, prompt: int, choices: int, each: int) -> tuple[dict[str, Any], int]:
    """Inputs of one row as `choices.encode_choices` makes them, and how many states are scored."""
    import torch

    from handful.packing import ANSWER

    def ids(*size: int) -> Any:
        return torch.zeros(1, *size, dtype=torch.long)

    if kind == "encoder-decoder":
        own = {"decoder_input_ids": ids(choices, each), "decoder_attention_mask": ids(choices, each) + 1}
        both = {"input_ids": ids(prompt), "attention_mask": ids(prompt) + 1} | own
        return both, choices * each
    if kind == "decoder":  # the last token of a choice is not read
        tokens = prompt + choices * (each - 1)
        inputs = {"input_ids": ids(tokens), "attention_mask": ids(tokens) + 1, ANSWER: ids(tokens)}
        return inputs, 1 + choices * (each - 1)
    return {"input_ids": ids(prompt), "attention_mask": ids(prompt) + 1}, 1


def kept() -> list[Counted]:
    """What was counted last."""
    return [Counted(**row) for row in json.loads(KEPT.read_text(encoding="utf-8"))]


def page() -> str:
    """docs/cost.md."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    prose = Environment(
        loader=FileSystemLoader(ROOT / "results"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    tuned, prompted = PUBLISHED[0][-1], PUBLISHED[-1][-1]
    found = kept()
    steps = [row.step / row.query for row in found]
    papers = [3 * row.paper / row.step for row in found]
    own = [_answers(name, other)[1] or 0 for name, other in PAIRS if name == other]
    return prose.get_template("cost.md.j2").render(
        rows="\n".join(_row_of_table(*published) for published in PUBLISHED),
        answers=break_even(tuned, prompted),
        cache=f"{prompting('gpt3-175b', Work(shots=32, tokens=512)).kv_cache_bytes / 2**30:.1f}",
        ratio=f"{prompted.inference_flops / prompted.cached_flops:.0f}",
        counted="\n".join(map(_counted_row, found)),
        worst=f"{max(abs(row.formula.total / row.query - 1) for row in found):.1%}".replace("%", " %"),
        worst_step=f"{max(abs(row.formula.step / row.step - 1) for row in found):.1%}".replace("%", " %"),
        least=f"{min(steps):.2f}", most=f"{max(steps):.2f}",
        papers_least=f"{min(papers):.2f}", papers_most=f"{max(papers):.2f}",
        alone=f"{max(1 - row.paper / row.query for row in found):.0%}".replace("%", " %"),
        pairs="\n".join(_pair(*pair) for pair in PAIRS), least_answers=min(own), most_answers=max(own),
        dearer=_dearer("smollm2"),
    )  # fmt: skip


def _row_of_table(name: str, inference: str, training: str, disk: str, ours: Bill) -> str:
    answer = f"{ours.inference_flops:.1e} + {ours.attention_flops:.1e}"
    cells = [name, inference, answer, training, _short(ours.training_flops), disk, f"{ours.disk_bytes:,} B"]
    return _line(cells)


def _counted_row(row: Counted) -> str:
    size = f"{row.prompt} + {row.choices} x {row.each}" if row.tokens > row.prompt else str(row.prompt)
    query, step = row.formula.total, row.formula.step
    return _line(
        [
            row.backbone, size, f"{row.query:.4e}", f"{query:.4e}", _off(query, row.query), _off(row.paper, row.query),
            f"{row.step:.4e}", f"{step:.4e}", _off(step, row.step), f"{row.step / row.query:.2f}",
            f"{3 * row.paper / row.step:.2f}",
        ]
    )  # fmt: skip


def _pair(name: str, other: str) -> str:
    tuned, prompted = tuning(name, Work()), prompting(other, Work())
    flops = (tuned.counted_flops, prompted.counted_flops, prompted.counted_cached_flops, tuned.counted_training_flops)
    said = ["-" if number is None else f"{number:,}" for number in _answers(name, other)]
    return _line([f"(IA)^3 on {name}", other, *map(_short, flops), *said])


def _answers(name: str, other: str) -> tuple[int | None, int | None, int | None]:
    """Until tuning has cost less: as the paper counts, as torch does, and against a kept prompt."""
    tuned, prompted = tuning(name, Work()), prompting(other, Work())
    before, each = tuned.counted_training_flops, tuned.counted_flops
    cached = answers_until(before - prompted.context_flops, each, prompted.counted_cached_flops)
    return (
        break_even(tuned, prompted), answers_until(before, each, prompted.counted_flops),
        cached if prompted.context_flops else None,
    )  # fmt: skip


def _dearer(name: str) -> str:
    """How many times cheaper a tuned answer is than one after a kept prompt."""
    return f"{prompting(name, Work()).counted_cached_flops / tuning(name, Work()).counted_flops:.1f}"


def _short(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _off(value: float, truth: float) -> str:
    return f"{value / truth - 1:+.1%}".replace("%", " %").replace("-0.0 ", "0.0 ").replace("+0.0 ", "0.0 ")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(said.replace("e+", "e") for said in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        sys.exit(0 if same else "docs/cost.md is not what the shapes say: run python benchmarks/cost_page.py")
    found = [asdict(row) for name in COUNTED for row in counted(name)]
    KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
