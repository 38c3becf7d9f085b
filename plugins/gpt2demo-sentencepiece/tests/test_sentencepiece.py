"""The SentencePiece plugin."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("sentencepiece", reason="pip install sentencepiece")
plugin = pytest.importorskip("gpt2demo_sentencepiece", reason="pip install -e plugins/gpt2demo-sentencepiece")

from gpt2demo import plugins  # noqa: E402
from gpt2demo.errors import DataError, SettingError, TokenizerError  # noqa: E402
from gpt2demo.testing import TokenizerContract  # noqa: E402
from gpt2demo.testing.tokenizers import FRAGMENTS, PROSE  # noqa: E402

SentencePieceTokenizer = plugin.SentencePieceTokenizer


class TestUnigram(TokenizerContract):
    tokenizer = SentencePieceTokenizer


class TestBpe(TokenizerContract):
    tokenizer = SentencePieceTokenizer
    options: ClassVar[dict[str, Any]] = {"kind": "bpe", "vocab_size": 700}


def test_the_entry_point_has_the_name_of_the_tokenizer() -> None:
    point = next(point for point in plugins.installed() if point.value == "gpt2demo_sentencepiece")
    assert point.name == "sentencepiece"
    assert plugins.registry().owner("tokenizers", point.name).distribution == "gpt2demo-sentencepiece"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_training_finds_pieces_longer_than_a_character(kind: str) -> None:
    tokenizer = plugins.train_tokenizer("sentencepiece", [PROSE * 30], {"kind": kind, "vocab_size": "350"})
    assert 260 < tokenizer.vocab_size <= 350
    assert len(tokenizer.encode(PROSE)) < len(PROSE) * 0.65


def test_unigram_and_bpe_encode_differently() -> None:
    unigram, bpe = (SentencePieceTokenizer.train([PROSE * 30], vocab_size=330, kind=kind) for kind in ("unigram", "bpe"))
    assert unigram.encode(PROSE) != bpe.encode(PROSE)


@pytest.mark.parametrize("text", FRAGMENTS, ids=ascii)
def test_characters_outside_the_training_text_are_restored(text: str) -> None:
    tokenizer = SentencePieceTokenizer.train(["abab"], vocab_size=300)
    assert tokenizer.decode(tokenizer.encode(f" {text} ")) == f" {text} "


def test_a_literal_space_symbol_is_not_a_space() -> None:
    tokenizer = SentencePieceTokenizer.train([PROSE])
    assert tokenizer.encode("a▁b") != tokenizer.encode("a b")
    assert tokenizer.decode(tokenizer.encode("▁ ▁▁")) == "▁ ▁▁"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_long_lines_are_used_for_training(kind: str) -> None:
    """SentencePiece skips sentences above a maximum length."""
    tokenizer = SentencePieceTokenizer.train([PROSE.replace("\n", " ") * 100], kind=kind)
    assert len(tokenizer.encode(PROSE)) < len(PROSE) * 0.6


@pytest.mark.parametrize(
    ("texts", "options"),
    [([], {}), ([""], {}), (["".join(map(chr, range(0x4E00, 0x5000)))], {"vocab_size": 300})],
)
def test_texts_that_cannot_be_trained_on_are_refused_in_one_line(texts: list[str], options: dict[str, int]) -> None:
    with pytest.raises(TokenizerError, match="vocab_size=.*use more text, or a larger vocabulary") as caught:
        SentencePieceTokenizer.train(texts, **options)
    assert "\n" not in str(caught.value)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TokenizerError, match="text: lone surrogate"):
        SentencePieceTokenizer.train(["a\ud800"])
    with pytest.raises(TokenizerError, match="text: lone surrogate"):
        SentencePieceTokenizer.train([PROSE]).encode("a\ud800")


@pytest.mark.parametrize("options", [{"kind": "word"}, {"vocab_size": "100"}, {"pieces": "5"}])
def test_invalid_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(SettingError, match=f"tokenizer 'sentencepiece': {next(iter(options))}"):
        plugins.train_tokenizer("sentencepiece", [PROSE], options)


def test_an_error_while_reading_the_texts_is_raised_unchanged() -> None:
    def texts() -> Iterator[str]:
        yield PROSE
        raise DataError("file.txt: is not text")

    with pytest.raises(DataError, match=r"file\.txt"):
        SentencePieceTokenizer.train(texts())


@pytest.mark.parametrize(
    "settings",
    [
        {"vocab_size": 60},  # default settings
        {"vocab_size": 300, "byte_fallback": True, "eos_piece": plugin.END},  # merges whitespace, normalizes characters
    ],
)
def test_a_model_that_is_not_lossless_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(sentence_iterator=iter([PROSE] * 30), model_writer=model, minloglevel=2, **settings)
    (tmp_path / plugin.FILE).write_bytes(model.getvalue())
    with pytest.raises(TokenizerError, match="not a SentencePiece model that this plugin trained .*not lossless"):
        SentencePieceTokenizer.load(tmp_path)
