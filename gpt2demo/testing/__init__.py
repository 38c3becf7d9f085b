"""The conformance kit: what every tokenizer and every sampler keeps to, as tests for the authors of plugins.

    pytest --pyargs gpt2demo.testing        everything that is registered: the built-in parts and all installed plugins

Or in a plugin's own tests, in two lines:

    class TestMine(SamplerContract):        # from gpt2demo.testing import SamplerContract
        sampler = Mine

It needs pytest and Hypothesis (`pip install pytest hypothesis`). Nothing else of gpt2demo imports them.
"""

from __future__ import annotations

import pytest

from gpt2demo import plugins

pytest.register_assert_rewrite("gpt2demo.testing.samplers", "gpt2demo.testing.tokenizers")

from gpt2demo.testing.samplers import SamplerContract  # noqa: E402  # after the line above, or asserts explain nothing
from gpt2demo.testing.tokenizers import TokenizerContract  # noqa: E402  # as above

__all__ = ["SamplerContract", "TokenizerContract", "sampler_tests", "tokenizer_tests"]


def tokenizer_tests() -> dict[str, type[TokenizerContract]]:
    """A test class for each registered tokenizer, by the class's name."""
    classes = {class_name(name): cls for name, cls in plugins.tokenizers().items()}
    return {name: type(name, (TokenizerContract,), {"tokenizer": cls}) for name, cls in classes.items()}


def sampler_tests() -> dict[str, type[SamplerContract]]:
    """A test class for each registered sampler, by the class's name."""
    classes = {class_name(name): cls for name, cls in plugins.samplers().items()}
    return {name: type(name, (SamplerContract,), {"sampler": cls}) for name, cls in classes.items()}


def class_name(part: str) -> str:
    """`min-p` -> `TestMinP`: a class that pytest collects."""
    return "Test" + "".join(word.capitalize() for word in part.replace("_", "-").split("-"))
