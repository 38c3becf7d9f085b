"""Check on a text that a tokenizer's `decode` gives back what `encode` read."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from gpt2demo.errors import TokenizerError
from gpt2demo.interfaces import Tokenizer

MAX_CHARACTERS = 200_000  # of all documents together: a fraction of a second
MAX_DOCUMENT = 20_000
CONTEXT = 12  # characters to show of a difference


def warn_of_losses(name: str, tokenizer: Tokenizer, documents: Iterable[str]) -> None:
    """Warn about the first document whose text the tokenizer changes. Do nothing if it does not claim to be lossless.

    Args:
        name: the tokenizer's name.
        tokenizer: the trained tokenizer.
        documents: the text. Only its beginning is checked.
    """
    left = MAX_CHARACTERS if tokenizer.lossless else 0
    for number, document in enumerate(documents, start=1):
        if left <= 0:
            return
        text = document[: min(left, MAX_DOCUMENT)]
        left -= len(text)
        try:
            decoded = tokenizer.decode(tokenizer.encode(text))
        except TokenizerError:
            return  # encoding the text reports it
        if decoded != text:
            place = f"document {number}, character {first_difference(text, decoded) + 1}"
            warnings.warn(f"tokenizer {name!r} does not reproduce the text: {place}: {shown(text, decoded)}", stacklevel=2)
            return


def first_difference(one: str, other: str) -> int:
    """Return the first index at which two different texts differ."""
    return next(
        (index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


def shown(text: str, decoded: str) -> str:
    """Return the place of the first difference in both texts, quoted."""
    start = first_difference(text, decoded)
    before, after = text[start : start + CONTEXT], decoded[start : start + CONTEXT]
    return f"{before!r} becomes {after!r}"
