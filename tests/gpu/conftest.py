"""The device of a test: with `pytest -m gpu`, each test in this folder runs on the CPU, and on an NVIDIA GPU where there is one.

A plain `pytest` runs them on a GPU only: `slow` leaves out the CPU, where the other tests show the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2demo.export.export import export_model

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.slow), "cuda"])
def device(request: pytest.FixtureRequest) -> Any:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that torch can use")
    return request.param


@pytest.fixture(scope="session")
def fp16_export(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export `tiny_checkpoint` in fp16, the dtype for NVIDIA GPUs, once per test process."""
    return export_model(
        tiny_checkpoint, dtype="fp16", output=tmp_path_factory.mktemp("exports") / "fp16", report=lambda line: None
    )
