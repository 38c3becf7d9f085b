"""Measure how much of a text was copied from another: from the training text, in runs of bytes.

Substrings are compared through polynomial hashes modulo 2^64, which NumPy computes for all positions at once (Karp & Rabin 1987).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

COPIED_RUN = 50
"""Bytes in a row from which on a match counts as copied: shorter ones are common phrases."""
BASE = np.uint64(0x9E3779B97F4A7C15)
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Copied:
    """How much of a text stands in a source.

    Attributes:
        share: fraction of the bytes that are part of a run of at least `COPIED_RUN` copied bytes.
        longest: length of the longest run, in bytes.
    """

    share: float
    longest: int


class Source:
    """A text from which others may have been copied.

    Args:
        text: the text in UTF-8.
    """

    def __init__(self, text: bytes) -> None:
        self._prefixes = _prefixes(text)
        self._shifts = _shifts(len(text))
        self._runs = np.sort(_windows(self._prefixes, COPIED_RUN, self._shifts))

    def mask(self, text: bytes) -> npt.NDArray[np.bool_]:
        """Return (N,), for each byte of a text whether it is in a run of at least `COPIED_RUN` bytes that the source contains."""
        starts = _contains(self._runs, _windows(_prefixes(text), COPIED_RUN, _shifts(len(text))))
        steps = np.zeros(len(text) + 1, np.int64)
        steps[: len(starts)] += starts
        steps[COPIED_RUN : COPIED_RUN + len(starts)] -= starts
        return np.cumsum(steps)[: len(text)] > 0

    def longest(self, text: bytes) -> int:
        """Return the length of the longest run of bytes that the source contains."""
        prefixes, shifts = _prefixes(text), _shifts(len(text))
        low, high = 0, min(len(prefixes), len(self._prefixes)) - 1  # a run of length `low` exists, none is longer than `high`
        while low < high:
            middle = (low + high + 1) // 2
            if _contains(np.sort(_windows(prefixes, middle, shifts)), _windows(self._prefixes, middle, self._shifts)).any():
                low = middle
            else:
                high = middle - 1
        return low

    def measure(self, text: bytes) -> Copied:
        """Return how much of a text the source contains."""
        return Copied(float(self.mask(text).mean()) if text else 0.0, self.longest(text))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the copied runs of a text, (start, end) in characters."""
        mask = self.mask(text.encode())
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
        ends = np.cumsum([len(character.encode()) for character in text])
        characters = np.searchsorted(ends, edges, side="right").tolist()
        return list(zip(characters[::2], characters[1::2], strict=True))


def _prefixes(text: bytes) -> Hashes:
    """Return the hash of each prefix, from the empty one to the whole: (N,) -> (N + 1,)."""
    values = (np.frombuffer(text, np.uint8).astype(np.uint64) + np.uint64(1)) * _powers(BASE, len(text))
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])


def _windows(prefixes: Hashes, length: int, shifts: Hashes) -> Hashes:
    """Return the hashes of all substrings of one length: (N + 1,) -> (N + 1 - length,).

    Args:
        prefixes: hashes of the text's prefixes.
        length: of the substrings.
        shifts: powers of the base's inverse. They make hashes independent of the positions.
    """
    count = max(0, len(prefixes) - length)
    hashes: Hashes = (prefixes[length:] - prefixes[:count]) * shifts[:count]
    return hashes


def _shifts(count: int) -> Hashes:
    """Return the first powers of the base's inverse."""
    return _powers(np.uint64(pow(int(BASE), -1, 2**64)), count)


def _powers(base: np.uint64, count: int) -> Hashes:
    """Return base^0 to base^(count - 1) modulo 2^64."""
    powers = np.full(count, base)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _contains(ascending: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    """Return which of the values are among the ascending ones."""
    if not len(ascending):
        return np.zeros(len(wanted), np.bool_)
    index = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    found: npt.NDArray[np.bool_] = ascending[index] == wanted
    return found
