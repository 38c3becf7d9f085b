"""Comparing tokenizers on a text."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from gpt2demo import hookimpl
from gpt2demo.data.compare import compare_tokenizers
from gpt2demo.errors import PluginError, SettingError
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer

DOCUMENTS = [f"Story {n}: the fox is a friend of Zoë.\nThe end.\n" for n in range(50)]


def test_tokenizers_are_compared_by_vocabulary_tokens_and_compression() -> None:
    size = sum(len(document.encode()) for document in DOCUMENTS)
    byte, small, large = compare_tokenizers(DOCUMENTS, ["byte", "bpe:vocab_size=270", "bpe:vocab_size=280"])
    assert (byte.vocabulary, byte.tokens, byte.bytes_per_token) == (256, size, 1.0)
    trained = BpeTokenizer.train(DOCUMENTS, vocab_size=270)
    assert small.vocabulary == 270
    assert small.tokens == sum(len(trained.encode(document)) + 1 for document in DOCUMENTS), "one end of text per document"
    assert small.bytes_per_token == pytest.approx(size / small.tokens)
    assert large.bytes_per_token > small.bytes_per_token > 1


class FailingTokenizer(ByteTokenizer):
    @classmethod
    def train(cls, texts: object) -> FailingTokenizer:
        raise RuntimeError("too\nshort")


@pytest.mark.usefixtures("fresh_plugins")
def test_a_tokenizer_that_fails_is_listed_with_its_error_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("gpt2demo_failing")
    module.gpt2demo_tokenizers = hookimpl(lambda: {"failing": FailingTokenizer}, specname="gpt2demo_tokenizers")
    monkeypatch.setitem(sys.modules, "gpt2demo_failing", module)
    monkeypatch.setattr("gpt2demo.plugins.loading.installed", lambda: [EntryPoint("failing", "gpt2demo_failing", "gpt2demo")])
    rows = {row.tokenizer: row for row in compare_tokenizers(["text\n"])}
    assert rows.keys() == {"bpe", "byte", "char", "failing"}
    assert str(rows["failing"].error).endswith("train() raised RuntimeError: too short")
    assert rows["failing"].tokens is None
    assert (rows["byte"].error, rows["byte"].tokens) == (None, 5)


def test_an_unknown_tokenizer_or_an_invalid_option_is_refused() -> None:
    with pytest.raises(PluginError, match="nope"):
        list(compare_tokenizers(["text"], ["nope"]))
    with pytest.raises(SettingError, match="vocab_size='3'"):
        list(compare_tokenizers(["text"], ["bpe:vocab_size=3"]))
