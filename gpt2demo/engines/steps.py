"""Decoding steps of the PyTorch model whose shapes and addresses stay the same, so that an NVIDIA GPU can replay them.

A step of a small batch takes a GPU less time than Python needs to launch its kernels one by one. A CUDA graph records the
launches once and replays them together. It repeats exactly the same operations on the same memory, so nothing in a step may
depend on the number of positions: new keys and values are written at an index that is read from memory, attention covers a fixed
number of columns of the cache, and a mask hides those that are not yet used.

Shapes: B = rows, S = columns of the cache that are attended to, V = vocabulary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2demo.engines.cache import KeyValueCache
from gpt2demo.model import GPT2

SHORTEST = 128
"""Columns of the shortest step, a power of two. Each longer step has twice as many: short texts do not read the whole cache."""


class FixedCache:
    """A `KeyValueCache` that is written one position at a time, at an index in memory, and read up to a fixed column.

    Args:
        cache: the cache.
        index: (1,) int64, the column to write.
        columns: S.
    """

    def __init__(self, cache: KeyValueCache, index: Tensor, columns: int) -> None:
        self.length = 0  # the step passes positions and a mask instead
        self._layers = [layer.narrow(3, 0, columns) for layer in cache.layers]  # (2, B, H, S, D) each
        self._index = index

    def update(self, layer: int, keys_values: Tensor) -> Tensor:
        """Write one position; return all columns, used or not."""
        return self._layers[layer].index_copy_(3, self._index, keys_values)

    def advance(self, count: int) -> None:
        """Do nothing: the index says where to write."""


class FixedStep:
    """Read one id for each row. On an NVIDIA GPU, the first call captures the step.

    Args:
        model: the model, in evaluation mode.
        cache: its cache. Columns that are not used must be finite.
        padding: (B,) int64, leading columns of padding in each row.
        columns: S, the number of columns that are attended to.
    """

    def __init__(self, model: GPT2, cache: KeyValueCache, padding: Tensor, columns: int) -> None:
        self._model = model
        self._padding = padding
        self._columns = torch.arange(columns, device=padding.device)  # (S,)
        on_gpu = padding.is_cuda
        rows = len(padding)
        self._host = torch.zeros(rows + 1, dtype=torch.int64, pin_memory=on_gpu)  # each row's id, then the column to write
        self._input = self._host.to(padding.device)
        self._values = self._host.numpy()
        self._cache = FixedCache(cache, self._input[rows:], columns)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, ids: npt.NDArray[np.int64], column: int) -> Tensor:
        """Read ids (B, 1) into a column; return the logits (B, 1, V) float32, valid until the next call.

        Raises:
            RuntimeError: the step cannot be captured.
        """
        self._values[:-1], self._values[-1] = ids[:, 0], column
        self._input.copy_(self._host, non_blocking=True)
        if not self._input.is_cuda:
            return self._forward()
        self._graph = self._graph or self._captured()
        self._graph.replay()
        return self._logits

    def _forward(self) -> Tensor:
        """Run the model on the ids and the column in `_input`."""
        column, start = self._input[-1:], self._padding[:, None]  # (1,), (B, 1)
        allowed = (self._columns <= column) & (self._columns >= start)  # (B, S)
        mask = torch.zeros_like(allowed, dtype=self._model.wte.weight.dtype).masked_fill(~allowed, float("-inf"))
        logits: Tensor = self._model(
            self._input[:-1, None], self._cache, last_only=True, positions=column - start, mask=mask[:, None, None]
        )
        return logits.float()

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Capture the step, after running it twice: libraries allocate memory when they are first used."""
        current, other = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        other.wait_stream(current)
        with torch.cuda.stream(other):
            for _ in range(2):
                self._forward()
        current.wait_stream(other)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._forward()
        return graph


def columns_for(length: int, n_positions: int) -> int:
    """Return the number of columns of a step: `length` rounded up to a power of two, from `SHORTEST` to `n_positions`."""
    return min(max(SHORTEST, 1 << (length - 1).bit_length()), n_positions)
