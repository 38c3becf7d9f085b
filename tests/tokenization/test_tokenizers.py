"""The tokenizers: the kit over everything registered, then what is special about `byte` and `char`. For `bpe` see test_bpe.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt2demo import plugins
from gpt2demo.data.tokens import prepare
from gpt2demo.errors import TokenizerError
from gpt2demo.interfaces import HasEncodeArray
from gpt2demo.testing import tokenizer_tests
from gpt2demo.testing.tokenizers import TEXTS
from gpt2demo.tokenization.byte import ByteTokenizer, byte_symbols
from gpt2demo.tokenization.char import CharTokenizer

globals().update(tokenizer_tests())


def best(work: Callable[[], object], rounds: int = 5) -> float:
    """Seconds of the fastest of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("cls", [ByteTokenizer, CharTokenizer])
def test_bytes_and_characters_are_encoded_at_more_than_100_megabytes_a_second(cls: type[ByteTokenizer | CharTokenizer]) -> None:
    text = (TEXTS[0] + "é🙂") * 4000
    tokenizer = cls.train([text])
    assert len(text.encode()) / 1e6 / best(lambda: tokenizer.encode_array(text)) > 100


def test_bytes_are_their_own_ids() -> None:
    assert ByteTokenizer().encode("aé\0") == [97, 0xC3, 0xA9, 0]
    assert ByteTokenizer().decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"


def test_byte_symbols_are_openais() -> None:
    """Printable characters stand for themselves; the others follow from U+0100 on."""
    symbols = byte_symbols()
    assert len(set(symbols)) == 256
    assert (symbols[ord("a")], symbols[ord(" ")], symbols[ord("\n")], symbols[0], symbols[0xAD]) == ("a", "Ġ", "Ċ", "Ā", "Ń")


def test_characters_are_numbered_in_the_order_of_their_code_points() -> None:
    tokenizer = CharTokenizer.train(["banana", "é🙂"])
    assert tokenizer.characters == ["a", "b", "n", "é", "🙂"]
    assert tokenizer.encode("nab🙂") == [2, 0, 1, 4]


def test_unknown_characters_are_named() -> None:
    tokenizer = CharTokenizer.train(["abc"])
    with pytest.raises(TokenizerError, match=r"no '\\xe9' \(U\+00E9\); leave out such characters, or .*`byte`"):
        tokenizer.encode("abé")
    with pytest.raises(TokenizerError, match=r"and 21 more"):
        tokenizer.encode("".join(map(chr, range(ord("a"), ord("a") + 29))))


def test_characters_refuse_half_a_surrogate_pair_already_in_training() -> None:
    with pytest.raises(TokenizerError, match="half a surrogate pair"):
        CharTokenizer.train(["a\ud800"])


@pytest.mark.parametrize("content", ['["a", "a"]', '["ab"]', '["\\ud800"]', '{"a": 1}', "[1]", '"ab"', "["])
def test_a_crafted_list_of_characters_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "characters.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"characters\.json"):
        CharTokenizer.load(tmp_path)


class Listing(ByteTokenizer):
    """A tokenizer without arrays, as a plugin may be."""

    encode_array = None  # type: ignore[assignment]


def test_the_data_room_writes_the_same_ids_with_and_without_arrays(tmp_path: Path) -> None:
    assert not isinstance(Listing(), HasEncodeArray)
    for name, tokenizer in {"arrays": ByteTokenizer(), "lists": Listing()}.items():
        (tmp_path / name).mkdir()
        prepare(["hello " * 20, "wörld\n" * 20], tokenizer, tmp_path / name, 0.1)
    for file in ("train.npy", "validation.npy"):
        ids = np.load(tmp_path / "arrays" / file)
        assert ids.dtype == np.uint16
        assert ids.size > 10
        assert np.array_equal(ids, np.load(tmp_path / "lists" / file))


def test_all_built_in_tokenizers_give_arrays() -> None:
    assert {"bpe", "byte", "char"} <= {name for name, cls in plugins.tokenizers().items() if issubclass(cls, HasEncodeArray)}
