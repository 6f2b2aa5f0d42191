"""What a backbone's weights are, as one number: a fit is for these and no others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from handful.notes import remembered

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def weights_fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over the content of named tensors, whatever they are called on disk."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(weights):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{plain.dtype}|{tuple(plain.shape)}|".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


UNUSED = ("pooler", "masked_spec_embed")
"""Parts that a checkpoint may lack, since nothing here needs them: most are written without."""


def complete(model: PreTrainedModel, missing: Sequence[str]) -> list[str]:
    """Zeros in place of the random numbers that stand where the files held none, so that the weights are the same each
    time. The names of those that cannot be done without."""
    for name in missing:
        model.get_parameter(name).data.zero_()
    return [name for name in missing if not set(UNUSED) & set(name.split("."))]


def cached_fingerprint(folder: Path, model: PreTrainedModel) -> str:
    """The fingerprint of a folder's weights, remembered by the files' size and time of change."""
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin")) if folder.is_dir() else []
    if not files:
        return weights_fingerprint(model.state_dict().items())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([stats, type(model).__name__, "complete"]).encode()).hexdigest()
    return remembered("fingerprints", key, lambda: weights_fingerprint(model.state_dict().items()))
