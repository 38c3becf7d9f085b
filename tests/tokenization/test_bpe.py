"""Byte-level BPE: tiktoken encodes, and gives the ids of the `tokenizers` library for every file that is accepted."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2demo.errors import DataError, SettingError, TokenizerError
from gpt2demo.plugins import train_tokenizer
from gpt2demo.testing.tokenizers import FRAGMENTS, PROSE, TEXTS, anything, many
from gpt2demo.tokenization import bpe
from gpt2demo.tokenization.bpe import END, BpeTokenizer, parts, training_parts
from gpt2demo.tokenization.byte import byte_symbols

hostile = st.one_of(
    anything, st.lists(st.sampled_from([*FRAGMENTS, *" \n\t\r", "  ", "a", "'s", "1", "!"]), max_size=40).map("".join)
)


@pytest.fixture(scope="module")
def trained() -> BpeTokenizer:
    return BpeTokenizer.train(TEXTS, vocab_size=1500)


@pytest.fixture(scope="module")
def stored(trained: BpeTokenizer) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(trained.tokenizer_json())
    return content


def reference(stored: dict[str, Any]) -> tokenizers.Tokenizer:
    """The same file in the `tokenizers` library, without special tokens, which it would find in texts."""
    return tokenizers.Tokenizer.from_str(json.dumps({**stored, "added_tokens": []}))


# ---------------------------------------------------------------------------------------------- the same ids


def test_the_ids_are_those_of_tokenizers(trained: BpeTokenizer, stored: dict[str, Any]) -> None:
    other = reference(stored)

    @settings(many, max_examples=3000)
    @given(text=hostile)
    def same(text: str) -> None:
        assert trained.encode(text) == other.encode(text).ids

    same()


def test_every_character_is_split_as_by_tokenizers(trained: BpeTokenizer, stored: dict[str, Any]) -> None:
    """Both sides of a letter, a digit, a sign and blanks: which class a character is in decides about borders."""
    other = reference(stored)
    characters = [chr(code) for code in [*range(0x3000), *range(0xFE00, 0x10000), *range(0x1F300, 0x1F700)]]
    texts = ["".join(f"a{c}b 1{c}1!{c}!  {c} {c}{c}x" for c in characters[i : i + 64]) for i in range(0, len(characters), 64)]
    assert [trained.encode(text) for text in texts] == [encoding.ids for encoding in other.encode_batch(texts)]


@pytest.mark.parametrize("size", [1, 7, 50])
def test_parts_of_a_text_have_the_ids_of_the_whole(size: int, trained: BpeTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts are encoded part by part, on all cores."""

    @settings(many, max_examples=500)
    @given(text=hostile)
    def same(text: str) -> None:
        cut = list(parts(text, size))
        assert "".join(cut) == text
        assert [index for part in cut for index in trained.encode(part)] == trained.encode(text)

    same()
    monkeypatch.setattr(parts, "__defaults__", (size,))
    text = "".join(FRAGMENTS) * 20
    assert len(list(parts(text))) > 20
    assert trained.encode(text) == reference(json.loads(trained.tokenizer_json())).encode(text).ids


def random_merges(chance: random.Random) -> list[list[str]]:
    """Merges in an order that no training would give: any two tokens that are there may be joined next."""
    there, merges = list("abc"), []
    for _ in range(chance.randrange(2, 7)):
        left, right = chance.choice(there), chance.choice(there)
        if left + right not in there:
            there.append(left + right)
            merges.append([left, right])
    return merges


def with_merges(stored: dict[str, Any], merges: list[list[str]]) -> dict[str, Any]:
    vocab = {symbol: index for index, symbol in enumerate([*byte_symbols(), *("".join(pair) for pair in merges)])}
    return {**stored, "added_tokens": [], "model": {**stored["model"], "vocab": vocab, "merges": merges}}


def test_merges_that_tiktoken_would_do_otherwise_are_refused(stored: dict[str, Any]) -> None:
    """`bc` goes before `ab`, so `abc` = ab + c is never made; tiktoken would make it of a + bc."""
    with pytest.raises(TokenizerError, match="the token 'abc' cannot be made"):
        BpeTokenizer(with_merges(stored, [["b", "c"], ["a", "b"], ["ab", "c"]]))


def test_merges_that_are_accepted_give_the_same_ids(stored: dict[str, Any]) -> None:
    chance, accepted, refused = random.Random(0), 0, 0
    for _ in range(300):
        content = with_merges(stored, random_merges(chance))
        try:
            ours = BpeTokenizer(content)
        except TokenizerError:
            refused += 1
            continue
        other, accepted = reference(content), accepted + 1
        texts = ["".join(chance.choices("abc", k=chance.randrange(1, 150))) for _ in range(40)]
        assert [ours.encode(text) for text in texts] == [encoding.ids for encoding in other.encode_batch(texts)]
    assert accepted > 100
    assert refused > 30


# ---------------------------------------------------------------------------------------------- training


def test_the_vocabulary_is_bytes_merges_and_the_end() -> None:
    tokenizer = BpeTokenizer.train([PROSE * 50], vocab_size=300)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (300, 299)
    assert tokenizer.decode([299]) == END
    single = {tokenizer.decode([index]) for index in range(256)}
    assert {chr(byte) for byte in range(128)} < single, "every byte is a token; those above 127 are no characters alone"
    assert BpeTokenizer.train([], vocab_size=257).vocab_size == 257
    assert BpeTokenizer.train(["ab"]).vocab_size == 257, "a pair that comes once is no token"


def test_a_text_that_spells_the_end_is_text(trained: BpeTokenizer) -> None:
    ids = trained.encode(f"a{END}{END}b")
    assert trained.eos_id not in ids
    assert trained.decode(ids) == f"a{END}{END}b"


def test_words_become_shorter(trained: BpeTokenizer) -> None:
    assert len(trained.encode(PROSE)) < len(PROSE) / 2
    assert len(trained.encode(" miller")) == 1


def test_training_takes_options_as_text() -> None:
    assert train_tokenizer("bpe", [PROSE * 9], {"vocab_size": "280"}).vocab_size == 280
    with pytest.raises(SettingError, match="tokenizer 'bpe': vocab_size='256': .*greater than or equal to 257"):
        train_tokenizer("bpe", [PROSE], {"vocab_size": "256"})


def test_training_on_a_megabyte_without_a_border_takes_seconds() -> None:
    """It would take the square of the word's length: hours."""
    start = time.perf_counter()
    tokenizer = BpeTokenizer.train(["ab" * 500_000 + " " * 500_000 + "c"])
    assert time.perf_counter() - start < 30
    assert max(len(tokenizer.decode([index])) for index in range(tokenizer.vocab_size - 1)) <= bpe.MAX_TOKEN_LENGTH
    assert max(map(len, training_parts(["x" * 10**6]))) <= 4096


def test_an_error_of_the_texts_comes_through() -> None:
    def texts() -> Iterator[str]:
        yield PROSE
        raise DataError("file.txt: is not text")

    with pytest.raises(DataError, match=r"file\.txt"):
        BpeTokenizer.train(texts())


def test_half_a_surrogate_pair_in_the_texts_is_named() -> None:
    with pytest.raises(TokenizerError, match="half a surrogate pair"):
        BpeTokenizer.train(["fine", "a\ud800"])


# ---------------------------------------------------------------------------------------------- files


def test_openais_file_in_its_older_form_is_read(trained: BpeTokenizer, stored: dict[str, Any]) -> None:
    """Merges as "a b", no type, the end among the vocabulary, a post-processor that changes nothing."""
    old = copy.deepcopy(stored)
    old["model"]["merges"] = [" ".join(pair) for pair in old["model"]["merges"]]
    old["model"]["vocab"][END] = trained.eos_id
    old["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    del old["model"]["type"], old["pre_tokenizer"]["use_regex"]
    old["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    loaded = BpeTokenizer(old)
    assert (loaded.vocab_size, loaded.eos_id) == (trained.vocab_size, trained.eos_id)
    assert all(loaded.encode(text) == trained.encode(text) for text in TEXTS)


def test_several_special_tokens_are_kept_apart_from_text(trained: BpeTokenizer, stored: dict[str, Any]) -> None:
    more = copy.deepcopy(stored)
    more["added_tokens"].append({**more["added_tokens"][0], "id": trained.vocab_size, "content": "<pad>"})
    loaded = BpeTokenizer(more)
    assert loaded.vocab_size == trained.vocab_size + 1
    assert loaded.decode([trained.vocab_size]) == "<pad>"
    assert loaded.encode("<pad>") == trained.encode("<pad>")


def test_how_a_batch_was_made_is_not_taken_over(trained: BpeTokenizer, stored: dict[str, Any]) -> None:
    """transformers leaves it in the file that it saves."""
    padding = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": END,
    }
    truncation = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    kept = json.loads(BpeTokenizer({**stored, "padding": padding, "truncation": truncation}).tokenizer_json())
    assert (kept["padding"], kept["truncation"]) == (None, None)
    assert tokenizers.Tokenizer.from_str(json.dumps(kept)).encode("a b").ids == trained.encode("a b")


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Put a value at `a.b.c` of a file's content."""
    *folders, last = path.split(".")

    def apply(content: dict[str, Any]) -> None:
        for folder in folders:
            content = content[folder]
        content[last] = value

    return apply


def swap_ids(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    one, other = ("".join(content["model"]["merges"][i]) for i in (3, 9))
    vocab[one], vocab[other] = vocab[other], vocab[one]


CRAFTED = {
    "another model": change("model.type", "WordPiece"),
    "no model": change("model", None),
    "dropout": change("model.dropout", 0.1),
    "a prefix inside words": change("model.continuing_subword_prefix", "##"),
    "a suffix of words": change("model.end_of_word_suffix", "</w>"),
    "merges ignored": change("model.ignore_merges", True),
    "no vocabulary": change("model.vocab", []),
    "ids as text": change("model.vocab.!", "0"),
    "ids that are no numbers": change("model.vocab.!", True),
    "a negative id": change("model.vocab.!", -1),
    "a huge id": change("model.vocab.!", 2**70),
    "an id twice": change("model.vocab.!", 5),
    "a byte missing": lambda content: content["model"]["vocab"].pop("!"),
    "a token that is no merge": change("model.vocab.zzzzz", 1500),
    "no merges": change("model.merges", []),
    "merges that are no pairs": change("model.merges", [["a"]]),
    "merges of three": change("model.merges", ["a b c"]),
    "merges of what is not there": change("model.merges", [["qq", "zz"]]),
    "a merge twice": lambda content: content["model"]["merges"].append(content["model"]["merges"][0]),
    "merges in another order": lambda content: content["model"]["merges"].reverse(),
    "ids in another order": swap_ids,
    "a normalizer": change("normalizer", {"type": "Lowercase"}),
    "no pre-tokenizer": change("pre_tokenizer", None),
    "another pre-tokenizer": change("pre_tokenizer", {"type": "Whitespace"}),
    "a space put before": change("pre_tokenizer.add_prefix_space", True),
    "no pattern": change("pre_tokenizer.use_regex", False),
    "a post-processor": change("post_processor", {"type": "TemplateProcessing"}),
    "special tokens that are no list": change("added_tokens", {"a": 1}),
    "a special token without id": change("added_tokens", [{"content": END}]),
    "a special token far away": change("added_tokens", [{"content": END, "id": 10**9}]),
    "a special token that text can give": change("added_tokens", [{"content": "a", "id": 70}]),
    "an added token that text has": lambda content: content["added_tokens"].append(
        {**content["added_tokens"][0], "id": len(content["model"]["vocab"]) + 1, "content": "hello", "special": False}
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused_in_one_line(name: str, stored: dict[str, Any], tmp_path: Path) -> None:
    content = copy.deepcopy(stored)
    CRAFTED[name](content)
    (tmp_path / bpe.FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: ") as caught:
        BpeTokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


class PanicException(BaseException):
    """What the Rust libraries raise when they panic: no `Exception`."""


def test_a_panic_of_a_rust_library_is_an_error_of_ours() -> None:
    with pytest.raises(TokenizerError, match=r"text: cannot be used \(PanicException: unwrap on None\)"), bpe.rust("text"):
        raise PanicException("unwrap\non None")
    for other in (KeyboardInterrupt, SystemExit, DataError):
        with pytest.raises(other), bpe.rust("text"):
            raise other


# ---------------------------------------------------------------------------------------------- speed


def test_a_megabyte_of_blanks_before_a_word_does_not_end_the_program(trained: BpeTokenizer) -> None:
    """tiktoken's look-ahead needs stack for each blank and panics at a million of them, unless the text is cut there."""
    for text in (" " * 10**6 + "a", "a" + " \n" * 500_000 + "a", ("x" + " " * 250_000) * 4 + "y"):
        assert trained.decode(trained.encode(text)) == text


def test_it_encodes_four_times_as_fast_as_tokenizers_own_batches(stored: dict[str, Any]) -> None:
    documents = [(PROSE + FRAGMENTS[i % 20]) * 40 for i in range(100)]
    ours, other = BpeTokenizer(stored), reference(stored)
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        other.encode_batch(documents)
        middle = time.perf_counter()
        for document in documents:
            ours.encode_array(document)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    assert max(ratios) > 4, ratios
