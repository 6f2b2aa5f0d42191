"""Choices after one prompt against each on its own, and a T-Few step against a language-modelling step of `peft`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from benchmarks.timing import Figure, Ratio, Report, compared, interleave

from handful.attach import attach
from handful.backbone import Backbone, from_model
from handful.batches import stack
from handful.choice_losses import summed
from handful.choices import Spoken, together
from handful.chooser import Chooser
from handful.fit import Schedule, fit
from handful.methods.lora import LoRA
from handful.prefix_cache import frozen_scores
from handful.vocabulary import vocabulary

PROMPT, CHOICES, LENGTH, ROWS = 256, 4, 4, 8
SHORT = 48
"""Tokens of a prompt that is trained on."""


def run(quick: bool) -> Report:
    backbone = decoder()
    scoring, shares = _scoring(backbone, 2 if quick else 7)
    beside, _ = _scoring(encoder_decoder(), 1 if quick else 7)
    training, more = _training(backbone, 1 if quick else 7)
    figures = [
        compared("4 choices after one prompt / each on its own", scoring, "together", "apart", 1 / 3),
        Figure("the same in tokens", Ratio.exact(shares)),
        compared("4 choices beside one encoding / each on its own", beside, "together", "apart", 1 / 3),
        compared("T-Few step with LoRA / peft's LoRA step, language modelling", training, "tfew", "peft", more),
        compared("language-modelling step with LoRA / peft's", training, "lm", "peft", 1.0),
        compared("8 tasks' steps in one batch / one after another", training, "8 tasks", "8 times one", 1.0),
    ]
    details = {
        "backbone": "a random decoder of SmolLM2-135M's shape, a random T5 of t5-base's, bfloat16",
        "rows": ROWS, "choices": CHOICES,
        "prompt_tokens": {"scored": PROMPT, "trained on": SHORT}, "choice_tokens": LENGTH,
        "seconds": {"scoring": scoring.medians(), "beside": beside.medians(), "training": training.medians()},
    }  # fmt: skip
    return Report(figures, details)


def decoder() -> Backbone:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    reader: Any = SimpleNamespace(pad_token_id=2, eos_token_id=2, model_max_length=8192)
    return from_model(LlamaModel(config).to(torch.bfloat16), reader, id="llama")


def encoder_decoder() -> Backbone:
    from transformers import T5Config, T5Model

    config = T5Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0)
    torch.manual_seed(0)
    reader: Any = SimpleNamespace(pad_token_id=0, eos_token_id=1, model_max_length=512)
    return from_model(T5Model(config).to(torch.bfloat16), reader, id="t5")


def drawn(prompt: int, rows: int, seed: int = 0) -> list[Spoken]:
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, 32000, (count,), generator=generator).tolist())

    return [Spoken(tokens(prompt), tuple(tokens(LENGTH) for _ in range(CHOICES))) for _ in range(rows)]


def _scoring(backbone: Backbone, repeats: int) -> tuple[Any, float]:
    rows, words = drawn(PROMPT, ROWS), vocabulary(backbone)
    alone = [Spoken(row.prompt, (choice,)) for row in rows for choice in row.choices]
    runs = {
        "together": lambda: frozen_scores(backbone, words, rows),
        "apart": lambda: frozen_scores(backbone, words, alone),
    }
    found, expected = runs["together"](), runs["apart"]()
    torch.testing.assert_close(found.flatten(), expected.flatten(), rtol=0.02, atol=0.02)
    once, each = PROMPT + CHOICES * (LENGTH - 1), CHOICES * (PROMPT + LENGTH - 1)
    return interleave(runs, repeats), once / each


def _training(backbone: Backbone, repeats: int) -> tuple[Any, float]:
    spoken = drawn(SHORT, ROWS)
    gold = [Spoken(row.prompt, row.choices[:1]) for row in spoken]
    several = drawn(SHORT, 8 * 2, seed=1)  # 8 tasks of 2 rows
    runs = {
        "tfew": stepping(backbone, [spoken], "lm+ul+ln"),
        "lm": stepping(backbone, [gold], "lm"),
        "peft": _peft(backbone, gold),
        "8 tasks": stepping(backbone, [several[2 * t : 2 * t + 2] for t in range(8)], "lm+ul+ln"),
    }
    singles = [stepping(backbone, [several[2 * t : 2 * t + 2]], "lm+ul+ln") for t in range(8)]
    runs["8 times one"] = lambda: [single() for single in singles]
    more = (SHORT + CHOICES * (LENGTH - 1)) / (SHORT + LENGTH - 1)
    return interleave(runs, repeats), more


def stepping(backbone: Backbone, tasks: list[list[Spoken]], losses: str) -> Callable[[], Any]:
    """A training step of LoRA (rank 8, query and value) on each task, all tasks in one batch."""
    model = Chooser(attach(backbone, LoRA()), vocabulary(backbone))
    pool = together(backbone, [row for task in tasks for row in task])
    size, params = len(tasks[0]), model.adapted.init(0, tasks=len(tasks))
    index = [list(range(t * size, (t + 1) * size)) for t in range(len(tasks))]
    rows = stack(pool, index, [torch.zeros(size, dtype=torch.long)] * len(tasks), [CHOICES] * len(tasks))
    schedule = Schedule(steps=1, lr=1e-3)
    return lambda: fit(model, params, rows, summed(losses), schedule, seed=0)


def _peft(backbone: Backbone, rows: list[Spoken]) -> Callable[[], None]:
    """`peft`'s LoRA on transformers' own language model, a step of AdamW on the same prompts and answers."""
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(backbone.model.config).to(torch.bfloat16)
    model.model.load_state_dict(copy.deepcopy(backbone.model.state_dict()))
    model.tie_weights()
    config = peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
    tuned: Any = peft.get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.tensor([row.prompt + row.choices[0] for row in rows])
    labels = ids.clone()
    labels[:, :SHORT] = -100

    def step() -> None:
        tuned(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
