"""Ids to text while they come: never half a character, never a part of a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2demo.interfaces import Decoder


class NoText:
    """A `Decoder` for texts of which only the ids count: no text, and no id that ends one."""

    vocab_size = 10**9  # as many as the model has
    eos_id: int | None = None

    def decode(self, ids: Sequence[int]) -> str:
        """Nothing."""
        return ""


class StreamDecoder:
    """Turns ids into text piece by piece: each character comes once, and only when it is complete.

    A tokenizer may decode differently in the middle of a text than at its start (a dropped leading space), so a few ids before
    the new ones are always decoded along and their text is cut off.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # ids from here on are decoded
        self._emitted = 0  # ids before this one have been given out

    def push(self, index: int) -> str:
        """The text that one more id completes; may be empty."""
        self._ids.append(index)
        return self._take(final=False)

    def flush(self) -> str:
        """The rest, incomplete characters as U+FFFD."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before = self._tokenizer.decode(self._ids[self._context : self._emitted])
        text = self._tokenizer.decode(self._ids[self._context :])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and not final:
            return ""
        self._context, self._emitted = self._emitted, len(self._ids)
        return text[len(before) :]


class StopText:
    """Holds back what may be the beginning of a stop text, and cuts at the first that is complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that may be shown now."""
        if not self._stops:
            return piece
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found = True
            self._held = ""
            return text[: min(places)]
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back and was no stop text after all."""
        held, self._held = self._held, ""
        return held
