"""The contract of tokenizers, as a class of tests."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2demo.errors import TokenizerError
from gpt2demo.generation.streaming import StreamDecoder
from gpt2demo.interfaces import HasCut, HasEncodeArray, HasTokenizerJson, Tokenizer
from gpt2demo.testing.profiles import by_profile, examples

FRAGMENTS = (
    *("the ", " the", "The quick brown fox", "don't", "we'll", "x = 3.14159;", "1234567890", "\t\tif", "a" * 50, "?!" * 9),
    *(" ", "  ", "   \n", "\n\n\n", "\r\n", "\r", "\t", "\u00a0", "\u0085", "\u2028", "\u3000", "\u200b", " \u2009 "),
    *("\0", "a\0b", "\x1b[31m", "\x7f", "\ufeff", "a\ufeffb", "\ufffd", "\uffff", "\ufffe", "\U0010ffff", "\ue000"),
    *("é", "e\u0301", "Z\u0351\u0344\u0357a\u0322\u0321l\u0334g\u0335o", "ﬁ", "Å", "ǅ", "ß", "İ", "ı", "½", "Ⅷ", "٣"),
    *("👩‍👩‍👧‍👦", "🏳️‍🌈", "🇨🇭🇫🇷", "👍🏽", "1️⃣", "🙂", "𝔘𝔫𝔦", "𒀀"),
    *("שָׁלוֹם", "مرحبا", "\u202eabc\u202c", "\u2067x\u2069", "हिन्दी", "ไทย", "한국어", "ᄒ\u1161ᆫ", "中文字", "日本語", "ｶﾞ"),
    *("<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>", "<0x41>", "[UNK]", "Ġ", "Ċ", "▁", "▁the", "##ing", "</w>"),
)
"""Difficult inputs: all kinds of whitespace, control characters, combining marks, emoji sequences, scripts, special tokens."""

PROSE = (
    "Once upon a time there was a miller who had three sons. The first could read, the second could write, and the third "
    "could do neither, but he knew where the fish were. It wasn't much, they said; he'd say it was enough for 12 years.\n"
)
TEXTS = (PROSE * 20, *(" ".join(FRAGMENTS[i::7]) + "\n" for i in range(7)), "".join(FRAGMENTS))
"""The default training texts."""

LONE_SURROGATES = ("\ud800", "\udfff", "a\ud83d", "\ude42b", "\ude42\ud83d", "\udcff")
TIME_LIMIT = 20.0  # seconds for a megabyte of one character; a quadratic algorithm needs hours

many = examples(500, 50)
some = examples(200, 20)
anything = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS)).map("".join), st.text(alphabet=sorted(set(PROSE))))


class TokenizerContract:
    """Tests of the contract of `gpt2demo.interfaces.Tokenizer`. Subclass it and set `tokenizer`.

    Attributes:
        tokenizer: the tokenizer class to test.
        texts: the training texts.
        options: options of `train`.
    """

    tokenizer: ClassVar[type[Tokenizer]]
    texts: ClassVar[Sequence[str]] = TEXTS
    options: ClassVar[dict[str, Any]] = {}

    @classmethod
    @cache
    def trained(cls) -> Tokenizer:
        """Return a trained tokenizer, shared by all tests of a class."""
        return cls.train()

    @classmethod
    def train(cls) -> Tokenizer:
        """Return a newly trained tokenizer. The texts are passed as an iterator, which can be read only once."""
        return cls.tokenizer.train(iter(cls.texts), **cls.options)

    @classmethod
    def ids(cls, data: st.DataObject) -> list[int]:
        """Draw valid ids in any order."""
        return data.draw(st.lists(st.integers(0, cls.trained().vocab_size - 1), max_size=30))

    def test_attributes_have_valid_values(self) -> None:
        """`lossless`, `vocab_size` and `eos_id` have the right types, and the end-of-text id is in range."""
        tokenizer = self.trained()
        assert type(tokenizer.lossless) is bool, f"lossless is {tokenizer.lossless!r}, not a bool"
        assert type(tokenizer.vocab_size) is int, f"vocab_size is {tokenizer.vocab_size!r}, not an int"
        assert tokenizer.vocab_size >= 1, f"vocab_size is {tokenizer.vocab_size}"
        valid = tokenizer.eos_id is None or tokenizer.eos_id in range(tokenizer.vocab_size)
        assert valid, f"eos_id is {tokenizer.eos_id!r}, not None or an id below vocab_size"

    def test_options_are_keyword_only_with_type_and_default(self) -> None:
        """The command line and the web page create their controls from them. `vocab_size` is an upper limit."""
        first, *rest = inspect.signature(self.tokenizer.train).parameters.values()
        assert first.kind is not inspect.Parameter.KEYWORD_ONLY, "the first parameter of train() is the texts"
        for option in rest:
            assert option.kind is inspect.Parameter.KEYWORD_ONLY, f"{option.name} is not keyword-only"
            assert option.annotation is not inspect.Parameter.empty, f"{option.name} has no type"
            assert option.default is not inspect.Parameter.empty, f"{option.name} has no default"
            if option.name == "vocab_size":
                limit = self.options.get("vocab_size", option.default)
                assert self.trained().vocab_size <= limit, f"the vocabulary has more than the requested {limit} ids"

    def test_training_texts_round_trip(self) -> None:
        """A tokenizer can encode its training texts."""
        for text in self.texts:
            self.check_text(text)
            assert encoded(self.trained(), text), "a training text was refused or gave no ids"

    @many
    @given(text=anything)
    def test_any_text_round_trips(self, text: str) -> None:
        """Every accepted text is decoded unchanged from valid ids without the end-of-text id."""
        self.check_text(text)

    def test_difficult_fragments_round_trip(self) -> None:
        """The fragments alone, doubled and between words."""
        for text in (*FRAGMENTS, ""):
            for variant in (text, text * 2, f"a {text} b", f"a{text}b"):
                self.check_text(variant)

    def test_lone_surrogates_raise_or_round_trip(self) -> None:
        """A lone surrogate is not silently replaced by another character."""
        for text in LONE_SURROGATES:
            self.check_text(text)

    def check_text(self, text: str) -> None:
        """Check that a text round-trips, unless the tokenizer refuses it."""
        tokenizer = self.trained()
        ids = encoded(tokenizer, text)
        if ids is None:
            return
        assert type(ids) is list, f"encode() returned {type(ids).__name__}, not a list"
        valid = all(type(index) is int and 0 <= index < tokenizer.vocab_size for index in ids)
        assert valid, "encode() returned something else than ints in range(vocab_size)"
        assert tokenizer.eos_id is None or tokenizer.eos_id not in ids, "encode() returned the end-of-text id"
        assert tokenizer.decode(ids) == text or not tokenizer.lossless, "lossless, but decode(encode(text)) != text"
        assert tokenizer.encode(text) == ids, "encode() returned different ids for the same text"
        if isinstance(tokenizer, HasEncodeArray):
            array = tokenizer.encode_array(text)
            assert array.dtype.kind in "iu", f"encode_array() returned {array.dtype}, not integers"
            assert array.tolist() == ids, "encode_array() and encode() differ"
        if isinstance(tokenizer, HasCut):
            for start in {1, len(text) // 2, len(text) - 1} & set(range(1, len(text))):
                cut = tokenizer.cut(text, start)
                assert cut is None or start <= cut <= len(text), f"cut() returned {cut!r}, not None or an index from {start} on"
                same = cut is None or tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == ids
                assert same, f"the ids of the parts before and after {cut} are not those of the text"

    def test_end_of_text_marker_in_a_text_is_plain_text(self) -> None:
        """A text with the spelling of the end-of-text token is encoded without its id."""
        eos_id = self.trained().eos_id
        if eos_id is not None:
            self.check_text(f"a{self.trained().decode([eos_id])}b")

    @some
    @given(data=st.data())
    def test_any_valid_ids_can_be_decoded(self, data: st.DataObject) -> None:
        """Any sequence of valid ids is decoded to valid Unicode."""
        self.trained().decode(self.ids(data)).encode("utf-8")

    def test_ids_out_of_range_raise(self) -> None:
        """`decode` raises TokenizerError, also for negative ids."""
        for index in (-1, self.trained().vocab_size, 2**40):
            with pytest.raises(TokenizerError):
                self.trained().decode([index])

    @some
    @given(data=st.data())
    def test_streaming_of_any_ids_matches_decode(self, data: st.DataObject) -> None:
        """The streamed pieces are never revised and join to the decoded text."""
        self.check_stream(self.ids(data))

    @some
    @given(text=anything)
    def test_streaming_of_a_text_matches_decode(self, text: str) -> None:
        """As above, for the ids of a text."""
        self.check_stream(encoded(self.trained(), text) or [])

    def check_stream(self, ids: list[int]) -> None:
        """Check that streaming ids gives the same text as decoding them at once."""
        decoder, whole, streamed = StreamDecoder(self.trained()), self.trained().decode(ids), ""
        for index in ids:
            streamed += decoder.push(index)
            assert whole.startswith(streamed), "decode() of more ids changed the text of the first ones"
        assert streamed + decoder.flush() == whole, "the streamed pieces do not join to the decoded text"

    def test_save_and_load_preserve_the_tokenizer(self, tmp_path: Path) -> None:
        """A loaded tokenizer behaves the same, and saving it again gives the same files."""
        first, second = tmp_path / "first", tmp_path / "second"
        loaded = saved_and_loaded(self.trained(), first)
        assert same_tokenizer(self.trained(), loaded), "the loaded tokenizer differs from the saved one"
        saved_and_loaded(loaded, second)
        same = {path.name: path.read_bytes() for path in files(first)} == {p.name: p.read_bytes() for p in files(second)}
        assert same, "saving the loaded tokenizer wrote other files"

    def test_training_is_deterministic(self) -> None:
        """The same texts give the same tokenizer."""
        assert same_tokenizer(self.trained(), self.train()), "training again on the same texts gave another tokenizer"

    def test_missing_files_raise(self, tmp_path: Path) -> None:
        """`load` raises TokenizerError if any file that `save` wrote is missing."""
        self.trained().save(tmp_path)
        for path in files(tmp_path):
            kept = path.read_bytes()
            path.unlink()
            with pytest.raises(TokenizerError) as caught:
                self.tokenizer.load(tmp_path)
            check_message(caught.value)
            path.write_bytes(kept)

    def test_damaged_files_raise_or_load_a_valid_tokenizer(self, tmp_path: Path) -> None:
        """Truncated, modified or crafted files raise a one-line TokenizerError or load as a tokenizer with valid ids."""
        self.trained().save(tmp_path)
        for path in files(tmp_path):
            kept = path.read_bytes()
            for content in damaged(kept):
                path.write_bytes(content)
                self.check_damaged(tmp_path)
            path.write_bytes(kept)

    def check_damaged(self, folder: Path) -> None:
        """Load a tokenizer from possibly damaged files and use it."""
        try:
            tokenizer = self.tokenizer.load(folder)
        except TokenizerError as error:
            check_message(error)
            return
        for text in (PROSE, FRAGMENTS[0], "é🙂"):
            ids = encoded(tokenizer, text) or []
            valid = all(0 <= index < tokenizer.vocab_size for index in ids)
            assert valid, "load() accepted damaged files, and encode() then returned ids out of range"
            tokenizer.decode(ids)

    @pytest.mark.parametrize("run", ["a", " ", "\n", "!", "7", "é", "中", " a", "ab", "\0"], ids=ascii)
    def test_long_repetitions_are_encoded_quickly(self, run: str, record_property: Callable[[str, object], None]) -> None:
        """A megabyte (quick: 64 KiB) of one repeated string, without any word boundary or with nothing else."""
        text = run * (by_profile(2**20, 2**16) // len(run.encode())) + "a"
        start = time.perf_counter()
        ids = encoded(self.trained(), text)
        seconds = time.perf_counter() - start
        record_property("encoding, MB/s", round(len(text.encode()) / 1e6 / seconds, 1))
        assert seconds < TIME_LIMIT, f"encoding took {seconds:.0f} s, more than {TIME_LIMIT:.0f}; is it quadratic in the length?"
        if ids is not None and self.trained().lossless:
            assert self.trained().decode(ids) == text, "lossless, but decode(encode(text)) != text"

    @some
    @given(text=anything)
    def test_tokenizer_json_gives_the_same_ids(self, text: str) -> None:
        """The `tokenizers` library gives the same ids. It parses special tokens in a text, so such texts are left out."""
        tokenizer = self.trained()
        ids = encoded(tokenizer, text)
        if isinstance(tokenizer, HasTokenizerJson) and ids is not None:
            reference = from_json(tokenizer.tokenizer_json())
            if not any(token.content in text for token in reference.get_added_tokens_decoder().values()):
                same = reference.encode(text, add_special_tokens=False).ids == ids
                assert same, "the tokenizers library encodes the text to other ids with tokenizer_json()"
                assert reference.decode(ids, skip_special_tokens=False) == text, "the tokenizers library decodes to another text"


@cache
def from_json(content: str) -> Any:
    """Return the tokenizer that the `tokenizers` library reads from a tokenizer.json."""
    import tokenizers

    return tokenizers.Tokenizer.from_str(content)


def encoded(tokenizer: Tokenizer, text: str) -> list[int] | None:
    """Return the ids, or None if the tokenizer refuses the text with a one-line error."""
    try:
        return tokenizer.encode(text)
    except TokenizerError as error:
        check_message(error)
        return None


def check_message(error: TokenizerError) -> None:
    """Check that an error has a message of one line, which the command line prints unchanged."""
    assert str(error), "the error has no message"
    assert "\n" not in str(error), "the message has more than one line"


def files(folder: Path) -> list[Path]:
    """Return all files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def saved_and_loaded(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """Save a tokenizer into a new folder and return the one loaded from it."""
    folder.mkdir()
    tokenizer.save(folder)
    return type(tokenizer).load(folder)


def same_tokenizer(one: Tokenizer, other: Tokenizer) -> bool:
    """Return whether two tokenizers have the same sizes, and the same ids and text for all samples."""
    samples = (*TEXTS, *FRAGMENTS)
    return (
        (one.vocab_size, one.eos_id) == (other.vocab_size, other.eos_id)
        and all(one.decode([index]) == other.decode([index]) for index in range(one.vocab_size))
        and all(encoded(one, text) == encoded(other, text) for text in samples)
    )


def damaged(content: bytes, mutants: int = by_profile(150, 5)) -> Iterator[bytes]:
    """Yield damaged variants of a file's content, the same on every call."""
    yield from (b"", b"\0", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff" * 99, content[::-1], content * 2, b"\0" * len(content))
    chance = random.Random(0)
    for _ in range(mutants):
        start = chance.randrange(len(content))
        end = start + chance.choice((1, 1, 1, 2, 10, 1000))
        yield content[:start]
        yield content[:start] + content[end:]
        yield content[:start] + bytes([content[start] ^ 1 << chance.randrange(8)]) + content[start + 1 :]
        yield content[:start] + chance.randbytes(end - start) + content[end:]
        yield content[:start] + chance.choice((b"0", b"-1", b"1e9", b'""', b"null", b"[]", b"{}")) + content[start + 1 :]
