"""Properties of samples: variety, and the sentences of the example stories."""

from __future__ import annotations

import pytest

from gpt2demo.data import tales
from gpt2demo.evaluation import fables
from gpt2demo.evaluation.variety import Variety, variety


def test_variety_is_the_share_of_different_ngrams() -> None:
    found = variety(["the cat and the dog", "the cat"])
    assert found.distinct_1 == pytest.approx(4 / 7)  # the, cat, and, dog
    assert found.distinct_2 == pytest.approx(4 / 5)  # "the cat" stands in both
    assert found.distinct_3 == 1.0
    assert found.repetition == 0.0


def test_a_repeated_sentence_is_repetition() -> None:
    assert variety(["one two three four " * 10]).repetition > 0.8
    assert variety(["one two three four five six"]).repetition == 0.0


def test_short_and_empty_samples_have_full_variety() -> None:
    assert variety([""]) == variety([]) == Variety(1.0, 1.0, 1.0, 0.0)


def test_the_grammar_accepts_its_own_stories_of_any_seed() -> None:
    assert fables.accepted(tales.story(number, seed=7) for number in range(200)) == 1.0


@pytest.mark.parametrize(
    "sentence",
    [
        "Luna looked under every stone, but the red mirror was gone.",  # a mirror is not lost
        "Once upon a time, there was an shy fox named Pip who baked a plum cake.",
        "Once upon a time, there was a owl.",
        "Pip Pip put on a hat.",
        "Colorless green ideas sleep furiously.",
    ],
)
def test_the_grammar_refuses_other_sentences(sentence: str) -> None:
    assert fables.accepted([sentence]) == 0.0


def test_an_unfinished_sentence_does_not_count() -> None:
    story = tales.story(3)
    assert fables.accepted([story[:-20]]) == 1.0
    assert fables.accepted(["no end"]) is None
