"""Scores of attention heads: how much of its attention a head gives to the positions that known kinds of heads attend to.

Olsson et al., "In-context Learning and Induction Heads" (2022). `Chance` has the scores of attention that is spread evenly over
all earlier positions: a head is of a kind only if it is far above that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2demo.inspection.trace import Trace, trace
from gpt2demo.model import GPT2

REPEATED = 64  # longest random sequence that is read twice to find induction heads
SEED = 0


@dataclass(frozen=True)
class HeadScores:
    """The scores of a head, each a mean share of attention in [0, 1].

    Attributes:
        layer, head: counted from 0.
        previous_token: on the position before.
        first_token: on the first position, where heads rest that find nothing to attend to.
        induction: in random tokens that are read twice, on the position after the same token's first occurrence.
    """

    layer: int
    head: int
    previous_token: float
    first_token: float
    induction: float


@dataclass(frozen=True)
class Chance:
    """The same scores if attention were spread evenly."""

    previous_token: float
    first_token: float
    induction: float


def head_scores(found: Trace, model: GPT2) -> tuple[list[HeadScores], Chance]:
    """Return the scores of all heads, and those of even attention.

    Args:
        found: a trace of the text for the first two scores; with a single position they are 0.
        model: the model, which reads another text for the induction score.
    """
    length = min(REPEATED, model.config.n_positions // 2)
    repeated = trace(model, repeated_tokens(length, model.config.vocab_size))
    scores = []
    for layer in range(found.config.n_layer):
        text, twice = found.attention(layer), repeated.attention(layer)
        columns = zip(*(part.tolist() for part in _parts(text, twice, length)), strict=True)
        scores += [HeadScores(layer, head, *values) for head, values in enumerate(columns)]
    even, even_twice = _even(len(found.ids)), _even(2 * length)
    return scores, Chance(*(float(part) for part in _parts(even, even_twice, length)))


def repeated_tokens(length: int, vocab_size: int) -> list[int]:
    """Return random tokens, followed by the same ones again."""
    generator = torch.Generator().manual_seed(SEED)
    tokens: list[int] = torch.randint(vocab_size, (length,), generator=generator).tolist()
    return tokens + tokens


def _parts(text: Tensor, twice: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three scores of each head: (H, T, T) and (H, 2 length, 2 length) -> (H,) each."""
    previous = text.diagonal(-1, -2, -1)  # (H, T - 1)
    first = text[:, 1:, 0]
    induction = twice.diagonal(1 - length, -2, -1)  # row i, column i - length + 1
    return _mean(previous), _mean(first), _mean(induction)


def _mean(weights: Tensor) -> Tensor:
    """Return the mean over the last dimension; 0 if it is empty."""
    return weights.mean(-1) if weights.shape[-1] else weights.new_zeros(len(weights))


def _even(length: int) -> Tensor:
    """Return attention that is spread evenly over all earlier positions: (1, T, T)."""
    return (torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None])[None]
