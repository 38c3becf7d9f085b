"""Cut memory-mapped ids into training batches, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpt2demo.data.tokens import Ids
from gpt2demo.errors import DataError


class Windows:
    """Windows of `n_positions + 1` ids over a split: the first `n_positions` are inputs, the last `n_positions` targets.

    An epoch visits every window once, in a random order and without overlap. If the length of the split leaves room, the windows
    start at a random offset in each epoch. Order and offset are functions of (seed, epoch), so resuming needs no saved state.

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
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def batch(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Return windows `first` to `first + count - 1`, counted across epochs: (count, n_positions + 1)."""
        return self._cut([self._start(number) for number in range(first, first + count)])

    def evenly_spaced(self, count: int) -> npt.NDArray[np.int64]:
        """Return at most `count` windows, evenly spaced over the split, the same at each call: (≤ count, n_positions + 1)."""
        count = min(count, self.per_epoch)
        return self._cut([i * self.per_epoch // count * self._n_positions for i in range(count)])

    def _cut(self, starts: Sequence[int]) -> npt.NDArray[np.int64]:
        return np.stack([self._ids[start : start + self._n_positions + 1] for start in starts]).astype(np.int64)

    def _start(self, number: int) -> int:
        epoch, index = divmod(number, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._epoch_starts(epoch))
        return int(self._order[1][index])

    def _epoch_starts(self, epoch: int) -> npt.NDArray[np.int64]:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, epoch])))
        slack = len(self._ids) - 1 - self.per_epoch * self._n_positions
        offset = generator.integers(0, slack + 1)
        return generator.permutation(self.per_epoch) * self._n_positions + offset
