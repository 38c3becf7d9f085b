"""Which graphs of an export are opened, and what a session reads and writes."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import save_checkpoint, some_ids

from gpt2demo.engines import onnx as engine_room
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.engines.session import Binding
from gpt2demo.errors import SettingError
from gpt2demo.export.export import export_model

CHAIN = [("temperature", {"value": 0.7}), ("top-k", {"k": 20})]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = save_checkpoint(tmp_path_factory.mktemp("runs") / "tiny")
    specs = ["temperature:value=0.7", "top-k:k=20"]
    return export_model(source, output=tmp_path_factory.mktemp("exports") / "tiny", samplers=specs, report=lambda line: None)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that were opened, for models that count as large."""
    names: list[str] = []
    real = engine_room.open_session
    monkeypatch.setattr(engine_room, "PROBED", 0)
    monkeypatch.setattr(engine_room, "open_session", lambda file, *rest: (names.append(file.name), real(file, *rest))[1])
    return names


def drawing_engine(exported: Path) -> OnnxEngine:
    engine = OnnxEngine(exported, "cpu")
    engine.set_options(CHAIN)
    return engine


def test_a_large_model_is_in_memory_once(exported: Path, opened: list[str]) -> None:
    """Each session has a copy of the weights: only what is used is opened, also for a batch whose rows must be read singly."""
    engine = OnnxEngine(exported, "cpu")
    assert (opened, engine.provider) == ([], "CPUExecutionProvider")
    engine.set_options(CHAIN)
    ids = some_ids(3, 9)
    engine.draw(ids[:, :4], [0.5] * 3, ids[:, :4], 4)
    behind = engine.draw(ids[:, 4:], [0.2, 0.5, 0.8], ids, 4).copy()
    assert opened == ["generate.onnx"]
    whole = drawing_engine(exported)
    assert behind.tolist() == whole.draw(ids, [0.2, 0.5, 0.8], ids, 4).tolist()


def test_text_without_samplers_opens_the_model_alone(exported: Path, opened: list[str]) -> None:
    engine = OnnxEngine(exported, "cpu")
    engine.feed(some_ids(1, 5))
    engine.feed(some_ids(1, 1))
    assert opened == ["model.onnx"]


def test_a_graph_that_is_opened_later_knows_what_was_read(exported: Path, opened: list[str]) -> None:
    ids = some_ids(1, 12)
    expected = OnnxEngine(exported, "cpu").feed(ids)
    engine = drawing_engine(exported)
    engine.draw(ids[:, :8], [0.5], ids[:, :8], 8)
    np.testing.assert_allclose(engine.feed(ids[:, 8:]), expected, atol=1e-5)
    engine = OnnxEngine(exported, "cpu")
    engine.feed(ids[:, :8])
    engine.set_options(CHAIN)
    assert engine.draw(ids[:, 8:], [0.3], ids, 8) == drawing_engine(exported).draw(ids, [0.3], ids, 8)


@pytest.mark.parametrize("padding", [[0], [-1, 0], [0, 4], [[0], [0]]])
def test_padding_that_leaves_no_text_or_has_no_row_is_refused(exported: Path, padding: list[int]) -> None:
    with pytest.raises(SettingError, match="each of 2 rows, from 0 to 3"):
        OnnxEngine(exported, "cpu").feed(np.zeros((2, 4), np.int64), np.array(padding))


class Gpu:
    """A session as onnxruntime has it for a GPU: what is bound is copied to the device then, and never again."""

    def __init__(self) -> None:
        self.copies: dict[str, list[int]] = {}
        self.seen: list[dict[str, list[int]]] = []

    def io_binding(self) -> Any:
        return self

    def bind_input(self, name: str, device: str, index: int, dtype: Any, shape: tuple[int, ...], pointer: int) -> None:
        memory = (ctypes.c_int64 * shape[0]).from_address(pointer)
        self.copies[name] = list(memory)

    def run_with_iobinding(self, binding: Any) -> None:
        self.seen.append(dict(self.copies))


def test_a_gpu_is_given_what_an_array_holds_now() -> None:
    """The arrays stay bound from token to token, and their numbers change."""
    session, ids, mask = Gpu(), np.array([1]), np.array([1, 0])
    binding = Binding(session, "CUDAExecutionProvider")
    arrays = {"input_ids": ids, "attention_mask": mask}
    for step in range(3):
        ids[0], mask[:] = step, [1, step]
        binding.inputs(arrays)
        binding.run()
    assert session.seen == [{"input_ids": [step], "attention_mask": [1, step]} for step in range(3)]
