"""The byte and character tokenizers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gpt2demo.errors import TokenizerError
from gpt2demo.testing.tokenizers import TEXTS
from gpt2demo.tokenization.byte import ByteTokenizer, byte_symbols
from gpt2demo.tokenization.char import CharTokenizer


@pytest.mark.parametrize("cls", [ByteTokenizer, CharTokenizer])
def test_encoding_exceeds_100_megabytes_per_second(cls: type[ByteTokenizer | CharTokenizer]) -> None:
    text = (TEXTS[0] + "é🙂") * 500
    tokenizer = cls.train([text])
    times = []
    for _ in range(10):
        start = time.perf_counter()
        tokenizer.encode_array(text)
        times.append(time.perf_counter() - start)
    assert len(text.encode()) / 1e6 / min(times) > 100


def test_the_ids_of_the_byte_tokenizer_are_utf8_bytes() -> None:
    assert ByteTokenizer().encode("aé\0") == [97, 0xC3, 0xA9, 0]
    assert ByteTokenizer().decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"


def test_byte_symbols_are_those_of_gpt2() -> None:
    """Printable characters represent themselves; the other bytes follow from U+0100."""
    symbols = byte_symbols()
    assert len(set(symbols)) == 256
    assert (symbols[ord("a")], symbols[ord(" ")], symbols[ord("\n")], symbols[0], symbols[0xAD]) == ("a", "Ġ", "Ċ", "Ā", "Ń")


def test_characters_are_numbered_in_code_point_order() -> None:
    tokenizer = CharTokenizer.train(["banana", "é🙂"])
    assert tokenizer.characters == ["a", "b", "n", "é", "🙂"]
    assert tokenizer.encode("nab🙂") == [2, 0, 1, 4]


def test_unknown_characters_are_refused_by_name() -> None:
    tokenizer = CharTokenizer.train(["abc"])
    with pytest.raises(TokenizerError, match=r"unknown characters '\\xe9' \(U\+00E9\); remove them, or .*`byte`"):
        tokenizer.encode("abé")
    with pytest.raises(TokenizerError, match=r"and 21 more"):
        tokenizer.encode("".join(map(chr, range(ord("a"), ord("a") + 29))))


def test_training_on_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TokenizerError, match="lone surrogate"):
        CharTokenizer.train(["a\ud800"])


@pytest.mark.parametrize("content", ['["a", "a"]', '["ab"]', '["\\ud800"]', '{"a": 1}', "[1]", '"ab"', "["])
def test_an_invalid_characters_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "characters.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"characters\.json"):
        CharTokenizer.load(tmp_path)
