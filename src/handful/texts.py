"""Texts as they are compared and cut: one spelling, digests, sentences."""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handful.types import Example

LONG, SHORT = 40, 12
"""From `LONG` characters on a part of a row tells the row; a whole row below `SHORT` may be the same by chance."""
_SENTENCE = re.compile(r".+?(?:[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+|$)", re.DOTALL)
_LEAD = re.compile(r"\s*\w+:\s+(?=\S)")


class _Spaces(dict[int, int]):
    """Code point -> a space for punctuation and symbols, itself for the rest; found as they are met."""

    def __missing__(self, code: int) -> int:
        self[code] = 32 if unicodedata.category(chr(code))[0] in "PS" else code
        return self[code]


_SPACES = _Spaces()


def normalised(text: str) -> str:
    """One spelling for texts that differ in case, white space, punctuation and a lead-in (`Question: `) only."""
    plain = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    return " ".join(plain.translate(_SPACES).casefold().split()) or " ".join(text.split())


def text_digest(*texts: str) -> str:
    """A digest of one text, or of several in this order, the same for every spelling; 24 characters."""
    return blake2b("\0".join(map(normalised, texts)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def row_digests(example: Example, *, parts: bool = False) -> list[str]:
    """Digests a row is known by: of the whole and, in a pair, of each long text; with `parts` of long sentences."""
    texts = [example.text] if example.text_pair is None else [example.text, example.text_pair]
    smaller = texts[1:] and texts
    if parts:
        smaller = [*smaller, *(piece for text in texts for piece in sentences(text))]
    return [text_digest(*texts), *(text_digest(text) for text in smaller if len(text) >= LONG)]


def sentences(text: str) -> list[str]:
    """A text cut after `.`, `!`, `?` and `…` (and what closes a quote) before white space, and after `。！？`.

    Abbreviations are not known: `Dr. Who` is cut in two.
    """
    return [piece.strip() for piece in _SENTENCE.findall(text) if piece.strip()]
