"""Choices that are heard: words ranked, and (IA)^3 tuned, through the cross-attention of a real speech decoder.

python benchmarks/spoken.py --data DIR --backbone WHISPER

WHISPER is a folder with Whisper tiny.en. Its decoder scores the words `Zero.` to `Nine.` beside a recording, which is
encoded once for all of them: of clean recordings, and of such in white noise of three times their power. For the noise
(IA)^3 of the cross-attention is tuned on 2 recordings of each digit, with the losses, the optimiser and the rate of
`words_arms.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import wave
import zipfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handful.attach import attach
from handful.backbone import Backbone, load
from handful.batches import gather, stack
from handful.choice_losses import summed
from handful.choices import NOTHING
from handful.chooser import Chooser, Ranker
from handful.fit import Schedule
from handful.methods.ia3 import IA3
from handful.stages import train
from handful.stats import t_span
from handful.types import Batch, stack_params, task_params
from handful.vocabulary import vocabulary

RESULT = Path(__file__).with_name("results") / "spoken.json"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE, HEARD = 8000, 16000
SNR = -5
"""Decibels of a recording above the noise."""
SHOTS, SEEDS, STEPS, ROWS, LR = 2, 5, 30, 4, 3e-2
METHOD = IA3(roles=frozenset({"cross.key", "cross.value"}))


def recordings(file: Path, split: str) -> tuple[list[np.ndarray], Tensor]:
    """Waves at 16 kHz of the first of every five takes of a split, of unit power, and their digits."""
    from scipy.signal import resample_poly

    waves, digits = list[np.ndarray](), list[int]()
    with zipfile.ZipFile(file) as packed:
        for name in sorted(packed.namelist()):
            digit, _, take = Path(name).stem.split("_") if name.endswith(".wav") else ("", "", "1")
            if split not in Path(name).parts or int(take) % 5:
                continue
            with wave.open(io.BytesIO(packed.read(name))) as sound:
                assert sound.getframerate() == RATE
                samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
            own = resample_poly(samples / 2.0**15, HEARD // RATE, 1)
            waves.append(own / np.sqrt((own**2).mean()))
            digits.append(int(digit))
    return waves, torch.tensor(digits)


def noisy(waves: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Each wave at the beginning of three seconds of noise."""
    rng, found = np.random.default_rng(seed), list[np.ndarray]()
    for own in waves:
        noise = rng.standard_normal(3 * HEARD) * 10 ** (-SNR / 20)
        noise[: len(own)] += own[: len(noise)]
        found.append(noise)
    return found


def heard(backbone: Backbone, folder: Path, waves: list[np.ndarray]) -> Batch:
    """Rows whose choices stand beside a recording: the inputs that `choices` makes of texts, of sounds."""
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    features: Any = WhisperFeatureExtractor.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    config: Any = backbone.model.config
    first = [config.decoder_start_token_id, tokenizer.convert_tokens_to_ids("<|notimestamps|>")]
    words = [
        [*tokenizer(f" {d.capitalize()}.", add_special_tokens=False).input_ids, config.eos_token_id] for d in DIGITS
    ]
    width, count = max(map(len, words)), len(waves)
    targets = torch.full((len(words), width), NOTHING)
    before = torch.full((len(words), width + 1), config.pad_token_id)
    for c, ids in enumerate(words):
        targets[c, : len(ids)] = torch.tensor(ids)
        before[c, : len(ids) + 1] = torch.tensor([*first, *ids[:-1]])
    places = torch.arange(before.numel()).reshape(before.shape)[:, 1:]
    real = torch.cat([torch.ones(len(words), 1), targets != NOTHING], 1).long()
    inputs = {
        name: value.expand(count, *value.shape).clone()
        for name, value in {
            "targets": targets, "source": places, "decoder_input_ids": before, "decoder_attention_mask": real,
        }.items()
    }  # fmt: skip
    sounds = features([0.05 * own for own in waves], sampling_rate=HEARD, return_tensors="pt").input_features
    return Batch(inputs | {"input_features": sounds.to(backbone.dtype)}, torch.ones(count, dtype=torch.bool))


@torch.no_grad()
def accuracy(ranker: Ranker, params: Any, rows: Batch, digits: Tensor) -> float:
    """In percent."""
    every = torch.arange(len(digits)).split(10)
    said = torch.cat([ranker(params, gather(rows, part)).argmax(-1) for part in every])
    return 100 * (said == digits).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    asked = parser.parse_args()
    backbone = load(asked.backbone, dtype="bfloat16")
    words, file = vocabulary(backbone), asked.data / "spoken_digits" / "recordings.zip"
    waves, known = recordings(file, "train")
    pool = heard(backbone, asked.backbone, noisy(waves, seed=0))
    waves, digits = recordings(file, "test")
    test = heard(backbone, asked.backbone, noisy(waves, seed=1))
    adapted, clean = attach(backbone, METHOD), heard(backbone, asked.backbone, waves)
    ranker, bare, scores = Ranker(adapted, words), adapted.init(0), list[float]()
    found: dict[str, Any] = {
        "rows": len(digits),
        "clean, zero-shot": accuracy(ranker, bare, clean, digits),
        "zero-shot": accuracy(ranker, bare, test, digits),
    }
    for seed in range(SEEDS):
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
        own = torch.cat([order[known[order] == digit][:SHOTS] for digit in range(len(DIGITS))])
        trained = train(
            Chooser(adapted, words), stack_params([adapted.init(seed)]),
            lambda _, own=own: stack(pool, [own.tolist()], [known[own]], [len(DIGITS)]), summed("lm+ul+ln"),
            Schedule(steps=STEPS, lr=LR, batch_size=ROWS, optimizer="adafactor-scaled", warmup=0.06), seed=[seed],
        )  # fmt: skip
        scores.append(accuracy(ranker, task_params(trained.params, 0), test, digits))
    span = t_span(mean(scores), stdev(scores) / math.sqrt(SEEDS), SEEDS - 1)
    found |= {"parameters": adapted.num_parameters(), "tuned": scores, "span": [span.low, span.high]}
    print(json.dumps(found, indent=1))
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
