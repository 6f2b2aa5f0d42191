"""How a long piece of work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called as `progress(what, share)` with the stage in words and how much of it is done, 0..1."""


def silent(what: str, share: float) -> None:
    """Says nothing."""
