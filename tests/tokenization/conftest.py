"""Fixtures of the tokenizer tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpt2demo.testing.tokenizers import TEXTS
from gpt2demo.tokenization.bpe import BpeTokenizer


@pytest.fixture(scope="session")
def bpe_tokenizer() -> BpeTokenizer:
    return BpeTokenizer.train(TEXTS, vocab_size=1500)


@pytest.fixture(scope="session")
def stored(bpe_tokenizer: BpeTokenizer) -> dict[str, Any]:
    """Return the parsed tokenizer.json. Copy it before changing it."""
    content: dict[str, Any] = json.loads(bpe_tokenizer.tokenizer_json())
    return content
