"""Conformance tests of tokenizers and samplers, for the authors of plugins.

    pytest --pyargs gpt2demo.testing        test all registered parts: built-in ones and installed plugins

Or in a plugin's own tests:

    class TestMine(SamplerContract):        # from gpt2demo.testing import SamplerContract
        sampler = Mine

Requires pytest and Hypothesis (`pip install pytest hypothesis`), which the rest of gpt2demo does not import.
"""

from __future__ import annotations

import pytest

from gpt2demo import plugins

pytest.register_assert_rewrite("gpt2demo.testing.samplers", "gpt2demo.testing.tokenizers")

from gpt2demo.testing.samplers import SamplerContract  # noqa: E402  # after the line above, which makes asserts show their values
from gpt2demo.testing.tokenizers import TokenizerContract  # noqa: E402  # as above

__all__ = ["SamplerContract", "TokenizerContract", "sampler_tests", "tokenizer_tests"]


def tokenizer_tests() -> dict[str, type[TokenizerContract]]:
    """Return a test class for each registered tokenizer, by class name."""
    classes = {class_name(name): cls for name, cls in plugins.tokenizers().items()}
    return {name: type(name, (TokenizerContract,), {"tokenizer": cls}) for name, cls in classes.items()}


def sampler_tests() -> dict[str, type[SamplerContract]]:
    """Return a test class for each registered sampler, by class name."""
    classes = {class_name(name): cls for name, cls in plugins.samplers().items()}
    return {name: type(name, (SamplerContract,), {"sampler": cls}) for name, cls in classes.items()}


def class_name(part: str) -> str:
    """Return the name of a part's test class, which pytest collects: `min-p` -> `TestMinP`."""
    return "Test" + "".join(word.capitalize() for word in part.replace("_", "-").split("-"))
