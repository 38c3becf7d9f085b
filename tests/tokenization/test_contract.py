"""Every registered tokenizer, built-in or from a plugin, passes the conformance tests."""

from __future__ import annotations

from gpt2demo import plugins
from gpt2demo.interfaces import HasEncodeArray
from gpt2demo.testing import tokenizer_tests

globals().update(tokenizer_tests())


def test_the_built_in_tokenizers_encode_into_arrays() -> None:
    assert {"bpe", "byte", "char"} <= {name for name, cls in plugins.tokenizers().items() if issubclass(cls, HasEncodeArray)}
