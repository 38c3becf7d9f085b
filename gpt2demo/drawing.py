"""From logits to a token: the sampler chain, then one uniform number per row and the inverse of the distribution.

torch is imported only where a chain really runs: the greedy choice and the numbers need none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import SettingError
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.samplers.basic import SMALLEST, Temperature

if TYPE_CHECKING:
    from torch import Tensor


def uniforms(seed: int, position: int, rows: Sequence[int]) -> list[float]:
    """The uniform numbers in [0, 1) of one position, one for each row, with 24 bits: exact in float32.

    They come from a counter-based stream (Philox, Salmon et al. 2011) keyed by (seed, row, position), so the same seed gives
    the same tokens on every engine and at every batch size.
    """
    generators = (np.random.Philox(key=seed, counter=[0, 0, position, row]) for row in rows)
    return [(int(generator.random_raw()) >> 40) / 2**24 for generator in generators]


def draw(logits: Tensor, seed: int, position: int, rows: Sequence[int] | None = None) -> Tensor:
    """One id per row from the softmax of the logits, by inverse transform of one uniform number per row.

    Args:
        logits: (B, V) float32, -inf for what may not be drawn.
        seed: of the generation.
        position: index of the token to be drawn, counted from the start of the prompt.
        rows: the number of each row's stream; 0 to B - 1 when left out.

    Returns:
        (B,) int64.
    """
    numbers = uniforms(seed, position, range(logits.shape[0]) if rows is None else rows)
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)  # (B, V)
    uniform = logits.new_tensor(numbers).double().unsqueeze(-1)  # (B, 1)
    return (cumulative <= uniform * cumulative[:, -1:]).sum(dim=-1)


class Chain:
    """The samplers of a generation, their states, and the draw behind them.

    Args:
        samplers: in the order in which they are called. Where the first is a temperature of 0, exactly one token is left, and
            nothing after it can change that: none is called, and torch is not needed.
        seed: of the generation.
        prompt_length: in tokens.
        row: the number of the stream that it draws from.
    """

    def __init__(self, samplers: Sequence[Sampler], seed: int, prompt_length: int, row: int = 0) -> None:
        self._samplers = samplers
        self._seed = seed
        self._prompt_length = prompt_length
        self._row = row
        self._contexts: list[SamplingContext] = []
        first = next(iter(samplers), None)
        self.greedy = isinstance(first, Temperature) and first.value < SMALLEST

    def draw(self, logits: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> int:
        """The next token of a text.

        Args:
            logits: (1, V), of the token to be drawn.
            ids: (1, T), the prompt and everything generated so far.

        Raises:
            SettingError: a sampler gave something that cannot be drawn from.
        """
        return int(logits[0].argmax()) if self.greedy else self._sample(logits, ids)

    def _sample(self, logits: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> int:
        """Run the chain, draw, and tell the samplers."""
        import torch

        with torch.inference_mode():  # without the bookkeeping for gradients it takes a fifth less
            left, text = torch.from_numpy(logits), torch.from_numpy(ids)
            self._contexts = self._contexts or [SamplingContext(text, self._prompt_length) for _ in self._samplers]
            for sampler, context in zip(self._samplers, self._contexts, strict=True):
                context.ids = text
                left = checked(sampler, sampler(left, context), left)
            drawn = draw(left, self._seed, ids.shape[1], [self._row])
            for sampler, context in zip(self._samplers, self._contexts, strict=True):
                sampler.observe(drawn, context)
            return int(drawn[0])


def checked(sampler: Sampler, result: Tensor, before: Tensor) -> Tensor:
    """A sampler's result, after making sure that it can be drawn from.

    Raises:
        SettingError: wrong shape, NaN or +inf, or nothing left to draw.
    """
    name = type(sampler).__name__
    if result.shape != before.shape:
        raise SettingError(f"sampler {name}: gave shape {tuple(result.shape)} for {tuple(before.shape)}")
    if not all(map(math.isfinite, result.amax(dim=-1).tolist())):  # amax carries NaN and +inf through; all -inf gives -inf
        raise SettingError(f"sampler {name}: left nothing that can be drawn, or gave NaN")
    return result
