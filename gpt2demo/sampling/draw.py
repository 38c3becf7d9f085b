"""From logits to a token: the sampler chain, then one uniform number per row and the inverse of the distribution.

torch is imported only where a chain really runs: the greedy choice and the numbers need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import SettingError
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.basic import SMALLEST, Temperature
from gpt2demo.sampling.ranking import SMALL, by_id, ranking
from gpt2demo.sampling.traced import drawable

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Uniforms:
    """Uniform numbers in [0, 1) with 24 bits, exact in float32, each a function of (seed, row, position) alone.

    They come from a counter-based stream (Philox, Salmon et al. 2011), so the same seed gives the same tokens on every engine and
    at every batch size. One object serves one thread.

    Args:
        seed: the stream's key.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Philox(key=seed, counter=[0, 0, 0, 0])
        self._state: Any = self._generator.state
        self._counter = self._state["state"]["counter"]

    def at(self, position: int, rows: Sequence[int]) -> list[float]:
        """The numbers of one position, one for each row."""
        return [self._number(position, row) for row in rows]

    def _number(self, position: int, row: int) -> float:
        self._counter[2], self._counter[3] = position, row
        self._generator.state = self._state  # a fifth of the time that a new generator takes
        return (int(self._generator.random_raw()) >> 40) / 2**24


def uniforms(seed: int, position: int, rows: Sequence[int]) -> list[float]:
    """The uniform numbers of one position, one for each row; see `Uniforms`."""
    return Uniforms(seed).at(position, rows)


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
    import torch

    numbers = uniforms(seed, position, range(logits.shape[0]) if rows is None else rows)
    return inverse(logits, logits.new_tensor(numbers, dtype=torch.float64)[:, None])[:, 0]


def inverse(logits: Tensor, uniform: Tensor) -> Tensor:
    """The id at which the cumulated probabilities of each row pass its uniform number; added up in float64.

    Args:
        logits: (B, V) float32, -inf for what may not be drawn.
        uniform: (B, 1) float64, in [0, 1).

    Returns:
        (B, 1) int64.
    """
    if logits.shape[-1] <= SMALL:
        return first_above(logits.double().softmax(dim=-1).cumsum(dim=-1), uniform)
    if known := ranking(logits):  # of a large vocabulary only those that are left need to be added up
        values, ids = by_id(known)
        return ids.gather(-1, first_above(values.double().softmax(dim=-1).cumsum(dim=-1), uniform))
    cumulative = logits.softmax(dim=-1).double().cumsum(dim=-1)  # so many are rounded less exactly: their sum is not quite 1
    return first_above(cumulative, uniform * cumulative[:, -1:])


def first_above(sums: Tensor, marks: Tensor) -> Tensor:
    """The places at which ascending rows (B, n) pass numbers (B, 1): (B, 1) int64."""
    import torch

    if torch.compiler.is_compiling():  # ONNX knows no binary search
        return (sums > marks).int().argmax(dim=-1, keepdim=True)
    return torch.searchsorted(sums, marks, right=True)


class Drawn(NamedTuple):
    """What one draw gave to B rows.

    Attributes:
        ids: (B,) int64.
        uniforms: each row's uniform number; empty for a greedy choice, which needs none.
        stages: logits (B, V) before the chain and after every sampler; empty where they were not asked for.
    """

    ids: Ids
    uniforms: list[float]
    stages: list[Floats]


class Chain:
    """The samplers of texts of equal length, their states, and the draw behind them.

    Args:
        samplers: in the order in which they are called. Where the first is a temperature of 0, exactly one token is left, and
            nothing after it can change that: none is called, and torch is not needed.
        seed: of the generation.
        prompt_length: in tokens.
        keep: whether `Drawn` has the stages.
    """

    def __init__(self, samplers: Sequence[Sampler], seed: int, prompt_length: int, *, keep: bool = False) -> None:
        self._samplers = samplers
        self._uniforms = Uniforms(seed)
        self._prompt_length = prompt_length
        self._keep = keep
        self._contexts: list[SamplingContext] = []
        first = next(iter(samplers), None)
        self.greedy = isinstance(first, Temperature) and first.value < SMALLEST

    def draw(self, logits: Floats, ids: Ids, rows: Sequence[int]) -> Drawn:
        """The next token of each text.

        Rows may be left out of later draws, unless a sampler has a state.

        Args:
            logits: (B, V), of the tokens to be drawn.
            ids: (B, T), the prompts and everything generated so far.
            rows: the number of each row's stream of uniform numbers.

        Raises:
            SettingError: a sampler gave something that cannot be drawn from.
        """
        return self._choose(logits) if self.greedy else self._sample(logits, ids, rows)

    def _choose(self, logits: Floats) -> Drawn:
        """The first maximum of each row."""
        best = logits.argmax(axis=-1)
        if not self._keep:
            return Drawn(best, [], [])
        certain = np.full_like(logits, -np.inf)
        np.put_along_axis(certain, best[:, None], 0.0, axis=-1)
        return Drawn(best, [], [logits, *[certain] * len(self._samplers)])

    def _sample(self, logits: Floats, ids: Ids, rows: Sequence[int]) -> Drawn:
        """Run the chain, draw, and tell the samplers."""
        import torch

        with torch.inference_mode():  # without the bookkeeping for gradients it takes a fifth less
            text, stages = torch.from_numpy(ids), [torch.from_numpy(logits)]
            self._contexts = self._contexts or [SamplingContext(text, self._prompt_length) for _ in self._samplers]
            for sampler, context in zip(self._samplers, self._contexts, strict=True):
                context.ids = text
                stages.append(same_shape(sampler, sampler(stages[-1], context), stages[-1]))
            check(self._samplers, stages)
            numbers = self._uniforms.at(ids.shape[1], rows)
            drawn = inverse(stages[-1], torch.from_numpy(np.array(numbers)[:, None]))[:, 0]
            for sampler, context in zip(self._samplers, self._contexts, strict=True):
                sampler.observe(drawn, context)
            return Drawn(drawn.numpy(), numbers, [stage.numpy() for stage in stages] if self._keep else [])


def same_shape(sampler: Sampler, result: Tensor, before: Tensor) -> Tensor:
    """A sampler's result, after making sure of its shape.

    Raises:
        SettingError: it is not that of the logits before.
    """
    if result.shape != before.shape:
        raise SettingError(f"sampler {type(sampler).__name__}: gave shape {tuple(result.shape)} for {tuple(before.shape)}")
    return result


def check(samplers: Sequence[Sampler], stages: Sequence[Tensor]) -> None:
    """Make sure that what a chain gave can be drawn from. Only when it cannot, look for the sampler that spoilt it.

    Args:
        samplers: the chain.
        stages: logits (B, V) before the first sampler and after each.

    Raises:
        SettingError: NaN or +inf, or nothing left to draw; names the sampler.
    """
    if drawable(stages[-1]):
        return
    for sampler, before, after in zip(samplers, stages, stages[1:], strict=False):
        if drawable(before) and not drawable(after):
            raise SettingError(f"sampler {type(sampler).__name__}: left nothing that can be drawn, or gave NaN")
    raise SettingError("the model's logits are NaN or infinite: it is damaged, or was trained until it diverged")
