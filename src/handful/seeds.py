"""One seed for everything: a generator of its own for each purpose."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from handful.errors import RequestError

if TYPE_CHECKING:
    import numpy as np


def generator(seed: int, *words: str) -> np.random.Generator:
    """A generator for each seed and purpose, the same in every process. RequestError for a seed below 0."""
    import numpy as np

    if seed < 0:
        raise RequestError(f"Tried to use the seed {seed}.", "Seeds start at 0.", "Give 0 or more.")
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([int(seed), int.from_bytes(digest[:8], "little")])
