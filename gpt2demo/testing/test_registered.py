"""The kit over everything registered: what `pytest --pyargs gpt2demo.testing` runs."""

from __future__ import annotations

from gpt2demo.testing import sampler_tests, tokenizer_tests

globals().update(tokenizer_tests())
globals().update(sampler_tests())
