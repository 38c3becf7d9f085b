"""A random sample of a text, bounded in memory, on which a tokenizer is trained."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator

from gpt2demo.data.formats import Piece

SAMPLE = 2**26  # characters, about 64 MB of text
OVERHEAD = 128  # counted for each piece besides its characters: the objects of many tiny documents need memory too


class Sample:
    """A uniform sample of the pieces of a text, which is the whole text if it fits.

    Each piece draws a random number; those with the smallest numbers are kept. The sample depends on the text and the seed alone.

    Args:
        size: number of characters, including OVERHEAD for each piece.
        seed: random seed.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._size = size
        self._free = size
        self._kept: list[tuple[float, int, Piece]] = []  # a heap: minus the random number, the piece's number, the piece
        self._count = 0

    @property
    def complete(self) -> bool:
        """True if the sample is the whole text."""
        return len(self._kept) == self._count

    def add(self, piece: Piece) -> None:
        """Offer the next piece of the text."""
        heapq.heappush(self._kept, (-self._random.random(), self._count, piece))
        self._count += 1
        self._free -= len(piece.text) + OVERHEAD
        while self._free < 0 and len(self._kept) > 1:
            _, _, removed = heapq.heappop(self._kept)
            self._free += len(removed.text) + OVERHEAD

    def documents(self) -> Iterator[str]:
        """Yield the sample in the order of the text. Pieces that follow each other in a document are joined."""
        held: list[str] = []
        expected = 0
        for _, number, piece in sorted(self._kept, key=lambda entry: entry[1]):
            if held and number != expected:
                yield "".join(held)
                held = []
            held.append(piece.text)
            expected = number + 1
            if piece.last:
                yield "".join(held)
                held = []
        if held:
            yield "".join(held)

    def __len__(self) -> int:
        """Return the number of characters."""
        return sum(len(piece.text) for _, _, piece in self._kept)
