"""Batches of token ids on the training's device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2demo.data.windows import Windows
from gpt2demo.errors import DataError


class Batches:
    """Batches of a split's windows, as tensors on a device.

    Args:
        windows: the split, cut into windows.
        batch_size: windows per batch, B.
        vocab_size: ids must be below it.
        device: where the batches are used.
        source: the data's folder, for messages.
    """

    def __init__(self, windows: Windows, batch_size: int, vocab_size: int, device: torch.device, source: Path) -> None:
        self.windows = windows
        self._batch_size, self._vocab_size, self._device, self._source = batch_size, vocab_size, device, source
        self._next: tuple[int, Tensor] | None = None  # a prefetched batch and its number

    def batch(self, number: int) -> Tensor:
        """Return a batch, counted from 0 across epochs: (B, T + 1) int64."""
        prefetched, self._next = self._next, None
        if prefetched and prefetched[0] == number:
            return prefetched[1]
        return self._on_device(self.windows.batch(number * self._batch_size, self._batch_size))

    def prefetch(self, number: int) -> None:
        """Copy a batch to the GPU while it computes. On other devices nothing could overlap, and nothing is done."""
        if self._device.type == "cuda":
            self._next = (number, self.batch(number))

    def evenly_spaced(self, count: int) -> tuple[Tensor, ...]:
        """Return at most `count` batches, evenly spaced over the split, the same at each call: (≤ B, T + 1) each."""
        return torch.split(self._on_device(self.windows.evenly_spaced(count * self._batch_size)), self._batch_size)

    def _on_device(self, ids: npt.NDArray[np.int64]) -> Tensor:
        """Return ids as a tensor. Check first that they are in the vocabulary: an invalid one can crash a GPU.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        if (highest := int(ids.max())) >= self._vocab_size:
            beyond = f"id {highest} is beyond the vocabulary of {self._vocab_size}"
            raise DataError(f"{self._source}: {beyond}; the files are damaged, train a new run")
        tensor = torch.from_numpy(ids)
        if self._device.type == "cuda":  # from pinned memory, the copy does not wait for the GPU
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)
