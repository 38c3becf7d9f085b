"""Streaming decode: characters are complete, and no part of a stop text is returned."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gpt2demo.generation.streaming import StopText, StreamDecoder


class SpacedTokenizer:
    """A tokenizer that drops the space before the first word of a text."""

    vocab_size = 3
    eos_id = None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join([" one", " two", "!"][i] for i in ids).removeprefix(" ")


def test_pieces_join_to_the_text_decoded_at_once() -> None:
    tokenizer, ids = SpacedTokenizer(), [0, 1, 2, 0, 0]
    decoder = StreamDecoder(tokenizer)
    assert "".join([decoder.push(i) for i in ids] + [decoder.flush()]) == tokenizer.decode(ids) == "one two! one one"


@pytest.mark.parametrize(
    ("stops", "pushed", "returned"),
    [
        (["<end>"], ["a<", "e", "x<en", "d>tail"], ["a", "", "<ex", ""]),
        (["ab", "b"], ["a", "a", "b"], ["", "a", ""]),
    ],
)
def test_a_stop_text_is_found_across_pieces(stops: list[str], pushed: list[str], returned: list[str]) -> None:
    stop = StopText(stops)
    assert [stop.push(piece) for piece in pushed] == returned
    assert stop.found


def test_text_that_is_not_a_stop_text_is_returned_at_the_end() -> None:
    stop = StopText(["<end>"])
    assert (stop.push("a<en"), stop.flush(), stop.found) == ("a", "<en", False)
