"""Choices that are heard: words ranked, and (IA)^3 tuned, through the cross-attention of a real speech decoder.

python benchmarks/spoken.py --data DIR --backbone WHISPER

WHISPER is a folder with Whisper tiny.en. Its decoder scores words beside a recording, which is encoded once for all
of them: the digit that is said, which it was trained to write, and who says it, which it was not. For the speakers
(IA)^3 is tuned on 4 recordings of each speaker, with the losses, optimiser and rate of `words_arms.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import wave
import zipfile
from collections.abc import Sequence
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
from handful.methods.base import Method
from handful.methods.ia3 import IA3
from handful.stages import train
from handful.stats import t_span
from handful.types import Batch, stack_params, task_params
from handful.vocabulary import vocabulary

RESULT = Path(__file__).with_name("results") / "spoken.json"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
RATE, HEARD = 8000, 16000
SHOTS, SEEDS, STEPS, ROWS, LR = 4, 5, 30, 4, 3e-2
ARMS: dict[str, tuple[Method, str]] = {
    "(IA)^3 in the cross-attention": (IA3(roles=frozenset({"cross.key", "cross.value"})), "lm+ul+ln"),
    "(IA)^3": (IA3(), "lm+ul+ln"),
    "(IA)^3, language modelling alone": (IA3(), "lm"),
}


def recordings(file: Path, split: str) -> tuple[list[np.ndarray], Tensor, Tensor]:
    """Waves at 16 kHz of the first of every five takes of a split, their digits, and their speakers' places."""
    from scipy.signal import resample_poly

    waves, digits, speakers = list[np.ndarray](), list[int](), list[int]()
    with zipfile.ZipFile(file) as packed:
        for name in sorted(packed.namelist()):
            if split not in Path(name).parts or not name.endswith(".wav"):
                continue
            digit, speaker, take = Path(name).stem.split("_")
            if int(take) % 5:
                continue
            with wave.open(io.BytesIO(packed.read(name))) as sound:
                assert sound.getframerate() == RATE
                samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16) / 2.0**15
            waves.append(resample_poly(samples, HEARD // RATE, 1).astype(np.float32))
            digits.append(int(digit))
            speakers.append(SPEAKERS.index(speaker))
    return waves, torch.tensor(digits), torch.tensor(speakers)


def heard(backbone: Backbone, folder: Path, waves: list[np.ndarray], choices: Sequence[str]) -> Batch:
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
    sounds = features(waves, sampling_rate=HEARD, return_tensors="pt").input_features
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
    waves, _, known = recordings(file, "train")
    pool = heard(backbone, asked.backbone, waves, SPEAKERS)
    waves, digits, speakers = recordings(file, "test")
    test = heard(backbone, asked.backbone, waves, SPEAKERS)
    bare = attach(backbone, IA3())
    zero = Ranker(bare, words)
    found: dict[str, Any] = {
        "rows": len(digits),
        "digits, zero-shot": accuracy(zero, bare.init(0), heard(backbone, asked.backbone, waves, DIGITS), digits),
        "speakers, zero-shot": accuracy(zero, bare.init(0), test, speakers),
    }
    print(json.dumps(found), flush=True)
    for arm, (method, losses) in ARMS.items():
        adapted = attach(backbone, method)
        scores = list[float]()
        for seed in range(SEEDS):
            order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
            own = torch.cat([order[known[order] == speaker][:SHOTS] for speaker in range(len(SPEAKERS))])
            trained = train(
                Chooser(adapted, words), stack_params([adapted.init(seed)]),
                lambda _, own=own: stack(pool, [own.tolist()], [known[own]], [len(SPEAKERS)]), summed(losses),
                Schedule(steps=STEPS, lr=LR, batch_size=ROWS, optimizer="adafactor-scaled", warmup=0.06), seed=[seed],
            )  # fmt: skip
            scores.append(accuracy(Ranker(adapted, words), task_params(trained.params, 0), test, speakers))
            print(arm, seed, scores[-1], flush=True)
        span = t_span(mean(scores), stdev(scores) / math.sqrt(SEEDS), SEEDS - 1)
        found[arm] = {"parameters": adapted.num_parameters, "accuracy": scores, "span": [span.low, span.high]}
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
