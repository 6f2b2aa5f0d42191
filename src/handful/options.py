"""Options after a name, as in `lora:rank=4:lr=1e-3` and `data.csv:ways=5`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from handful.errors import RequestError


def read_options(parts: Iterable[str], asked: str, example: str) -> dict[str, Any]:
    """`["rank=4", "lr=1e-3"]` -> `{"rank": 4, "lr": 0.001}`; a value is read as JSON where it can be.

    RequestError, which says what was `asked` and gives an `example`, for what is no option and for one that is twice.
    """
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or key in options:
            raise RequestError(asked, f"{part!r} is not an option.", f"Write each option once, as in {example}.")
        options[key] = _value(value)
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
