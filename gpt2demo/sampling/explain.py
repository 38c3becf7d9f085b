"""Explanations of a draw: the token's log-probability, and the distribution after each sampler.

The classes are plain data: `dataclasses.asdict` returns their JSON. Logarithms are natural.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo.interfaces import Decoder
from gpt2demo.metrics import log_softmax
from gpt2demo.sampling.chains import Chain
from gpt2demo.sampling.draw import Drawn

SHOWN = 10
"""Maximum number of tokens of a distribution in an explanation."""
Logprobs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Alternative:
    """One of the most likely tokens."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of a drawn token.

    Attributes:
        id: the token.
        text: its text when decoded alone.
        logprob: in the model's distribution, before any sampler.
        drawn_logprob: in the distribution that it was drawn from.
        alternatives: the most likely tokens of the model's distribution, in descending order.
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
    """A distribution before or after a sampler.

    Attributes:
        sampler: the sampler before it, in `NAME:key=value` form; `model` for the one before the chain.
        remaining: number of tokens that are not ruled out.
        top: the most likely of them, at most `SHOWN`.
    """

    sampler: str
    remaining: int
    top: list[Share]


@dataclass(frozen=True)
class Interval:
    """A token's part of [0, 1): the cumulative probability, in the order of ids, before it and with it."""

    id: int
    text: str
    low: float
    high: float


@dataclass(frozen=True)
class Explanation:
    """How a token was drawn.

    Attributes:
        id: the token.
        text: its text when decoded alone.
        uniform: the random number in [0, 1); None for a greedy choice.
        stages: the distributions before the chain and after each sampler.
        intervals: of the most likely tokens after the last sampler and of the drawn one, in the order of ids; the number is
            in the drawn token's interval.
    """

    id: int
    text: str
    uniform: float | None
    stages: list[Stage]
    intervals: list[Interval]


def token_logprob(tokenizer: Decoder, drawn: Drawn, place: int, count: int) -> TokenLogprob:
    """Return the log-probability of the token drawn in the row at `place`, with `count` alternatives. Requires `Drawn.stages`."""
    index = int(drawn.ids[place])
    model, last = log_softmax(drawn.stages[0][place]), log_softmax(drawn.stages[-1][place])
    alternatives = [Alternative(i, tokenizer.decode([i]), float(model[i])) for i in likeliest(model, count)]
    return TokenLogprob(index, tokenizer.decode([index]), float(model[index]), float(last[index]), alternatives)


def explanation(tokenizer: Decoder, drawn: Drawn, place: int, chain: Chain) -> Explanation:
    """Return how the token in the row at `place` was drawn with this chain. Requires `Drawn.stages`."""
    index = int(drawn.ids[place])
    names = ["model", *(item.spec for item in chain)]
    stages = [_stage(tokenizer, name, logits[place]) for name, logits in zip(names, drawn.stages, strict=True)]
    uniform = drawn.uniforms[place] if drawn.uniforms else None
    shown = sorted({index, *(share.id for share in stages[-1].top)})
    return Explanation(index, tokenizer.decode([index]), uniform, stages, _intervals(tokenizer, drawn.stages[-1][place], shown))


def _stage(tokenizer: Decoder, sampler: str, logits: npt.NDArray[Any]) -> Stage:
    logprobs = log_softmax(logits)
    top = [Share(i, tokenizer.decode([i]), float(np.exp(logprobs[i]))) for i in likeliest(logprobs, SHOWN)]
    return Stage(sampler, int((logprobs > -np.inf).sum()), top)


def _intervals(tokenizer: Decoder, logits: npt.NDArray[Any], ids: list[int]) -> list[Interval]:
    """Return the intervals of some tokens, as the draw adds them up."""
    sums = np.concatenate([[0.0], np.cumsum(np.exp(log_softmax(logits)))])
    return [Interval(i, tokenizer.decode([i]), float(sums[i]), float(sums[i + 1])) for i in ids]


def likeliest(logprobs: Logprobs, count: int) -> list[int]:
    """Return the ids of the `count` largest, in descending order; among equal ones the lowest id first. Skip those ruled out."""
    order = np.argsort(-logprobs, kind="stable")[:count]
    return [int(i) for i in order if logprobs[i] > -np.inf]
