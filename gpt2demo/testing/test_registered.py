"""Contract tests of all registered tokenizers and samplers, run by `pytest --pyargs gpt2demo.testing`."""

from __future__ import annotations

from gpt2demo.testing import sampler_tests, tokenizer_tests

globals().update(tokenizer_tests())
globals().update(sampler_tests())
