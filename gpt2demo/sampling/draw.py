"""The draw of the next token: run the sampler chain, then invert the distribution at one uniform random number per row.

torch is imported only where a chain is run: greedy choices and the random numbers do not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2demo import plugins
from gpt2demo.errors import SettingError
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.basic import MIN_TEMPERATURE, Temperature, drawable
from gpt2demo.sampling.chains import Chain
from gpt2demo.sampling.ranking import SMALL, Ranking, by_id, on_gpu, run_sampler

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Uniforms:
    """Uniform random numbers in [0, 1) with 24 bits, exact in float32. Each depends only on (seed, row, position).

    The numbers come from a counter-based generator (Philox, Salmon et al. 2011), so the same seed gives the same tokens on every
    engine and at every batch size. An object must not be shared between threads.

    Args:
        seed: the key of the generator.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Philox(key=seed, counter=[0, 0, 0, 0])
        self._state: Any = self._generator.state
        self._counter = self._state["state"]["counter"]

    def at(self, position: int, rows: Sequence[int]) -> list[float]:
        """Return the numbers of a position, one per row."""
        return [self._number(position, row) for row in rows]

    def _number(self, position: int, row: int) -> float:
        self._counter[2], self._counter[3] = position, row
        self._generator.state = self._state  # five times as fast as a new generator
        return (int(self._generator.random_raw()) >> 40) / 2**24


def inverse(logits: Tensor, uniform: Tensor, ranking: Ranking | None = None) -> Tensor:
    """Return the first id of each row whose cumulative probability exceeds the row's number. Sums are in float64.

    Args:
        logits: (B, V) float32, -inf for tokens that are ruled out.
        uniform: (B, 1) float64, in [0, 1).
        ranking: the ranking of these logits, if known.

    Returns:
        (B, 1) int64.
    """
    if ranking is None or logits.shape[-1] <= SMALL or (ranking.size is None and ranking.ids.shape[-1] == logits.shape[-1]):
        return first_above(logits.double().softmax(dim=-1).cumsum(dim=-1), uniform)
    # Only the tokens that are left: of 50,257 this takes a tenth of the time of all, of 256 it would take twice as long.
    values, ids = by_id(ranking)  # (B, n)
    return ids.gather(-1, first_above(values.double().softmax(dim=-1).cumsum(dim=-1), uniform))


def first_above(sums: Tensor, marks: Tensor) -> Tensor:
    """Return the first index at which each ascending row of (B, n) exceeds its mark in (B, 1): (B, 1) int64."""
    import torch

    if torch.compiler.is_compiling():  # ONNX has no binary search
        return (sums <= marks).float().sum(dim=-1, keepdim=True).long()  # a float: NVIDIA GPUs have no integer argmax
    return torch.searchsorted(sums, marks, right=True)


class Drawn(NamedTuple):
    """The result of a draw for B rows.

    Attributes:
        ids: (B,) int64.
        uniforms: each row's random number; empty for a greedy choice, which needs none.
        stages: logits (B, V) before the chain and after each sampler; empty unless requested.
    """

    ids: Ids
    uniforms: list[float]
    stages: list[Floats]


class ChainRunner:
    """Draws the next tokens of texts of equal length with a sampler chain, and keeps the samplers' states.

    If the first sampler is a temperature of 0, one token is left and no later sampler can change that. Then none is called, and
    torch is not imported.

    Args:
        chain: the samplers, in the order in which they are called.
        uniforms: the random numbers.
        prompt_length: in tokens.
        keep_stages: whether `Drawn` has the stages.

    Attributes:
        greedy: whether the first sampler is a temperature of 0.
    """

    def __init__(self, chain: Chain, uniforms: Uniforms, prompt_length: int, *, keep_stages: bool = False) -> None:
        self._chain = chain
        self._samplers = [item.sampler for item in chain]
        self._guards = [plugins.Guard("samplers", item.name, "__call__") for item in chain]
        self._observers = [index for index, item in enumerate(chain) if type(item.sampler).observe is not Sampler.observe]
        self._uniforms = uniforms
        self._prompt_length = prompt_length
        self._keep_stages = keep_stages
        self._contexts: list[SamplingContext] = []
        first = next(iter(self._samplers), None)
        self.greedy = isinstance(first, Temperature) and first.value < MIN_TEMPERATURE

    def draw(self, logits: Floats | Tensor, ids: Ids, rows: Sequence[int]) -> Drawn:
        """Draw the next token of each text.

        Rows may be left out of later draws unless a sampler has a state. The samplers run where the logits are; on a GPU, only
        the drawn ids are copied to the host, unless a sampler waits for a value.

        Args:
            logits: (B, V), of the tokens to draw: an array or, unless stages are kept, a tensor on a GPU.
            ids: (B, T), the prompts and everything generated so far.
            rows: each row's number in the random stream.

        Raises:
            PluginFailure: a sampler raised an exception, or returned logits that cannot be drawn from.
            SettingError: the model's logits cannot be drawn from.
        """
        return self._choose(logits) if self.greedy else self._sample(logits, ids, rows)

    def _choose(self, logits: Floats | Tensor) -> Drawn:
        """Return the first maximum of each row."""
        if not isinstance(logits, np.ndarray):
            return Drawn(logits.argmax(dim=-1).cpu().numpy(), [], [])
        best = logits.argmax(axis=-1)
        if not self._keep_stages:
            return Drawn(best, [], [])
        certain = np.full_like(logits, -np.inf)
        np.put_along_axis(certain, best[:, None], 0.0, axis=-1)
        return Drawn(best, [], [logits, *[certain] * len(self._samplers)])

    def _sample(self, logits: Floats | Tensor, ids: Ids, rows: Sequence[int]) -> Drawn:
        """Run the chain, draw, and let the samplers observe the result."""
        import torch

        with torch.inference_mode():  # a fifth faster than with gradient tracking
            first = torch.from_numpy(logits) if isinstance(logits, np.ndarray) else logits
            text, stages, ranking = torch.from_numpy(ids), [first], None
            waits = on_gpu(first)  # what the chain computes is read once, at the end
            if waits:
                text = text.to(first.device, non_blocking=True)
            self._contexts = self._contexts or [SamplingContext(text, self._prompt_length) for _ in self._samplers]
            for sampler, guard, context in zip(self._samplers, self._guards, self._contexts, strict=True):
                context.ids = text
                with guard:
                    result, ranking = run_sampler(sampler, stages[-1], context, ranking)
                    check_logits(result, stages[-1])
                stages.append(result)
            if not waits:
                check_drawable(self._chain, stages)
            numbers = self._uniforms.at(ids.shape[1], rows)
            uniform = torch.from_numpy(np.array(numbers)[:, None])
            drawn = inverse(stages[-1], uniform.to(first.device, non_blocking=True) if waits else uniform, ranking)[:, 0]
            for index in self._observers:
                with plugins.Guard("samplers", self._chain[index].name, "observe"):
                    self._samplers[index].observe(drawn, self._contexts[index])
            if waits:  # whether they can be drawn is read with the ids
                drawn = drawn.where(stages[-1].amax(dim=-1).isfinite(), -1).cpu()
                if drawn.min() < 0:
                    check_drawable(self._chain, stages)
            return Drawn(drawn.numpy(), numbers, [stage.numpy() for stage in stages] if self._keep_stages else [])


def check_logits(result: Any, logits: Tensor) -> None:
    """Check the type, shape, dtype and device of a sampler's result.

    Raises:
        WrongResultError: they are not those of the logits before.
    """
    if not isinstance(result, type(logits)):
        plugins.check_result(False, result, "a tensor")
    if result.shape != logits.shape or result.dtype != logits.dtype:
        found, expected = (f"{one.dtype} of shape {tuple(one.shape)}" for one in (result, logits))
        raise plugins.WrongResultError(f"returned {found}, not {expected}")
    if result.device != logits.device:
        raise plugins.WrongResultError(f"returned a tensor on {result.device}, not on {logits.device}")


def check_drawable(chain: Chain, stages: Sequence[Tensor]) -> None:
    """Check that the result of a chain can be drawn from. Only if it cannot, find the sampler at fault.

    Args:
        chain: the samplers.
        stages: logits (B, V) before the first sampler and after each.

    Raises:
        PluginFailure: the result contains NaN or +inf, or no token is left; the message names the sampler.
        SettingError: the model's logits contain NaN or +inf.
    """
    if drawable(stages[-1]):
        return
    for item, before, after in zip(chain, stages, stages[1:], strict=False):
        if drawable(before) and not drawable(after):
            with plugins.Guard("samplers", item.name, "__call__"):
                raise plugins.WrongResultError("returned NaN or +inf, or left no token to draw")
    raise SettingError("the model's logits are NaN or infinite: it is damaged, or its training diverged")
