"""Clean a stream of documents: normalize Unicode, and remove duplicate documents or lines.

Which documents or lines are duplicates is found in a pass of its own, from hashes of 8 bytes. Two of n different ones have the
same hash with a probability of n²/2⁶⁵: less than one in 300,000 for ten million.
"""

from __future__ import annotations

import hashlib
import io
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from gpt2demo.data.formats import Piece, skip_blank

UNICODE_FORMS: dict[str, Literal["NFC", "NFKC"]] = {"nfc": "NFC", "nfkc": "NFKC"}
BATCH = 2**16  # hashes to compare at a time


class FirstOccurrences:
    """Which of many hashes occurs for the first time.

    Needs 8 bytes of memory for each different hash, and 20 while sorted arrays are merged.
    """

    def __init__(self) -> None:
        self._pending = array("Q")
        self._seen: list[npt.NDArray[np.uint64]] = []  # sorted, each less than half as long as the one before
        self._first: list[npt.NDArray[np.uint8]] = []  # bits of BATCH hashes each
        self._added = 0

    def add(self, key: int) -> None:
        """Add the hash of the next document or line."""
        self._pending.append(key)
        if len(self._pending) == BATCH:
            self._settle()

    def _settle(self) -> None:
        keys = np.array(self._pending, dtype=np.uint64)
        self._added += len(keys)
        self._pending = array("Q")
        different, positions = np.unique(keys, return_index=True)
        new = ~np.logical_or.reduce([_contains(seen, different) for seen in self._seen] or [np.zeros(len(different), bool)])
        first = np.zeros(len(keys), dtype=bool)
        first[positions[new]] = True
        self._first.append(np.packbits(first))
        self._seen.append(different[new])
        while len(self._seen) > 1 and len(self._seen[-2]) <= 2 * len(self._seen[-1]):
            merged = np.concatenate(self._seen[-2:])
            merged.sort(kind="stable")
            self._seen[-2:] = [merged]

    def finish(self) -> Self:
        """Settle the last hashes, and return self. No more can be added."""
        self._settle()
        return self

    @property
    def repeated(self) -> int:
        """Number of hashes that were not the first of their kind."""
        return self._added - sum(map(len, self._seen))

    def flags(self) -> Iterator[bool]:
        """Yield whether each hash was the first of its kind, in the order in which they were added."""
        for bits in self._first:
            yield from np.unpackbits(bits).view(bool).tolist()


def _contains(sorted_keys: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    if not len(sorted_keys):
        return np.zeros(len(keys), dtype=bool)
    nearest = np.searchsorted(sorted_keys, keys).clip(max=len(sorted_keys) - 1)
    found: npt.NDArray[np.bool_] = sorted_keys[nearest] == keys
    return found


def text_hash(text: str) -> int:
    """Return a hash of 64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class DocumentHash:
    """The hash of a document that comes in pieces, equal to `text_hash` of the whole, and its number of characters."""

    def __init__(self) -> None:
        self._state = hashlib.blake2b(digest_size=8)
        self.characters = 0

    def add(self, text: str) -> None:
        """Add the next piece."""
        self._state.update(text.encode())
        self.characters += len(text)

    def value(self) -> int:
        """Return the hash of the pieces so far."""
        return int.from_bytes(self._state.digest(), "little")


def normalized(pieces: Iterable[Piece], form: str) -> Iterator[Piece]:
    """Normalize each piece. `formats.divide` cuts where this gives the same as normalizing the whole document."""
    if form not in UNICODE_FORMS:
        yield from pieces
        return
    for text, last in pieces:
        yield Piece(unicodedata.normalize(UNICODE_FORMS[form], text), last)


def first_documents(pieces: Iterable[Piece]) -> FirstOccurrences:
    """Find the documents that do not repeat an earlier one."""
    found, state = FirstOccurrences(), DocumentHash()
    for text, last in pieces:
        state.add(text)
        if last:
            found.add(state.value())
            state = DocumentHash()
    return found.finish()


def only_first_documents(pieces: Iterable[Piece], found: FirstOccurrences) -> Iterator[Piece]:
    """Remove documents that repeat an earlier one."""
    flags, keep, start = found.flags(), False, True
    for piece in pieces:
        if start:
            keep = next(flags)
        if keep:
            yield piece
        start = piece.last


def first_lines(pieces: Iterable[Piece]) -> FirstOccurrences:
    """Find the lines with text that do not repeat an earlier one, in any document, up to surrounding whitespace."""
    found = FirstOccurrences()
    for text, _ in pieces:
        for line in _lines(text):
            if stripped := line.strip():
                found.add(text_hash(stripped))
    return found.finish()


def only_first_lines(pieces: Iterable[Piece], found: FirstOccurrences) -> Iterator[Piece]:
    """Remove lines that repeat an earlier one, and documents without remaining text. Blank lines stay."""
    flags = found.flags()
    kept = (Piece("".join(line for line in _lines(text) if not line.strip() or next(flags)), last) for text, last in pieces)
    return skip_blank(kept)


def _lines(text: str) -> Iterable[str]:
    r"""Return the lines with their ends, which are \n, \r\n and \r. A line of more than a megabyte may be several."""
    return io.StringIO(text, newline="")
