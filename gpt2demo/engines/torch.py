"""The PyTorch engine: the model with a preallocated key/value cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2demo.config import ModelConfig
from gpt2demo.engines import check_feed
from gpt2demo.engines.cache import KeyValueCache
from gpt2demo.engines.steps import FixedStep, columns_for
from gpt2demo.memory import out_of_memory
from gpt2demo.model import GPT2

ONE_THREAD = 2_500_000
"""Parameters times positions up to which a forward pass is faster on one CPU thread: synchronising costs more than it saves."""

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


class TorchEngine:
    """Run a `GPT2` step by step.

    Args:
        model: the model, on its device. It is in evaluation mode during `feed`, and in its previous mode afterwards.
        fixed_steps: whether single steps have fixed shapes, see `steps.py`; by default only on an NVIDIA GPU.

    Attributes:
        eager_reason: why steps are not replayed from a CUDA graph; None if they are.
    """

    name = "torch"

    def __init__(self, model: GPT2, *, fixed_steps: bool | None = None) -> None:
        self.model = model
        self.config: ModelConfig = model.config
        self.n_positions = model.config.n_positions
        self.vocab_size = model.config.vocab_size
        self._device = model.wte.weight.device
        self._one_thread = ONE_THREAD // model.config.n_parameters if self._device.type == "cpu" else 0  # positions
        self.provider: str = self._device.type
        on_gpu = self._device.type == "cuda"
        self.eager_reason = None if on_gpu else f"the model runs on {self.provider}"
        self._fixed_steps = on_gpu if fixed_steps is None else fixed_steps
        self._steps: dict[int, FixedStep] = {}  # by the number of columns
        self._cache: KeyValueCache | None = None
        self._host: Tensor | None = None  # (B, V), where logits of a GPU are copied to
        self._starts = torch.empty(0, dtype=torch.int64)  # (B,), the padding of steps with fixed shapes
        self.reset()

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self._cache.length if self._cache else 0

    def reset(self) -> None:
        """Empty the cache and forget the padding. Steps with fixed shapes keep the cache's memory."""
        if self._fixed_steps and self._cache:
            self._cache.length = 0
        else:
            self._cache = None
        self._padding: Tensor | None = None  # (B,)

    def feed(self, ids: Ids, padding: Ids | None = None) -> Logits:
        """Read (B, T) new ids, the first ones with `padding`; return the logits (B, V) after the last."""
        logits = self.feed_tensor(ids, padding)
        if logits.is_cpu:
            return logits.numpy()
        with memory_errors():
            if self._host is None or self._host.shape != logits.shape:
                self._host = torch.empty(logits.shape, pin_memory=self._device.type == "cuda")
            return self._host.copy_(logits).numpy()  # pinned memory takes a quarter of the time

    def feed_tensor(self, ids: Ids, padding: Ids | None = None) -> Tensor:
        """Do the same, and return the logits on the model's device. See `gpt2demo.interfaces.TensorEngine`."""
        check_feed(ids, self, padding)
        with memory_errors():
            if not self.length:
                self._begin(ids.shape[0], padding)
            return self._compute(ids, self._cache, last_only=True)[:, -1]

    def _begin(self, rows: int, padding: Ids | None) -> None:
        """Start a batch. Memory for another number of rows is allocated anew."""
        self._padding = None if padding is None else torch.from_numpy(padding).to(self._device)
        if self._cache is None or len(self._starts) != rows:
            self._cache = KeyValueCache(self.config, rows, self.model.wte.weight)
            self._starts = torch.zeros(rows, dtype=torch.int64, device=self._device)
            self._steps.clear()
        self._starts[:] = 0 if self._padding is None else self._padding

    def logits(self, ids: Ids) -> Logits:
        """Return the logits at every position, (B, T) -> (B, T, V)."""
        self.reset()
        check_feed(ids, self)
        result: Logits = self._compute(ids, None, last_only=False).cpu().numpy()
        return result

    def _compute(self, ids: Ids, cache: KeyValueCache | None, *, last_only: bool) -> Tensor:
        """Run the model without dropout, on one thread where that is faster."""
        threads = torch.get_num_threads()
        single = threads > 1 and ids.size <= self._one_thread
        training = self.model.training  # eval() visits all modules, a fifth of a small model's token: call it only if needed
        try:
            if single:
                torch.set_num_threads(1)
            if training:
                self.model.eval()
            return self._forward(ids, cache, last_only=last_only)
        finally:
            if single:
                torch.set_num_threads(threads)
            if training:
                self.model.train()

    @torch.inference_mode()
    def _forward(self, ids: Ids, cache: KeyValueCache | None, *, last_only: bool) -> Tensor:
        """Return float32 logits of all positions or the last, (B, T, V) or (B, 1, V)."""
        if self._fixed_steps and cache is not None and cache.length and ids.shape[1] == 1:
            logits = self._fixed_step(ids, cache)
            if logits is not None:
                return logits
        positions = mask = None
        if cache is not None and self._padding is not None:
            positions, mask = padded(self._padding, cache.length, ids.shape[1], self.model.wte.weight.dtype)
        new = torch.from_numpy(ids).to(self._device)
        output: Tensor = self.model(new, cache, last_only=last_only, positions=positions, mask=mask)
        return output.float()

    def _fixed_step(self, ids: Ids, cache: KeyValueCache) -> Tensor | None:
        """Run a step with fixed shapes, (B, 1) -> (B, 1, V). Return None if it cannot be captured, now and in later steps."""
        columns = columns_for(cache.length + 1, self.n_positions)
        if columns not in self._steps:
            self._steps[columns] = FixedStep(self.model, cache, self._starts, columns)
        try:
            logits = self._steps[columns](ids, cache.length)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            self.eager_reason, self._fixed_steps = f"the step could not be captured ({str(error).splitlines()[0]})", False
            return None
        cache.advance(1)
        return logits


@contextmanager
def memory_errors() -> Iterator[None]:
    """Report in one way that memory ran out: torch has several exceptions.

    Raises:
        MemoryError: memory ran out in the block.
    """
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise MemoryError(str(error)) from None


def padded(padding: Tensor, past: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute positions and mask of new columns in rows that begin with padding.

    Args:
        padding: (B,) int64, the number of leading padding columns in each row.
        past: columns in the cache.
        count: T, new columns.
        dtype: of the mask.

    Returns:
        (B, T) int64, positions counted without the padding, and (B, 1, T, S) of 0 and -inf. Padding attends to all earlier
        columns, padding included: a row of the mask that is -inf throughout would give NaN, which spreads.
    """
    column = torch.arange(past + count, device=padding.device)  # (S,)
    row, start = column[past:], padding[:, None]  # (T,), (B, 1)
    is_text, from_padding = column >= start, row < start  # (B, S), (B, T)
    allowed = (column <= row[:, None]) & (is_text[:, None] | from_padding[:, :, None])  # (B, T, S)
    mask = torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, float("-inf"))
    return (row - start).clamp(min=0), mask[:, None]
