"""Training batches: windows over memory-mapped ids, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpt2demo.data.tokens import Ids
from gpt2demo.errors import DataError


class Windows:
    """Windows of `n_positions + 1` ids (inputs and, one further, targets) over a split.

    An epoch visits every window once, in an order that depends on (seed, epoch) alone; windows do not overlap within it, and
    their borders move from epoch to epoch as far as the text's length leaves room.

    Args:
        ids: the split.
        n_positions: context length.
        seed: the training's seed.
        name: the split's name for messages.

    Raises:
        DataError: the split is shorter than one window.
    """

    def __init__(self, ids: Ids, n_positions: int, seed: int, name: str = "train") -> None:
        if len(ids) <= n_positions:
            raise DataError(
                f"the {name} part of the text has {len(ids)} tokens, but a context of {n_positions} needs at least "
                f"{n_positions + 1}; give more text or a smaller --n-positions"
            )
        self._ids = ids
        self._n_positions = n_positions
        self._seed = seed
        self.per_epoch = (len(ids) - 1) // n_positions
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def batch(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Windows number `first` to `first + count - 1` of the endless sequence of epochs: (count, n_positions + 1)."""
        return self._cut([self._start(number) for number in range(first, first + count)])

    def even(self, count: int) -> npt.NDArray[np.int64]:
        """At most `count` windows, evenly spread over the split, always the same ones: (≤ count, n_positions + 1)."""
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
