"""Reading tokenizer.json: a file is refused unless tiktoken encodes with it exactly as `tokenizers` does."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from samples import reference_tokenizer

from gpt2demo.errors import DataError, TokenizerError
from gpt2demo.testing.tokenizers import TEXTS
from gpt2demo.tokenization import bpe
from gpt2demo.tokenization.bpe import END, BpeTokenizer
from gpt2demo.tokenization.byte import byte_symbols
from gpt2demo.tokenization.vocabulary import rust_errors

# Supported variants


def test_the_older_form_of_gpt2s_file_is_read(bpe_tokenizer: BpeTokenizer, stored: dict[str, Any]) -> None:
    """Merges as "a b", no type, the end of text in the vocabulary, a post-processor without effect."""
    old = copy.deepcopy(stored)
    old["model"]["merges"] = [" ".join(pair) for pair in old["model"]["merges"]]
    old["model"]["vocab"][END] = bpe_tokenizer.eos_id
    old["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    del old["model"]["type"], old["pre_tokenizer"]["use_regex"]
    old["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    loaded = BpeTokenizer(old)
    assert (loaded.vocab_size, loaded.eos_id) == (bpe_tokenizer.vocab_size, bpe_tokenizer.eos_id)
    assert all(loaded.encode(text) == bpe_tokenizer.encode(text) for text in TEXTS)


def test_other_special_tokens_are_decoded_but_never_encoded(bpe_tokenizer: BpeTokenizer, stored: dict[str, Any]) -> None:
    more = copy.deepcopy(stored)
    more["added_tokens"].append({**more["added_tokens"][0], "id": bpe_tokenizer.vocab_size, "content": "<pad>"})
    loaded = BpeTokenizer(more)
    assert loaded.vocab_size == bpe_tokenizer.vocab_size + 1
    assert loaded.decode([bpe_tokenizer.vocab_size]) == "<pad>"
    assert loaded.encode("<pad>") == bpe_tokenizer.encode("<pad>")


def test_padding_and_truncation_are_dropped(bpe_tokenizer: BpeTokenizer, stored: dict[str, Any]) -> None:
    """transformers saves those of its last batch."""
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
    assert tokenizers.Tokenizer.from_str(json.dumps(kept)).encode("a b").ids == bpe_tokenizer.encode("a b")


# Merges


def with_merges(stored: dict[str, Any], merges: list[list[str]]) -> dict[str, Any]:
    vocab = {symbol: index for index, symbol in enumerate([*byte_symbols(), *("".join(pair) for pair in merges)])}
    return {**stored, "added_tokens": [], "model": {**stored["model"], "vocab": vocab, "merges": merges}}


def random_merges(rng: random.Random) -> list[list[str]]:
    """Return merges in an order that training never gives: any two existing tokens may be merged next."""
    tokens, merges = list("abc"), []
    for _ in range(rng.randrange(2, 7)):
        left, right = rng.choice(tokens), rng.choice(tokens)
        if left + right not in tokens:
            tokens.append(left + right)
            merges.append([left, right])
    return merges


def test_merges_that_tiktoken_applies_in_another_order_are_refused(stored: dict[str, Any]) -> None:
    """`bc` is merged before `ab`, so `tokenizers` never produces `abc` from ab + c; tiktoken would from a + bc."""
    with pytest.raises(TokenizerError, match="do not produce the token 'abc'"):
        BpeTokenizer(with_merges(stored, [["b", "c"], ["a", "b"], ["ab", "c"]]))


def test_random_merges_are_refused_or_give_the_ids_of_tokenizers(stored: dict[str, Any]) -> None:
    rng, accepted, refused = random.Random(0), 0, 0
    for _ in range(100):
        content = with_merges(stored, random_merges(rng))
        texts = ["".join(rng.choices("abc", k=rng.randrange(1, 150))) for _ in range(10)]
        try:
            tokenizer = BpeTokenizer(content)
        except TokenizerError:
            refused += 1
            continue
        accepted += 1
        expected = [encoding.ids for encoding in reference_tokenizer(content).encode_batch(texts)]
        assert [tokenizer.encode(text) for text in texts] == expected
    assert accepted > 30
    assert refused > 10


# Invalid files


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that sets the value at a path such as `model.type`."""
    *parents, last = path.split(".")

    def apply(content: dict[str, Any]) -> None:
        for key in parents:
            content = content[key]
        content[last] = value

    return apply


def swap_ids(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    one, other = ("".join(content["model"]["merges"][i]) for i in (3, 9))
    vocab[one], vocab[other] = vocab[other], vocab[one]


INVALID: dict[str, Callable[[dict[str, Any]], object]] = {
    "other model type": change("model.type", "WordPiece"),
    "missing model": change("model", None),
    "dropout": change("model.dropout", 0.1),
    "subword prefix": change("model.continuing_subword_prefix", "##"),
    "word suffix": change("model.end_of_word_suffix", "</w>"),
    "ignored merges": change("model.ignore_merges", True),
    "vocabulary is a list": change("model.vocab", []),
    "id is a string": change("model.vocab.!", "0"),
    "id is a boolean": change("model.vocab.!", True),
    "negative id": change("model.vocab.!", -1),
    "huge id": change("model.vocab.!", 2**70),
    "duplicate id": change("model.vocab.!", 5),
    "missing byte": lambda content: content["model"]["vocab"].pop("!"),
    "token without merge": change("model.vocab.zzzzz", 1500),
    "no merges": change("model.merges", []),
    "merge of one token": change("model.merges", [["a"]]),
    "merge of three tokens": change("model.merges", ["a b c"]),
    "merge of unknown tokens": change("model.merges", [["qq", "zz"]]),
    "duplicate merge": lambda content: content["model"]["merges"].append(content["model"]["merges"][0]),
    "merges in another order": lambda content: content["model"]["merges"].reverse(),
    "ids in another order": swap_ids,
    "normalizer": change("normalizer", {"type": "Lowercase"}),
    "missing pre-tokenizer": change("pre_tokenizer", None),
    "other pre-tokenizer": change("pre_tokenizer", {"type": "Whitespace"}),
    "prefix space": change("pre_tokenizer.add_prefix_space", True),
    "no pattern": change("pre_tokenizer.use_regex", False),
    "other post-processor": change("post_processor", {"type": "TemplateProcessing"}),
    "added tokens are an object": change("added_tokens", {"a": 1}),
    "special token without id": change("added_tokens", [{"content": END}]),
    "special token with a distant id": change("added_tokens", [{"content": END, "id": 10**9}]),
    "special token that is also a byte": change("added_tokens", [{"content": "a", "id": 70}]),
    "added token that is not special": lambda content: content["added_tokens"].append(
        {**content["added_tokens"][0], "id": len(content["model"]["vocab"]) + 1, "content": "hello", "special": False}
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_file_is_refused_in_one_line(name: str, stored: dict[str, Any], tmp_path: Path) -> None:
    content = copy.deepcopy(stored)
    INVALID[name](content)
    (tmp_path / bpe.FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: ") as caught:
        BpeTokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


class PanicException(BaseException):
    """The name and base class of a panic in a Rust library."""


def test_a_panic_of_a_rust_library_becomes_a_tokenizer_error() -> None:
    with pytest.raises(TokenizerError, match=r"text: cannot be used \(PanicException: unwrap on None\)"), rust_errors("text"):
        raise PanicException("unwrap\non None")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, DataError])
def test_other_errors_pass_unchanged(error: type[BaseException]) -> None:
    with pytest.raises(error), rust_errors("text"):
        raise error
