"""Conformance tests of tokenizers, samplers, datasets, exporters, optimizers and schedules, for the authors of plugins.

    pytest --pyargs gpt2demo.testing        test all registered parts: built-in ones and installed plugins

Or in a plugin's own tests:

    class TestMine(SamplerContract):        # from gpt2demo.testing import SamplerContract
        sampler = Mine

With `GPT2DEMO_TEST_PROFILE=quick` in the environment there are fewer examples: a minute instead of several.

Requires pytest and Hypothesis (`pip install pytest hypothesis`), which the rest of gpt2demo does not import.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gpt2demo import plugins

KINDS = ("tokenizers", "samplers", "datasets", "exporters", "optimizers", "schedules")
pytest.register_assert_rewrite(*(f"gpt2demo.testing.{kind}" for kind in KINDS))  # asserts show their values

from gpt2demo.testing.datasets import DatasetContract  # noqa: E402  # after the line above, as are the next ones
from gpt2demo.testing.exporters import ExporterContract  # noqa: E402
from gpt2demo.testing.optimizers import OptimizerContract  # noqa: E402
from gpt2demo.testing.samplers import SamplerContract  # noqa: E402
from gpt2demo.testing.schedules import ScheduleContract  # noqa: E402
from gpt2demo.testing.tokenizers import TokenizerContract  # noqa: E402

__all__ = [
    "DatasetContract",
    "ExporterContract",
    "OptimizerContract",
    "SamplerContract",
    "ScheduleContract",
    "TokenizerContract",
    "dataset_tests",
    "exporter_tests",
    "optimizer_tests",
    "sampler_tests",
    "schedule_tests",
    "tokenizer_tests",
]


def tokenizer_tests() -> dict[str, type]:
    """Return a test class for each registered tokenizer, by class name."""
    return _classes(TokenizerContract, "tokenizer", plugins.tokenizers())


def sampler_tests() -> dict[str, type]:
    """Return a test class for each registered sampler, by class name."""
    return _classes(SamplerContract, "sampler", plugins.samplers())


def dataset_tests() -> dict[str, type]:
    """Return a test class for each registered dataset, by class name."""
    return _classes(DatasetContract, "dataset", plugins.datasets(), "Dataset")


def exporter_tests() -> dict[str, type]:
    """Return a test class for each registered exporter, by class name."""
    return _classes(ExporterContract, "exporter", plugins.exporters(), "Exporter")


def optimizer_tests() -> dict[str, type]:
    """Return a test class for each registered optimizer, by class name."""
    return _classes(OptimizerContract, "optimizer", plugins.optimizers(), "Optimizer")


def schedule_tests() -> dict[str, type]:
    """Return a test class for each registered schedule, by class name."""
    return _classes(ScheduleContract, "schedule", plugins.schedules(), "Schedule")


def _classes(contract: type, attribute: str, parts: Mapping[str, Any], suffix: str = "") -> dict[str, type]:
    """Return a subclass of a contract for each part."""
    names = {name: class_name(name) + suffix for name in parts}
    return {names[name]: type(names[name], (contract,), {attribute: part}) for name, part in parts.items()}


def class_name(part: str) -> str:
    """Return the name of a part's test class, which pytest collects: `min-p` -> `TestMinP`."""
    return "Test" + "".join(word.capitalize() for word in part.replace("_", "-").replace(".", "-").split("-"))
