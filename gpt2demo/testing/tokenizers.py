"""What every tokenizer keeps to, as a class of tests."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2demo.errors import TokenizerError
from gpt2demo.generation.streaming import StreamDecoder
from gpt2demo.interfaces import HasEncodeArray, HasTokenizerJson, Tokenizer

FRAGMENTS = (
    *("the ", " the", "The quick brown fox", "don't", "we'll", "x = 3.14159;", "1234567890", "\t\tif", "a" * 50, "?!" * 9),
    *(" ", "  ", "   \n", "\n\n\n", "\r\n", "\r", "\t", "\u00a0", "\u0085", "\u2028", "\u3000", "\u200b", " \u2009 "),
    *("\0", "a\0b", "\x1b[31m", "\x7f", "\ufeff", "a\ufeffb", "\ufffd", "\uffff", "\ufffe", "\U0010ffff", "\ue000"),
    *("é", "e\u0301", "Z\u0351\u0344\u0357a\u0322\u0321l\u0334g\u0335o", "ﬁ", "Å", "ǅ", "ß", "İ", "ı", "½", "Ⅷ", "٣"),
    *("👩‍👩‍👧‍👦", "🏳️‍🌈", "🇨🇭🇫🇷", "👍🏽", "1️⃣", "🙂", "𝔘𝔫𝔦", "𒀀"),
    *("שָׁלוֹם", "مرحبا", "\u202eabc\u202c", "\u2067x\u2069", "हिन्दी", "ไทย", "한국어", "ᄒ\u1161ᆫ", "中文字", "日本語", "ｶﾞ"),
    *("<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>", "<0x41>", "[UNK]", "Ġ", "Ċ", "▁", "▁the", "##ing", "</w>"),
)
"""What has broken tokenizers before: spaces of all kinds, controls, marks, emoji sequences, scripts, other tokenizers' signs."""

PROSE = (
    "Once upon a time there was a miller who had three sons. The first could read, the second could write, and the third "
    "could do neither, but he knew where the fish were. It wasn't much, they said; he'd say it was enough for 12 years.\n"
)
TEXTS = (PROSE * 20, *(" ".join(FRAGMENTS[i::7]) + "\n" for i in range(7)), "".join(FRAGMENTS))
"""What a tokenizer is trained on here, unless the test class says otherwise."""

HALVES = ("\ud800", "\udfff", "a\ud83d", "\ude42b", "\ude42\ud83d", "\udcff")
SECONDS = 20.0  # for a megabyte of one character; a quadratic algorithm needs hours

many = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
some = settings(many, max_examples=200)
anything = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS)).map("".join), st.text(alphabet=sorted(set(PROSE))))


class TokenizerContract:
    """Give a subclass the tokenizer; its tests are then the contract of `gpt2demo.interfaces.Tokenizer`.

    Attributes:
        tokenizer: the class under test.
        texts: what it is trained on.
        options: of its `train`.
    """

    tokenizer: ClassVar[type[Tokenizer]]
    texts: ClassVar[Sequence[str]] = TEXTS
    options: ClassVar[dict[str, Any]] = {}

    @classmethod
    @cache
    def trained(cls) -> Tokenizer:
        """One trained tokenizer for all tests of a class."""
        return cls.train()

    @classmethod
    def train(cls) -> Tokenizer:
        """A newly trained tokenizer; it gets an iterator, which it can read only once."""
        return cls.tokenizer.train(iter(cls.texts), **cls.options)

    @classmethod
    def ids(cls, data: st.DataObject) -> list[int]:
        """Any ids in range, in any order."""
        return data.draw(st.lists(st.integers(0, cls.trained().vocab_size - 1), max_size=30))

    def test_says_what_it_is(self) -> None:
        """`lossless`, `vocab_size` and `eos_id` have their types, and the end-of-text id is in range."""
        tokenizer = self.trained()
        assert type(tokenizer.lossless) is bool
        assert type(tokenizer.vocab_size) is int
        assert tokenizer.vocab_size >= 1
        assert tokenizer.eos_id is None or tokenizer.eos_id in range(tokenizer.vocab_size)

    def test_options_are_keywords_with_type_and_default(self) -> None:
        """The command line and the web page can offer them; a vocabulary is at most as large as asked for."""
        first, *rest = inspect.signature(self.tokenizer.train).parameters.values()
        assert first.kind is not inspect.Parameter.KEYWORD_ONLY
        for option in rest:
            assert option.kind is inspect.Parameter.KEYWORD_ONLY
            assert option.annotation is not inspect.Parameter.empty
            assert option.default is not inspect.Parameter.empty
            if option.name == "vocab_size":
                assert self.trained().vocab_size <= self.options.get("vocab_size", option.default)

    def test_its_training_texts_survive(self) -> None:
        """What it was trained on it can express."""
        for text in self.texts:
            self.check_text(text)
            assert encoded(self.trained(), text), "a text became no ids at all"

    @many
    @given(text=anything)
    def test_round_trip(self, text: str) -> None:
        """Every text that it accepts comes back, from ids that are in range; the end-of-text id is not among them."""
        self.check_text(text)

    def test_round_trip_of_what_has_broken_others(self) -> None:
        """The fragments alone, doubled, and between words."""
        for text in (*FRAGMENTS, ""):
            for hostile in (text, text * 2, f"a {text} b", f"a{text}b"):
                self.check_text(hostile)

    def test_half_a_surrogate_pair_is_refused_or_survives(self) -> None:
        """Half a surrogate pair is no character; it must not turn into another one without a word."""
        for text in HALVES:
            self.check_text(text)

    def check_text(self, text: str) -> None:
        """One text's way to ids and back; a text that is refused ends the check."""
        tokenizer = self.trained()
        ids = encoded(tokenizer, text)
        if ids is None:
            return
        assert type(ids) is list
        assert all(type(index) is int and 0 <= index < tokenizer.vocab_size for index in ids)
        assert tokenizer.eos_id is None or tokenizer.eos_id not in ids, "text gave the end-of-text id"
        assert tokenizer.decode(ids) == text or not tokenizer.lossless
        assert tokenizer.encode(text) == ids, "the same text gave other ids"
        if isinstance(tokenizer, HasEncodeArray):
            array = tokenizer.encode_array(text)
            assert array.dtype.kind in "iu"
            assert array.tolist() == ids

    def test_the_name_of_the_end_is_no_end(self) -> None:
        """A text that spells the end-of-text token is text."""
        eos_id = self.trained().eos_id
        if eos_id is not None:
            self.check_text(f"a{self.trained().decode([eos_id])}b")

    @some
    @given(data=st.data())
    def test_any_ids_in_range_can_be_decoded(self, data: st.DataObject) -> None:
        """To text that is valid Unicode."""
        self.trained().decode(self.ids(data)).encode("utf-8")

    def test_ids_out_of_range_are_refused(self) -> None:
        """By a TokenizerError; a negative id counts from no end."""
        for index in (-1, self.trained().vocab_size, 2**40):
            with pytest.raises(TokenizerError):
                self.trained().decode([index])

    @some
    @given(data=st.data())
    def test_streaming_gives_each_character_once_and_whole(self, data: st.DataObject) -> None:
        """Whatever the ids: the joined pieces are the whole text, and what was given out is never taken back."""
        self.check_stream(self.ids(data))

    @some
    @given(text=anything)
    def test_streaming_a_text_gives_the_text(self, text: str) -> None:
        """The same for the ids of a text."""
        self.check_stream(encoded(self.trained(), text) or [])

    def check_stream(self, ids: list[int]) -> None:
        """Decode piece by piece and at once."""
        decoder, whole, sofar = StreamDecoder(self.trained()), self.trained().decode(ids), ""
        for index in ids:
            sofar += decoder.push(index)
            assert whole.startswith(sofar)
        assert sofar + decoder.flush() == whole

    def test_save_and_load(self, tmp_path: Path) -> None:
        """A loaded tokenizer is the same one, and saving it gives the same files."""
        first, second = tmp_path / "first", tmp_path / "second"
        loaded = saved_and_loaded(self.trained(), first)
        assert same_tokenizer(self.trained(), loaded)
        saved_and_loaded(loaded, second)
        assert {path.name: path.read_bytes() for path in files(first)} == {p.name: p.read_bytes() for p in files(second)}

    def test_training_is_deterministic(self) -> None:
        """The same texts give the same tokenizer."""
        assert same_tokenizer(self.trained(), self.train())

    def test_missing_files_are_an_error(self, tmp_path: Path) -> None:
        """Whatever `save` writes, `load` asks for."""
        self.trained().save(tmp_path)
        for path in files(tmp_path):
            kept = path.read_bytes()
            path.unlink()
            with pytest.raises(TokenizerError) as caught:
                self.tokenizer.load(tmp_path)
            check_message(caught.value)
            path.write_bytes(kept)

    def test_damaged_files_are_an_error_or_still_a_tokenizer(self, tmp_path: Path) -> None:
        """Cut, flipped, overwritten or crafted: one line that says so, or something that keeps to this contract."""
        self.trained().save(tmp_path)
        for path in files(tmp_path):
            kept = path.read_bytes()
            for content in damaged(kept):
                path.write_bytes(content)
                self.check_damaged(tmp_path)
            path.write_bytes(kept)

    def check_damaged(self, folder: Path) -> None:
        """Load what may be broken, and use it."""
        try:
            tokenizer = self.tokenizer.load(folder)
        except TokenizerError as error:
            check_message(error)
            return
        for text in (PROSE, FRAGMENTS[0], "é🙂"):
            ids = encoded(tokenizer, text) or []
            assert all(0 <= index < tokenizer.vocab_size for index in ids)
            tokenizer.decode(ids)

    @pytest.mark.parametrize("run", ["a", " ", "\n", "!", "7", "é", "中", " a", "ab", "\0"], ids=ascii)
    def test_a_megabyte_of_one_thing_takes_no_time(self, run: str, record_property: Callable[[str, object], None]) -> None:
        """Texts without any border, and with nothing but borders."""
        text = run * (2**20 // len(run.encode())) + "a"
        start = time.perf_counter()
        ids = encoded(self.trained(), text)
        seconds = time.perf_counter() - start
        record_property("encoding, MB/s", round(1.05 / seconds, 1))
        assert seconds < SECONDS
        if ids is not None and self.trained().lossless:
            assert self.trained().decode(ids) == text

    @some
    @given(text=anything)
    def test_tokenizer_json_gives_the_same_ids(self, text: str) -> None:
        """Where there is one: read by the `tokenizers` library, which takes names of special tokens in a text for these."""
        tokenizer = self.trained()
        ids = encoded(tokenizer, text)
        if isinstance(tokenizer, HasTokenizerJson) and ids is not None:
            other = from_json(tokenizer.tokenizer_json())
            if not any(token.content in text for token in other.get_added_tokens_decoder().values()):
                assert other.encode(text, add_special_tokens=False).ids == ids
                assert other.decode(ids, skip_special_tokens=False) == text


@cache
def from_json(content: str) -> Any:
    """A tokenizer.json as the `tokenizers` library reads it."""
    from tokenizers import Tokenizer as Reference

    return Reference.from_str(content)


def encoded(tokenizer: Tokenizer, text: str) -> list[int] | None:
    """The ids, or None where the text is refused in one line."""
    try:
        return tokenizer.encode(text)
    except TokenizerError as error:
        check_message(error)
        return None


def check_message(error: TokenizerError) -> None:
    """What the command line prints as it is."""
    assert str(error)
    assert "\n" not in str(error)


def files(folder: Path) -> list[Path]:
    """All files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def saved_and_loaded(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """A tokenizer after a way over the disk."""
    folder.mkdir()
    tokenizer.save(folder)
    return type(tokenizer).load(folder)


def same_tokenizer(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers have the same sizes and say the same of all that is known here."""
    samples = (*TEXTS, *FRAGMENTS)
    ends = [index for index in range(one.vocab_size) if one.decode([index]) != other.decode([index])]
    sizes = (one.vocab_size, one.eos_id) == (other.vocab_size, other.eos_id)
    return sizes and not ends and all(encoded(one, text) == encoded(other, text) for text in samples)


def damaged(content: bytes, mutants: int = 150) -> Iterator[bytes]:
    """A file's content, broken in many ways, the same each time."""
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
