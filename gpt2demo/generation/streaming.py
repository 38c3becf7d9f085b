"""Streaming decode: text is returned in whole characters, and never a part of a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2demo.interfaces import Decoder


class NoText:
    """A `Decoder` for callers that only use the ids: the text is empty, and no id ends it."""

    vocab_size = 10**9  # no limit: the model's own vocabulary decides
    eos_id: int | None = None

    def decode(self, ids: Sequence[int]) -> str:
        """Return an empty text."""
        return ""


class StreamDecoder:
    """Decodes ids as they come. Each character is returned once, when it is complete.

    A tokenizer may decode ids differently at the start of a text than in the middle (a dropped leading space). The ids before the
    new ones are therefore decoded again, and their text is cut off.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # ids from here on are decoded
        self._returned = 0  # the text of the ids before this one has been returned

    def push(self, token: int) -> str:
        """Add an id, and return the text that it completes, which may be empty."""
        self._ids.append(token)
        return self._new_text(final=False)

    def flush(self) -> str:
        """Return the rest, with U+FFFD for incomplete characters."""
        return self._new_text(final=True)

    def _new_text(self, *, final: bool) -> str:
        before = self._tokenizer.decode(self._ids[self._context : self._returned])
        text = self._tokenizer.decode(self._ids[self._context :])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and not final:
            return ""
        self._context, self._returned = self._returned, len(self._ids)
        return text[len(before) :]


class StopText:
    """Cuts a text at the first stop text. Holds back a piece that may be the beginning of one.

    Attributes:
        found: whether a stop text has been found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Add a piece, and return the text that is certain not to belong to a stop text."""
        if not self._stops:
            return piece
        text = self._held + piece
        positions = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if positions:
            self.found = True
            self._held = ""
            return text[: min(positions)]
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Return the text that was held back and is not a stop text."""
        held, self._held = self._held, ""
        return held
