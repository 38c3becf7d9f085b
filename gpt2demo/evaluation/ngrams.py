"""Interpolated modified Kneser-Ney smoothing: the strongest n-gram model, and a baseline for a neural one.

Chen & Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1999), section 3. Each order subtracts a
discount from its counts and gives the freed probability to the next lower order. The lower orders count the different contexts in
which an n-gram occurs. NumPy does all the work: counting a million tokens at order 5 takes a few seconds.

Legend for shapes: N = tokens of the text, M = different n-grams of one length, C = different contexts of one length.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.integer]

USUAL_DISCOUNTS = (0.5, 1.0, 1.5)  # for texts that are too short to estimate them
UNSEEN = -1


@dataclass(frozen=True)
class Grams:
    """The n-grams of one length in a text, numbered in the order of their keys.

    Attributes:
        keys: (M,) the number of the first n - 1 tokens, times the vocabulary size, plus the last token; ascending.
        numbers: (N,) number of the n-gram that ends at each position; UNSEEN at the first n - 1 positions.
        first: (M,) the first position where each ends.
        counts: (M,) number of occurrences.
    """

    keys: Array
    numbers: Array
    first: Array
    counts: Array


@dataclass(frozen=True)
class Order:
    """The estimates of one order.

    Attributes:
        keys: (M,) as in `Grams`.
        discounted: (M,) counts minus their discounts.
        totals: (C,) sum of the counts after each context.
        freed: (C,) sum of the discounts after each context.
    """

    keys: Array
    discounted: Floats
    totals: Floats
    freed: Floats


class KneserNey:
    """An n-gram model of a text.

    Args:
        ids: (N,) the training text.
        vocab_size: number of different ids.
        order: length of the longest n-grams, at least 1.
    """

    def __init__(self, ids: Ids, vocab_size: int, order: int) -> None:
        self.vocab_size = vocab_size
        tokens = ids.astype(np.int64)
        levels: list[Grams] = []
        contexts = np.zeros(len(tokens), np.int64)  # there is one context of length 0
        for _ in range(order):
            levels.append(_grams(contexts, tokens, vocab_size))
            contexts = _before(levels[-1].numbers)
        counts = [_contexts_of(shorter, longer) for shorter, longer in pairwise(levels)] + [levels[-1].counts]
        numbers_of_contexts = [1, *(len(level.keys) for level in levels[:-1])]
        self._orders = [
            _order(level.keys, count, level.keys // vocab_size, number)
            for level, count, number in zip(levels, counts, numbers_of_contexts, strict=True)
        ]

    def probabilities(self, ids: Ids) -> Floats:
        """Return the probability of each id of a text after those before it, (N,) -> (N,). The first one has no context."""
        tokens = ids.astype(np.int64)
        p = np.full(len(tokens), 1 / self.vocab_size)
        contexts = np.zeros(len(tokens), np.int64)
        for order in self._orders:
            seen = np.flatnonzero(contexts != UNSEEN)
            numbers = np.full(len(tokens), UNSEEN)
            numbers[seen] = _find(order.keys, contexts[seen] * self.vocab_size + tokens[seen])
            counted = seen[order.totals[contexts[seen]] > 0]  # a context at the start of the text alone counts as none
            context, found = contexts[counted], numbers[counted]
            own = np.where(found == UNSEEN, 0.0, order.discounted[found])
            p[counted] = (own + order.freed[context] * p[counted]) / order.totals[context]
            contexts = _before(numbers)
        return p

    def bits(self, ids: Ids) -> float:
        """Return the number of bits that the model needs for a text."""
        return float(-np.log2(self.probabilities(ids)).sum())


def _before(numbers: Array) -> Array:
    """Return the number of the n-gram that ends before each position, the context of the next longer one: (N,) -> (N,)."""
    return np.concatenate([np.full(1, UNSEEN), numbers[:-1]])


def _grams(contexts: Array, tokens: Array, vocab_size: int) -> Grams:
    """Number and count the n-grams that each consist of a context and a token."""
    places = np.flatnonzero(contexts != UNSEEN)
    keys = contexts[places] * vocab_size + tokens[places]
    unique, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    numbers = np.full(len(tokens), UNSEEN)
    numbers[places] = inverse
    return Grams(unique, numbers, places[first], counts)


def _contexts_of(shorter: Grams, longer: Grams) -> Array:
    """Return for each n-gram the number of different tokens that precede it in the text."""
    return np.bincount(shorter.numbers[longer.first], minlength=len(shorter.keys))


def _order(keys: Array, counts: Array, contexts: Array, number: int) -> Order:
    """Discount the counts, and add up the counts and discounts of each of the `number` contexts."""
    discounts = np.array([0.0, *_discounts(counts)])[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts, minlength=number).astype(np.float64)
    freed = np.bincount(contexts, discounts, minlength=number).astype(np.float64)
    return Order(keys, counts - discounts, totals, freed)


def _discounts(counts: Array) -> tuple[float, ...]:
    """Return the discounts of the counts 1, 2, and 3 or more (section 3, equation 26)."""
    n1, n2, n3, n4 = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if not all((n1, n2, n3, n4)):
        return USUAL_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0 < discount < count for count, discount in enumerate(found, 1)) else USUAL_DISCOUNTS


def _find(keys: Array, wanted: Array) -> Array:
    """Return the index of each value in ascending keys, or UNSEEN."""
    if not len(keys):
        return np.full(len(wanted), UNSEEN)
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[index] == wanted, index, UNSEEN)
