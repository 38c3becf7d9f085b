"""Open onnxruntime sessions: execution provider, number of threads, and bound buffers."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil

from gpt2demo.errors import CheckpointError, SettingError

Device = Literal["auto", "cpu", "cuda", "mps"]


class Binding:
    """A session whose inputs and outputs stay bound to arrays, so that a call copies and allocates nothing.

    onnxruntime copies an input to a GPU only when it is bound. There all inputs are bound again before each call.

    Args:
        session: an onnxruntime session.
        provider: the session's execution provider.
    """

    def __init__(self, session: Any, provider: str = "CPUExecutionProvider") -> None:
        self._session = session
        self._binding = session.io_binding()
        self._in_place = provider == "CPUExecutionProvider"
        self._held: dict[str, Any] = {}  # onnxruntime has only the address: keeps the memory alive
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._inputs: Mapping[str, npt.NDArray[Any]] = {}

    def inputs(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Bind inputs to arrays. Passing the same mapping again does nothing: its arrays must be the same."""
        if values is not self._inputs:
            self._inputs = values
            for name, value in values.items():
                self.input(name, value)

    def input(self, name: str, value: npt.NDArray[Any]) -> None:
        """Bind an input to an array in C order."""
        if self._arrays.get(name) is not value:
            self._arrays[name] = value
            self._bind(name, value)

    def output(self, name: str, value: npt.NDArray[Any]) -> None:
        """Bind an output to an array in C order."""
        if self._held.get(name) is not value:
            self._held[name] = value
            self._binding.bind_output(name, "cpu", 0, value.dtype, value.shape, address(value))

    def shared(self, source: str, target: str, value: Any) -> None:
        """Bind an input and an output to the same `OrtValue`, on any device."""
        self._held[source] = value
        self._binding.bind_ortvalue_input(source, value)
        self._binding.bind_ortvalue_output(target, value)

    def run(self) -> None:
        """Run the session on the bound arrays.

        Raises:
            CheckpointError: the graph does not match its certificate.
            MemoryError: memory is exhausted.
        """
        if not self._in_place:
            for name, value in self._arrays.items():
                self._bind(name, value)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime has one class per kind of error, without a common base
            reason = " ".join(str(error).split())
            if "allocate memory" in reason or "bad allocation" in reason or "bad_alloc" in reason:
                raise MemoryError(reason) from None
            raise CheckpointError(f"the exported graph does not match its certificate ({reason[-200:]}); export again") from None

    def _bind(self, name: str, value: npt.NDArray[Any]) -> None:
        self._binding.bind_input(name, "cpu", 0, value.dtype, value.shape, address(value))


def address(array: npt.NDArray[Any]) -> int:
    """Return the memory address of an array's first element."""
    return int(array.__array_interface__["data"][0])


def buffer(shape: tuple[int, ...], dtype: npt.DTypeLike, device: str) -> Any:
    """Return a new `OrtValue` on a device. On the CPU, the system allocates memory only for pages that are written."""
    from onnxruntime import OrtValue

    if device == "cpu":
        return OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype))
    return OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, 0)


def cpu_threads() -> int:
    """Return the number of cores that this process may use, limited by affinity and container quota."""
    cores = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # not Linux, or no limit ("max")
        pass
    return min(cores, allowed)


def expected_provider(device: Device, dtype: str) -> str:
    """Return the execution provider to request. A session may still fall back to another one.

    Raises:
        SettingError: the requested device is not available; the message contains the reason.
    """
    if device == "mps":
        raise SettingError("device='mps': onnxruntime computes on cpu or cuda; use one of these, or the torch engine")
    missing = _missing_for_cuda(dtype) if device in ("auto", "cuda") else "not requested"
    if device == "cuda" and missing:
        raise SettingError(f"device='cuda': {missing}; or use --device cpu")
    return "CPUExecutionProvider" if missing else "CUDAExecutionProvider"


def open_session(file: Path, device: Device, dtype: str, threads: int) -> tuple[Any, str]:
    """Open an onnxruntime session.

    Its threads spin while they wait for work, which halves the time of a small model. They go to sleep about 40 ms after the last
    call, so an idle engine uses no CPU time.

    Returns:
        The session, and the execution provider that it uses.

    Raises:
        CheckpointError: the file is not an ONNX model.
        SettingError: the requested device is not available; the message contains the reason.
    """
    import onnxruntime

    providers = [expected_provider(device, dtype), "CPUExecutionProvider"]
    if providers[0] == "CUDAExecutionProvider":
        with contextlib.redirect_stdout(io.StringIO()):  # it prints missing libraries; the error below reports them
            onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=list(dict.fromkeys(providers)))
    except Exception as error:  # onnxruntime has one class per kind of error, without a common base
        raise CheckpointError(f"{file}: onnxruntime cannot load it ({' '.join(str(error).split())[:200]})") from None
    provider: str = session.get_providers()[0]
    if device == "cuda" and not provider.startswith("CUDA"):
        needed = f"CUDA {onnxruntime.cuda_version} and cuDNN 9"
        raise SettingError(f"device='cuda': onnxruntime {onnxruntime.__version__} could not load {needed}; or use --device cpu")
    return session, provider


def _missing_for_cuda(dtype: str) -> str | None:
    """Return why onnxruntime cannot use an NVIDIA GPU, and a remedy; None if no reason is visible before opening a session."""
    import onnxruntime

    if dtype != "fp16":
        return f"this export is {dtype}, onnxruntime's attention on NVIDIA GPUs requires fp16; export again with --dtype fp16"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA support; `pip install onnxruntime-gpu` instead of onnxruntime"
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        status = ctypes.CDLL(library).cuInit(0)
    except OSError:
        return f"the NVIDIA driver is missing ({library} cannot be loaded); install it"
    return f"the NVIDIA driver finds no usable GPU (cuInit returned {status})" if status else None
