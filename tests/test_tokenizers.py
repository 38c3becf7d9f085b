"""The tokenizers: the kit over everything registered, then what is special about the built-in ones."""

from gpt2demo.testing import tokenizer_tests

globals().update(tokenizer_tests())
