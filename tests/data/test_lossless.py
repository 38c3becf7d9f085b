"""A tokenizer that loses text is reported on the user's own text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest

from gpt2demo.data.lossless import MAX_CHARACTERS, warn_of_losses
from gpt2demo.errors import TokenizerError
from gpt2demo.tokenization.byte import ByteTokenizer


class LowerCase(ByteTokenizer):
    """Replaces capital letters, and refuses a digit."""

    def encode(self, text: str) -> list[int]:
        if "7" in text:
            raise TokenizerError("cannot encode '7'")
        return super().encode(text.lower())


class Truncates(ByteTokenizer):
    """Loses the last character."""

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids)[:-1]


class Declared(LowerCase):
    lossless = False


def test_the_first_difference_is_shown() -> None:
    with pytest.warns(UserWarning, match="lower") as caught:
        warn_of_losses("lower", LowerCase(), ["abc", "one Two Three", "Four"])
    (warning,) = caught
    assert str(warning.message) == (
        "tokenizer 'lower' does not reproduce the text: document 2, character 5: 'Two Three' becomes 'two three'"
    )


def test_a_missing_end_is_shown() -> None:
    with pytest.warns(UserWarning, match="document 1, character 3: 'c' becomes ''"):
        warn_of_losses("short", Truncates(), ["abc"])


@pytest.mark.parametrize(
    ("tokenizer", "documents"),
    [
        (ByteTokenizer(), ["Any 7 text\r\n", "\0é🙂"]),
        (Declared(), ["One Two"]),
        (LowerCase(), ["7 A"]),
        (LowerCase(), ["a" * 20_000] * (MAX_CHARACTERS // 20_000) + ["A"]),
        (LowerCase(), []),
    ],
    ids=["lossless", "declared", "refused", "beyond the limit", "no text"],
)
def test_nothing_is_reported(tokenizer: ByteTokenizer, documents: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_losses("it", tokenizer, documents)
