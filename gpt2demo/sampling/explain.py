"""What a draw looked like from inside: the likelihood of the token, and what each sampler left of the distribution.

The classes are plain data: `dataclasses.asdict` gives their JSON. Logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo.interfaces import Decoder
from gpt2demo.sampling.draw import Drawn

SHOWN = 10
"""How many entries of a distribution an explanation holds."""
Logprobs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Alternative:
    """One of the likeliest tokens."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a drawn token was.

    Attributes:
        id: the token.
        text: what it says alone.
        logprob: in the model's own distribution, before any sampler.
        drawn_logprob: in the distribution that it was drawn from.
        alternatives: the likeliest tokens of the model's own distribution, the likeliest first.
    """

    id: int
    text: str
    logprob: float
    drawn_logprob: float
    alternatives: list[Alternative]


@dataclass(frozen=True)
class Share:
    """A token and its probability."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Stage:
    """A distribution on its way through the chain.

    Attributes:
        sampler: what made it, in `NAME:key=value` form; `model` for the one before the chain.
        remaining: how many tokens have not been ruled out.
        top: the likeliest of them, at most `SHOWN`.
    """

    sampler: str
    remaining: int
    top: list[Share]


@dataclass(frozen=True)
class Explanation:
    """How a token came to be drawn.

    Attributes:
        id: the token.
        text: what it says alone.
        uniform: the number in [0, 1) that chose it; None where it was the only one possible and no number was asked for.
        stages: the distribution before the chain and after every sampler.
    """

    id: int
    text: str
    uniform: float | None
    stages: list[Stage]


def token_logprob(tokenizer: Decoder, drawn: Drawn, place: int, count: int) -> TokenLogprob:
    """The likelihood of what was drawn in one row, with `count` alternatives. The draw must have kept its stages."""
    index = int(drawn.ids[place])
    own, last = log_softmax(drawn.stages[0][place]), log_softmax(drawn.stages[-1][place])
    others = [Alternative(i, tokenizer.decode([i]), float(own[i])) for i in likeliest(own, count)]
    return TokenLogprob(index, tokenizer.decode([index]), float(own[index]), float(last[index]), others)


def explanation(tokenizer: Decoder, drawn: Drawn, place: int, chain: Sequence[str]) -> Explanation:
    """How one row's token came to be drawn by the samplers of this chain. The draw must have kept its stages."""
    index = int(drawn.ids[place])
    stages = [_stage(tokenizer, name, logits[place]) for name, logits in zip(("model", *chain), drawn.stages, strict=True)]
    return Explanation(index, tokenizer.decode([index]), drawn.uniforms[place] if drawn.uniforms else None, stages)


def _stage(tokenizer: Decoder, sampler: str, logits: npt.NDArray[Any]) -> Stage:
    left = log_softmax(logits)
    top = [Share(i, tokenizer.decode([i]), float(np.exp(left[i]))) for i in likeliest(left, SHOWN)]
    return Stage(sampler, int((left > -np.inf).sum()), top)


def log_softmax(logits: npt.NDArray[Any]) -> Logprobs:
    """Log-probabilities of logits (V,), in float64; -inf for what is ruled out."""
    shifted = logits.astype(np.float64) - logits.max()
    result: Logprobs = shifted - np.log(np.exp(shifted).sum())
    return result


def likeliest(logprobs: Logprobs, count: int) -> list[int]:
    """The ids of the `count` largest, in descending order, among equal ones the lowest id first; none that is ruled out."""
    order = np.argsort(-logprobs, kind="stable")[:count]
    return [int(i) for i in order if logprobs[i] > -np.inf]
