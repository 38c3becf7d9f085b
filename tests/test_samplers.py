"""The samplers: the kit over everything registered, then what is special about the built-in ones."""

from gpt2demo.testing import sampler_tests

globals().update(sampler_tests())
