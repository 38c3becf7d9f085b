"""Modified Kneser-Ney: equal to a plain implementation, a distribution, and as good as its authors promise."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2demo.evaluation.ngrams import USUAL_DISCOUNTS, KneserNey

TEXT = np.random.default_rng(0).zipf(1.3, 400) % 7


def reference(train: list[int], text: list[int], vocab_size: int, order: int) -> list[float]:
    """Compute the probabilities with dictionaries, after Chen & Goodman (1999), equations 21 to 27."""
    counts = []
    for n in range(1, order + 1):
        grams = Counter(tuple(train[i : i + n]) for i in range(len(train) - n + 1))
        if n < order:
            longer = {tuple(train[i : i + n + 1]) for i in range(len(train) - n)}
            preceded = Counter(gram[1:] for gram in longer)
            grams = Counter({gram: preceded[gram] for gram in grams})
        counts.append(grams)

    def discounts(grams: Counter[tuple[int, ...]]) -> tuple[float, ...]:
        n1, n2, n3, n4 = (sum(count == value for count in grams.values()) for value in (1, 2, 3, 4))
        if not all((n1, n2, n3, n4)):
            return USUAL_DISCOUNTS
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return found if all(0 < d < value for value, d in zip((1, 2, 3), found, strict=True)) else USUAL_DISCOUNTS

    steps = [(0.0, *discounts(grams)) for grams in counts]
    after: list[dict[tuple[int, ...], dict[int, int]]] = [defaultdict(dict) for _ in counts]
    for level, grams in enumerate(counts):
        for gram, count in grams.items():
            after[level][gram[:-1]][gram[-1]] = count

    def probability(token: int, context: tuple[int, ...]) -> float:
        if not context and not after[0][()]:
            return 1 / vocab_size
        level = len(context)
        lower = probability(token, context[1:]) if context else 1 / vocab_size
        followers = after[level].get(context, {})
        total = sum(followers.values())
        if not total:
            return lower
        step = [steps[level][min(count, 3)] for count in followers.values()]
        own = followers.get(token, 0) - steps[level][min(followers.get(token, 0), 3)]
        return (own + sum(step) * lower) / total

    return [probability(token, tuple(text[max(0, i - order + 1) : i])) for i, token in enumerate(text)]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_equal_a_plain_implementation(order: int) -> None:
    train, text = TEXT[:300], TEXT[300:]
    expected = reference(train.tolist(), text.tolist(), 7, order)
    assert KneserNey(train, 7, order).probabilities(text) == pytest.approx(expected, rel=1e-12)


@given(
    train=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    text=st.lists(st.integers(0, 3), min_size=1, max_size=10),
    order=st.integers(1, 4),
)
def test_short_texts_equal_a_plain_implementation(train: list[int], text: list[int], order: int) -> None:
    found = KneserNey(np.array(train), 4, order).probabilities(np.array(text))
    assert found == pytest.approx(reference(train, text, 4, order), rel=1e-12)


@given(train=st.lists(st.integers(0, 4), min_size=1, max_size=50), context=st.lists(st.integers(0, 4), max_size=4))
def test_probabilities_after_any_context_sum_to_1(train: list[int], context: list[int]) -> None:
    model = KneserNey(np.array(train), 5, 4)
    total = sum(model.probabilities(np.array([*context, token]))[-1] for token in range(5))
    assert total == pytest.approx(1.0, rel=1e-12)


def test_a_longer_context_helps_where_the_text_is_regular() -> None:
    text = np.tile([0, 1, 0, 2, 0, 3], 50)
    bits = [KneserNey(text[:200], 4, order).bits(text[200:]) for order in (1, 2, 3)]
    assert bits[0] > bits[1] > 2 * bits[2]
