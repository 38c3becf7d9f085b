"""Byte-level BPE: tiktoken encodes to the same ids as `tokenizers`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import reference_tokenizer

from gpt2demo.errors import DataError, SettingError, TokenizerError
from gpt2demo.plugins import train_tokenizer
from gpt2demo.testing.tokenizers import FRAGMENTS, PROSE, anything, some
from gpt2demo.tokenization.bpe import CHUNK, END, MAX_TOKEN_LENGTH, MAX_WORD, BpeTokenizer, chunks, training_chunks

fragments = st.lists(st.sampled_from([*FRAGMENTS, *" \n\t\r", "  ", "a", "'s", "1", "!"]), max_size=40).map("".join)
difficult = st.one_of(anything, fragments)


# Encoding


def test_the_ids_equal_those_of_tokenizers(bpe_tokenizer: BpeTokenizer, stored: dict[str, Any]) -> None:
    reference = reference_tokenizer(stored)

    @settings(some, max_examples=400)
    @given(text=difficult)
    def check(text: str) -> None:
        assert bpe_tokenizer.encode(text) == reference.encode(text).ids

    check()


def test_every_character_has_the_same_class_as_in_tokenizers(bpe_tokenizer: BpeTokenizer, stored: dict[str, Any]) -> None:
    """Each character occurs next to a letter, a digit, a sign and whitespace: its class determines the boundaries."""
    characters = [chr(code) for code in [*range(0x3000), *range(0xFE00, 0x10000), *range(0x1F300, 0x1F700)]]
    texts = ["".join(f"a{c}b 1{c}1!{c}!  {c} {c}{c}x" for c in characters[i : i + 64]) for i in range(0, len(characters), 64)]
    expected = [encoding.ids for encoding in reference_tokenizer(stored).encode_batch(texts)]
    assert [bpe_tokenizer.encode(text) for text in texts] == expected


@pytest.mark.parametrize("size", [1, 7, 50])
def test_the_ids_of_chunks_are_the_ids_of_the_text(size: int, bpe_tokenizer: BpeTokenizer) -> None:
    @settings(some)
    @given(text=difficult)
    def check(text: str) -> None:
        pieces = list(chunks(text, size))
        assert "".join(pieces) == text
        assert [index for piece in pieces for index in bpe_tokenizer.encode(piece)] == bpe_tokenizer.encode(text)

    check()


def test_a_text_of_several_chunks_has_the_ids_of_tokenizers(bpe_tokenizer: BpeTokenizer, stored: dict[str, Any]) -> None:
    text = "".join(FRAGMENTS)
    text *= 1 + 5 * CHUNK // (4 * len(text))
    assert len(list(chunks(text, CHUNK))) >= 2
    assert bpe_tokenizer.encode(text) == reference_tokenizer(stored).encode(text).ids


def test_a_literal_end_of_text_is_encoded_as_text(bpe_tokenizer: BpeTokenizer) -> None:
    ids = bpe_tokenizer.encode(f"a{END}{END}b")
    assert bpe_tokenizer.eos_id not in ids
    assert bpe_tokenizer.decode(ids) == f"a{END}{END}b"


@pytest.mark.parametrize(
    "text", [" " * 10**6 + "a", "a" + " \n" * 500_000 + "a", ("x" + " " * 250_000) * 4 + "y"], ids=["run", "lines", "gaps"]
)
def test_a_megabyte_of_whitespace_does_not_overflow_the_stack(text: str, bpe_tokenizer: BpeTokenizer) -> None:
    """The look-ahead of tiktoken panics at a million whitespace characters in one text."""
    assert bpe_tokenizer.decode(bpe_tokenizer.encode(text)) == text


def test_encoding_is_four_times_as_fast_as_a_batch_of_tokenizers(bpe_tokenizer: BpeTokenizer, stored: dict[str, Any]) -> None:
    documents = [(PROSE + FRAGMENTS[i % 20]) * 40 for i in range(30)]
    reference = reference_tokenizer(stored)
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        reference.encode_batch(documents)
        middle = time.perf_counter()
        for document in documents:
            bpe_tokenizer.encode_array(document)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    assert max(ratios) > 4, ratios


# Training


def test_the_vocabulary_is_bytes_then_merges_then_the_end_of_text() -> None:
    tokenizer = BpeTokenizer.train([PROSE * 50], vocab_size=300)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (300, 299)
    assert tokenizer.decode([299]) == END
    single = {tokenizer.decode([index]) for index in range(256)}
    assert {chr(byte) for byte in range(128)} < single, "bytes above 127 are not characters"


def test_the_vocabulary_is_smaller_if_no_pair_occurs_twice() -> None:
    assert BpeTokenizer.train([], vocab_size=257).vocab_size == 257
    assert BpeTokenizer.train(["ab"]).vocab_size == 257


def test_frequent_words_become_single_tokens(bpe_tokenizer: BpeTokenizer) -> None:
    assert len(bpe_tokenizer.encode(PROSE)) < len(PROSE) / 2
    assert len(bpe_tokenizer.encode(" miller")) == 1


def test_training_accepts_options_as_text() -> None:
    assert train_tokenizer("bpe", [PROSE * 9], {"vocab_size": "280"}).vocab_size == 280
    with pytest.raises(SettingError, match="tokenizer 'bpe': vocab_size='256': .*greater than or equal to 257"):
        train_tokenizer("bpe", [PROSE], {"vocab_size": "256"})


def test_training_on_a_megabyte_without_boundaries_takes_seconds() -> None:
    """Training time is quadratic in the length of a word: hours for this text."""
    start = time.perf_counter()
    tokenizer = BpeTokenizer.train(["ab" * 500_000 + " " * 500_000 + "c"])
    assert time.perf_counter() - start < 30
    assert max(len(tokenizer.decode([index])) for index in range(tokenizer.vocab_size - 1)) <= MAX_TOKEN_LENGTH
    assert max(map(len, training_chunks(["x" * 10**6]))) <= MAX_WORD


def test_an_error_while_reading_the_texts_is_raised_unchanged() -> None:
    def texts() -> Iterator[str]:
        yield PROSE
        raise DataError("file.txt: is not text")

    with pytest.raises(DataError, match=r"file\.txt"):
        BpeTokenizer.train(texts())


def test_a_lone_surrogate_in_the_texts_is_refused() -> None:
    with pytest.raises(TokenizerError, match="lone surrogate"):
        BpeTokenizer.train(["fine", "a\ud800"])
