"""Measure how varied samples are: whether a model says different things, or the same ones again and again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Variety:
    """How varied samples are.

    Attributes:
        distinct_1, distinct_2, distinct_3: different words, pairs and triples of words as a fraction of all (Li et al. 2016,
            section 5); they fall with the amount of text, so compare samples of equal size only.
        repetition: mean over the samples of the fraction of 4-grams of words that occurred before in the same sample.
    """

    distinct_1: float
    distinct_2: float
    distinct_3: float
    repetition: float


def variety(texts: Sequence[str]) -> Variety:
    """Return how varied texts are."""
    words = [_WORD.findall(text) for text in texts]
    one, two, three = (_distinct(list(chain.from_iterable(_ngrams(sample, n) for sample in words))) for n in (1, 2, 3))
    repeated = [1 - _distinct(_ngrams(sample, 4)) for sample in words]
    return Variety(one, two, three, sum(repeated) / max(1, len(repeated)))


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def _distinct(ngrams: Sequence[tuple[str, ...]]) -> float:
    """Return different n-grams as a fraction of all; 1 if there are none."""
    return len(set(ngrams)) / len(ngrams) if ngrams else 1.0
