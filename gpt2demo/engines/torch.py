"""The PyTorch engine: the model itself with a preallocated key/value cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2demo.config import ModelConfig
from gpt2demo.engines import check_feed
from gpt2demo.engines.cache import KeyValueCache
from gpt2demo.engines.hardware import out_of_memory
from gpt2demo.model import GPT2

LITTLE = 2_500_000
"""Parameters times positions up to which a pass is faster on one thread of a CPU."""


class TorchEngine:
    """Runs a `GPT2` step by step.

    Args:
        model: the model, on its device. It is put into evaluation mode during `feed` and left as it was.
    """

    name = "torch"

    def __init__(self, model: GPT2) -> None:
        self.model = model
        self.config: ModelConfig = model.config
        self.n_positions = model.config.n_positions
        self.vocab_size = model.config.vocab_size
        self._device = model.wte.weight.device
        self.provider: str = self._device.type
        self.reset()

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self._cache.length if self._cache else 0

    def reset(self) -> None:
        """Empty the cache, and forget the padding."""
        self._cache: KeyValueCache | None = None
        self._padding: Tensor | None = None  # (B,)

    def feed(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
        """Read (B, T) further ids, the first with `padding`; give the logits (B, V) after the last."""
        check_feed(ids, self, padding)
        try:
            if self._cache is None:
                self._cache = KeyValueCache(self.config, ids.shape[0], self.model.wte.weight)
                self._padding = None if padding is None else torch.from_numpy(padding).to(self._device)
            return self._forward(ids, self._cache, last_only=True)[:, -1]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise MemoryError(str(error)) from None

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Logits at every position, (B, T) -> (B, T, V)."""
        self.reset()
        check_feed(ids, self)
        return self._forward(ids, None, last_only=False)

    @torch.inference_mode()
    def _forward(self, ids: npt.NDArray[np.int64], cache: KeyValueCache | None, *, last_only: bool) -> npt.NDArray[np.float32]:
        """Run the model, a little work on one thread: meeting for each operator would take longer than it saves."""
        threads = torch.get_num_threads()
        if threads == 1 or self._device.type != "cpu" or ids.size * self.config.n_parameters > LITTLE:
            return self._evaluated(ids, cache, last_only=last_only)
        try:
            torch.set_num_threads(1)
            return self._evaluated(ids, cache, last_only=last_only)
        finally:
            torch.set_num_threads(threads)

    def _evaluated(self, ids: npt.NDArray[np.int64], cache: KeyValueCache | None, *, last_only: bool) -> npt.NDArray[np.float32]:
        """Run the model without dropout, and leave it in the mode it was in."""
        if training := self.model.training:  # asking costs nothing, walking through all modules a fifth of a small model's token
            self.model.eval()
        new = torch.from_numpy(ids).to(self._device)
        if cache is None or self._padding is None:
            logits = self.model(new, cache, last_only=last_only)
        else:
            positions, mask = padded(self._padding, cache.length, ids.shape[1], self.model.wte.weight.dtype)
            logits = self.model(new, cache, last_only=last_only, positions=positions, mask=mask)
        if training:
            self.model.train()
        result: npt.NDArray[np.float32] = logits.float().cpu().numpy()
        return result


def padded(padding: Tensor, past: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Positions and mask of `count` new columns behind `past` ones in rows that begin with padding.

    Args:
        padding: (B,) int64, how many columns of each row are padding.
        past: columns in the cache.
        count: T, new columns.
        dtype: of the mask.

    Returns:
        (B, T) int64, counted without the padding, and (B, 1, T, S) of 0 and -inf. Padding looks at what is before it, padding
        too: a row of the mask that is -inf throughout would give NaN, which spreads.
    """
    column = torch.arange(past + count, device=padding.device)  # (S,)
    row, start = column[past:], padding[:, None]  # (T,), (B, 1)
    text, looking = column >= start, row < start  # (B, S) is text; (B, T) is padding that looks
    allowed = (column <= row[:, None]) & (text[:, None] | looking[:, :, None])  # (B, T, S)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=padding.device).masked_fill(~allowed, float("-inf"))
    return (row - start).clamp(min=0), mask[:, None]
