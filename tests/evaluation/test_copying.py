"""Copied text: runs of bytes that stand in a source."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2demo.evaluation.copying import COPIED_RUN, Copied, Source

NOISE = random.Random(0).randbytes(5000)
SOURCE = Source(NOISE)
FEW = st.text("ab", max_size=40).map(str.encode)


@given(source=FEW, text=FEW)
def test_the_longest_run_is_the_longest_common_substring(source: bytes, text: bytes) -> None:
    ends = ((start, stop) for start in range(len(text)) for stop in range(start + 1, len(text) + 1))
    assert Source(source).longest(text) == max((stop - start for start, stop in ends if text[start:stop] in source), default=0)


@pytest.mark.parametrize(("length", "copied"), [(COPIED_RUN - 1, 0), (COPIED_RUN, COPIED_RUN), (3000, 3000)])
def test_only_long_runs_count_as_copied(length: int, copied: int) -> None:
    text = b"before" + NOISE[1000 : 1000 + length] + b"after"
    mask = SOURCE.mask(text)
    assert mask.sum() == copied
    assert not copied or mask[6 : 6 + length].all()
    assert SOURCE.longest(text) == length


def test_two_adjacent_runs_are_both_copied() -> None:
    text = NOISE[:60] + NOISE[2000:2070]
    assert SOURCE.measure(text) == Copied(share=1.0, longest=70)


def test_a_run_in_the_source_is_found_wherever_it_stands() -> None:
    assert SOURCE.measure(NOISE[-COPIED_RUN:]) == Copied(1.0, COPIED_RUN)
    assert SOURCE.measure(NOISE) == Copied(1.0, len(NOISE))


def test_spans_are_in_characters() -> None:
    line = "Zoë said that the naïve café owner had gone to the coast. "
    source, text = Source(f"… {line}…".encode()), f"Ünrelated: {line}— and more"
    [(start, end)] = source.spans(text)
    assert text[start:end].strip() == line.strip()
    assert source.spans("nothing of it") == []


@pytest.mark.parametrize(("source", "text"), [(b"", b"text"), (b"text", b""), (b"", b"")])
def test_nothing_is_copied_from_or_into_an_empty_text(source: bytes, text: bytes) -> None:
    assert Source(source).measure(text) == Copied(0.0, 0)
