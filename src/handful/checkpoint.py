"""Progress of a run on disk, so that a killed one continues to the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from handful.errors import HandfulWarning

SHARE = 0.1
"""Of a run's time that keeping its progress may take, once that takes longer than a moment."""


class Checkpoint:
    """One file, rewritten at most every `seconds`, tied by a digest to what the run was started with.

    What takes long to write, as all weights of a backbone do, is written more rarely.
    """

    def __init__(self, path: Path, identity: Sequence[object], seconds: float = 2.0) -> None:
        self.path, self.seconds = path, seconds
        self.digest = digest(identity)
        self._next, self._given_up = time.monotonic() + seconds, False

    def load(self) -> dict[str, Tensor] | None:
        """The tensors kept, or None where there are none of this very run."""
        try:
            with safe_open(self.path, "pt") as file:
                if (file.metadata() or {}).get("digest") != self.digest:
                    return None
            return load_file(self.path)
        except (OSError, SafetensorError):
            return None

    @property
    def due(self) -> bool:
        """Whether it is time to keep the progress again."""
        return not self._given_up and time.monotonic() >= self._next

    def save(self, tensors: Callable[[], dict[str, Tensor]], *, last: bool = False) -> None:
        """Keeps the tensors if it is time, or the last time; a reader never finds half a file.

        Where they cannot be kept, on a full disk for one, it warns once and the run goes on.
        """
        if self._given_up or not (last or self.due):
            return
        began = time.monotonic()
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file({n: t.contiguous() for n, t in tensors().items()}, temporary, metadata={"digest": self.digest})
            temporary.replace(self.path)
        except (OSError, SafetensorError) as error:
            self._given_up = True
            with contextlib.suppress(OSError):
                temporary.unlink()
            found = f"The progress of this fit cannot be kept in {self.path} ({error})"
            warnings.warn(f"{found}: it goes on, but could not be resumed.", HandfulWarning, stacklevel=2)
        now = time.monotonic()
        self._next = now + max(self.seconds, (now - began) * (1 / SHARE - 1))


def digest(parts: Sequence[object]) -> str:
    """sha256 of tensors' contents and of everything else's representation."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            plain = part.detach().cpu().contiguous()
            state.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
            state.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            state.update(repr(part).encode())
    return state.hexdigest()
