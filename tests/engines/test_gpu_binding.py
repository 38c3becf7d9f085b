"""Inputs and outputs on an NVIDIA GPU, with a session that records what a GPU would read. `tests/gpu` has the same on a GPU."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from samples import some_ids

from gpt2demo.engines import binding, session
from gpt2demo.engines import onnx as onnx_engine
from gpt2demo.engines.binding import NO_CAPTURE, GpuBinding
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.engines.session import Opened, open_session
from gpt2demo.errors import CheckpointError, SettingError


class Memory:
    """An array in the memory of a GPU."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.copy()

    def update_inplace(self, values: np.ndarray) -> None:
        assert values.shape == self.values.shape
        self.values[...] = values

    def shape(self) -> list[int]:
        return list(self.values.shape)

    def numpy(self) -> np.ndarray:
        return self.values.copy()


class GpuSession:
    """A session that adds its inputs `a` and `b` to `sum`. A captured run is replayed on the same memory, as on a GPU."""

    def __init__(self) -> None:
        self.bound: dict[str, Memory] = {}
        self.captured: dict[int, dict[str, Memory]] = {}

    def io_binding(self) -> Any:
        return self

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="a"), SimpleNamespace(name="b")]

    def get_input_memory_infos(self) -> list[Any]:
        return [SimpleNamespace(name="Cuda"), SimpleNamespace(name="Cuda")]

    def bind_ortvalue_input(self, name: str, value: Memory) -> None:
        self.bound[name] = value

    bind_ortvalue_output = bind_ortvalue_input

    def run_with_iobinding(self, bound: Any, options: Any) -> None:
        number = int(options.get_run_config_entry("gpu_graph_id"))
        memory = self.bound if number == NO_CAPTURE else self.captured.setdefault(number, dict(self.bound))
        memory["sum"].values[...] = memory["a"].values + memory["b"].values


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> GpuBinding:
    """A binding whose copies on the GPU are plain arrays."""
    monkeypatch.setattr(onnxruntime, "OrtValue", SimpleNamespace(ortvalue_from_numpy=lambda values, *device: Memory(values)))
    monkeypatch.setattr(binding, "buffer", lambda shape, dtype, device: Memory(np.zeros(shape, dtype)))
    return GpuBinding(GpuSession())


def test_a_replayed_step_reads_the_new_values_and_returns_the_new_result(on_gpu: GpuBinding) -> None:
    step, result = {"a": np.array([1, 2]), "b": np.array([10, 20])}, np.zeros(2, np.int64)
    for number in range(3):
        step["a"][:] = number
        on_gpu.inputs(step)
        on_gpu.output("sum", result)
        on_gpu.run(capture=1)
        assert result.tolist() == [10 + number, 20 + number]


def test_a_run_of_another_shape_is_not_captured(on_gpu: GpuBinding) -> None:
    for count in (2, 3, 2):
        result = np.zeros(count)
        on_gpu.inputs({"a": np.ones(count), "b": np.ones(count)})
        on_gpu.output("sum", result)
        on_gpu.run()
        assert result.tolist() == [2.0] * count


def test_a_missing_cudnn_is_named(on_gpu: GpuBinding, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime 1.31 loads it when a node needs it, such as the maximum in min-p."""

    def run(*arguments: object) -> None:
        raise RuntimeError("ReduceMax: cuDNN is unavailable for CUDA Execution Provider: dlopen failed for libcudnn.so")

    monkeypatch.setattr(GpuSession, "run_with_iobinding", run)
    with pytest.raises(SettingError, match="samplers need cuDNN 9; install it"):
        on_gpu.run()


def capturing(monkeypatch: pytest.MonkeyPatch, run: Callable[[Any, int], None]) -> None:
    """Make the engine treat its sessions on the CPU as if they could capture, and steps run by `run`."""

    def opened(file: Path, device: Any, *rest: Any) -> Opened:
        found = open_session(file, device, *rest)
        return found if device == "cpu" else Opened(found.session, "CUDAExecutionProvider", None)

    class OnCpu(binding.Binding):
        def run(self, capture: int = NO_CAPTURE) -> None:
            run(super(), capture)

    monkeypatch.setattr(onnx_engine, "open_session", opened)
    monkeypatch.setattr(onnx_engine, "GpuBinding", OnCpu)
    monkeypatch.setattr(onnx_engine, "buffer", lambda shape, dtype, device: binding.buffer(shape, dtype, "cpu"))


def test_single_steps_are_captured_and_a_new_batch_size_captures_again(
    tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures: list[int] = []
    capturing(monkeypatch, lambda bound, capture: (captures.append(capture), bound.run())[1])
    engine = OnnxEngine(tiny_export)
    assert engine.eager_reason is None
    for rows in (1, 2, 1):
        engine.reset()
        captures.clear()
        ids = some_ids(rows, 8)
        engine.feed(ids[:, :5])
        for column in ids.T[5:]:
            last = engine.feed(column[:, None])
        np.testing.assert_allclose(last, OnnxEngine(tiny_export, "cpu").feed(ids), atol=1e-5)
        assert captures[0] == NO_CAPTURE
        assert len(set(captures[1:])) == 1
        assert captures[1] > 0
    again = captures[1]
    engine.reset()
    captures.clear()
    engine.feed(some_ids(1, 3))
    engine.feed(some_ids(1, 1))
    assert captures == [NO_CAPTURE, again]


def test_a_step_that_cannot_be_captured_runs_without(tiny_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(bound: Any, capture: int) -> None:
        if capture != NO_CAPTURE:
            raise CheckpointError("operation not permitted when stream is capturing")
        bound.run()

    capturing(monkeypatch, run)
    engine, ids = OnnxEngine(tiny_export), some_ids(1, 7)
    engine.feed(ids[:, :5])
    engine.feed(ids[:, 5:6])
    np.testing.assert_allclose(engine.feed(ids[:, 6:]), OnnxEngine(tiny_export, "cpu").feed(ids), atol=1e-5)
    assert engine.eager_reason == "onnxruntime could not capture the step (operation not permitted when stream is capturing)"


def test_a_graph_that_copies_to_the_host_is_opened_without_capture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message is that of onnxruntime 1.31."""
    opened: list[Any] = []

    def create(file: str, options: Any, providers: list[Any]) -> Any:
        opened.append(providers[0][1])
        if providers[0][1]:
            raise RuntimeError(
                "This session cannot use the graph capture feature as requested by the user  as all compute graph …"
            )
        return SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(session, "expected_provider", lambda device, dtype: "CUDAExecutionProvider")
    found = session.open_session(tmp_path / "generate.onnx", "cuda", "fp16", 1)
    assert opened == [{"enable_cuda_graph": "1"}, {}]
    assert found.provider == "CUDAExecutionProvider"
    assert found.eager_reason == "generate.onnx copies between GPU and host, which a CUDA graph cannot contain"


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_missing_libraries_are_one_line_for_cuda_and_silent_for_auto(
    tiny_export: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], device: Any
) -> None:
    """A driver without CUDA's libraries: onnxruntime prints what it cannot load, and its sessions run on the CPU."""
    monkeypatch.setattr(session, "expected_provider", lambda device, dtype: "CUDAExecutionProvider")
    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas.so.13: cannot open shared object file")
    )
    with contextlib.nullcontext() if device == "auto" else pytest.raises(SettingError) as refused:
        found = open_session(tiny_export / "model.onnx", device, "fp16", 1)
        assert (found.provider, found.eager_reason) == ("CPUExecutionProvider", "the session runs on the CPU")
    if refused:
        message = (
            r"device='cuda': onnxruntime \S+ needs CUDA .* and cuDNN 9 \(libcublas.so.13 cannot be loaded\); install them .*"
        )
        assert re.fullmatch(message, str(refused.value))
    assert capfd.readouterr() == ("", "")
