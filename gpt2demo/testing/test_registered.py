"""Contract tests of all registered parts, run by `pytest --pyargs gpt2demo.testing`."""

from __future__ import annotations

from gpt2demo.testing import dataset_tests, exporter_tests, optimizer_tests, sampler_tests, schedule_tests, tokenizer_tests

for classes in (tokenizer_tests, sampler_tests, dataset_tests, exporter_tests, optimizer_tests, schedule_tests):
    globals().update(classes())
