"""Cut memory-mapped ids into training batches, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.data.encoding import Ids
from gpt2demo.data.tokens import load_ends, load_ids
from gpt2demo.errors import DataError
from gpt2demo.metrics import PADDING

SHUFFLED = 2**22  # windows of an epoch whose order is kept in memory, 32 MiB
ROUNDS = 6  # of the Feistel network
BLOCK = 512  # documents of which one number is kept in memory


class Order(Protocol):
    """A permutation of `range(n)`."""

    def __getitem__(self, index: int, /) -> Any:
        """Return the number at a position."""
        ...


class ComputedOrder:
    """A pseudorandom permutation of `range(n)` that needs no memory: a Feistel network on the numbers below a power of four.

    A result of n or more is permuted again until it is smaller (cycle walking; Black and Rogaway 2002, section 4).

    Args:
        n: number of elements.
        keys: a random integer for each round.
    """

    def __init__(self, n: int, keys: Sequence[int]) -> None:
        self._n = n
        self._keys = keys
        self._bits = max(1, ((n - 1).bit_length() + 1) // 2)  # of each half

    def __getitem__(self, index: int) -> int:
        """Return the number at a position."""
        mask = (1 << self._bits) - 1
        while True:
            left, right = index >> self._bits, index & mask
            for key in self._keys:
                left, right = right, left ^ (_mix(right ^ key) & mask)
            index = left << self._bits | right
            if index < self._n:
                return index


def _mix(value: int) -> int:
    """Return a hash of an integer below 2**64 (the finalizer of SplitMix64; Steele et al. 2014)."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31


def shuffled(n: int, generator: np.random.Generator) -> Order:
    """Return a random order of `range(n)`: in memory up to SHUFFLED numbers, computed beyond."""
    if n <= SHUFFLED:
        return generator.permutation(n)
    return ComputedOrder(n, [int(key) for key in generator.integers(0, 2**63, ROUNDS)])


def open_windows(folder: Path, split: str, model: ModelConfig, train: TrainConfig) -> Windows:
    """Return the windows of one split of a run.

    Args:
        folder: the run's data.
        split: name of the split.
        model: has the context length.
        train: has the seed, and whether windows stay inside documents.

    Raises:
        DataError: the split is shorter than one window, or a file is missing or damaged.
    """
    ids = load_ids(folder, split)
    if train.pack == "stream":
        return Windows(ids, model.n_positions, train.seed, split)
    return DocumentWindows(ids, load_ends(folder, split), model.n_positions, train.seed, split)


class Windows:
    """Windows of `n_positions + 1` ids over a split: the first `n_positions` are inputs, the last `n_positions` targets.

    An epoch visits every window once, in a random order and without overlap. The windows start at a random offset in each epoch,
    as far as the length of the split allows. Order and offset are functions of (seed, epoch), so resuming needs no saved state.

    Args:
        ids: the split.
        n_positions: context length.
        seed: training seed.
        name: name of the split in messages.

    Raises:
        DataError: the split is shorter than one window.
    """

    def __init__(self, ids: Ids, n_positions: int, seed: int, name: str = "train") -> None:
        if len(ids) <= n_positions:
            raise DataError(
                f"the {name} split has {len(ids)} tokens, but a context of {n_positions} needs at least "
                f"{n_positions + 1}; use more text or a smaller --n-positions"
            )
        self._ids = ids
        self._n_positions = n_positions
        self._seed = seed
        self.per_epoch = (len(ids) - 1) // n_positions
        self._epoch: tuple[int, int, Order] | None = None  # number, offset and order of the current one

    def batch(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Return windows `first` to `first + count - 1`, counted across epochs: (count, n_positions + 1)."""
        return self._read([self._place(number) for number in range(first, first + count)])

    def evenly_spaced(self, count: int) -> npt.NDArray[np.int64]:
        """Return at most `count` windows, evenly spaced over the split, the same at each call: (≤ count, n_positions + 1)."""
        count = min(count, self.per_epoch)
        return self._read([(i * self.per_epoch // count, 0) for i in range(count)])

    def _read(self, places: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
        """Return windows, each by its number in the text and the offset of its epoch."""
        length = self._n_positions
        starts = [index * length + offset for index, offset in places]
        return np.stack([self._ids[start : start + length + 1] for start in starts]).astype(np.int64)

    def _place(self, number: int) -> tuple[int, int]:
        epoch, index = divmod(number, self.per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._offset_and_order(epoch))
        _, offset, order = self._epoch
        return int(order[index]), offset

    def _offset_and_order(self, epoch: int) -> tuple[int, Order]:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, epoch])))
        slack = len(self._ids) - 1 - self.per_epoch * self._n_positions
        return int(generator.integers(0, max(0, slack) + 1)), shuffled(self.per_epoch, generator)


class DocumentWindows(Windows):
    """Windows that stay inside documents.

    A window starts with the token before its first target: within a document the previous window's last target, at its start the
    end of the document before, which tells nothing of its text. The last window of a document is filled with PADDING. Every
    token but the first of the split is the target of one window.

    Args:
        ids, n_positions, seed, name: as in `Windows`.
        ends: where the documents end in the ids, (D,).
    """

    def __init__(self, ids: Ids, ends: npt.NDArray[np.uint64], n_positions: int, seed: int, name: str = "train") -> None:
        super().__init__(ids, n_positions, seed, name)
        self._ends = ends
        blocks = [int(self._counts(block).sum()) for block in range(-(-len(ends) // BLOCK))]
        self._block_starts = np.cumsum([0, *blocks])
        self.per_epoch = int(self._block_starts[-1])

    def _borders(self, block: int) -> npt.NDArray[np.int64]:
        """Return the first target of each document of a block, and the end of its last: (≤ BLOCK + 1,)."""
        ends = self._ends[block * BLOCK : (block + 1) * BLOCK].astype(np.int64)
        start = int(self._ends[block * BLOCK - 1]) if block else 1  # the first token of the split is no target
        return np.concatenate([[start], ends])

    def _counts(self, block: int) -> npt.NDArray[np.int64]:
        """Return the number of windows of each document of a block."""
        counts: npt.NDArray[np.int64] = -(-np.diff(self._borders(block)) // self._n_positions)
        return counts

    def _read(self, places: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
        windows = np.full((len(places), self._n_positions + 1), PADDING, dtype=np.int64)
        for window, (index, _) in zip(windows, places, strict=True):
            first, end = self._targets(index)
            window[: end - first + 1] = self._ids[first - 1 : end]
        return windows

    def _targets(self, index: int) -> tuple[int, int]:
        """Return the first target of a window, and the end of its targets."""
        block = int(np.searchsorted(self._block_starts, index, side="right")) - 1
        borders = self._borders(block)
        before = np.concatenate([[0], np.cumsum(self._counts(block))])  # windows of the block before each document
        index -= int(self._block_starts[block])
        document = int(np.searchsorted(before, index, side="right")) - 1
        first = int(borders[document]) + (index - int(before[document])) * self._n_positions
        return first, min(first + self._n_positions, int(borders[document + 1]))
