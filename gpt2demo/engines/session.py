"""Opening a model in onnxruntime: on which device it really runs, with how many threads, and how its buffers are bound."""

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
    """A session whose inputs and outputs lie in arrays that stay where they are: a call copies and allocates nothing.

    A GPU cannot read those arrays: onnxruntime copies an input to it when it is bound, and never again, so there all are bound
    anew before each call.

    Args:
        session: an onnxruntime session.
        provider: the execution provider that it runs on.
    """

    def __init__(self, session: Any, provider: str = "CPUExecutionProvider") -> None:
        self._session = session
        self._binding = session.io_binding()
        self._in_place = provider == "CPUExecutionProvider"
        self._held: dict[str, Any] = {}  # keeps the memory alive that onnxruntime has only the address of
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._inputs: Mapping[str, npt.NDArray[Any]] = {}

    def inputs(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Read inputs from arrays from now on. The same mapping as last time is taken to have the same arrays."""
        if values is not self._inputs:
            self._inputs = values
            for name, value in values.items():
                self.input(name, value)

    def input(self, name: str, value: npt.NDArray[Any]) -> None:
        """Read an input from an array from now on, in C order."""
        if self._arrays.get(name) is not value:
            self._arrays[name] = value
            self._bind(name, value)

    def output(self, name: str, value: npt.NDArray[Any]) -> None:
        """Write an output into an array from now on, in C order."""
        if self._held.get(name) is not value:
            self._held[name] = value
            self._binding.bind_output(name, "cpu", 0, value.dtype, value.shape, address(value))

    def shared(self, source: str, target: str, value: Any) -> None:
        """Let an input and an output be one and the same `OrtValue`, on whatever device."""
        self._held[source] = value
        self._binding.bind_ortvalue_input(source, value)
        self._binding.bind_ortvalue_output(target, value)

    def run(self) -> None:
        """Compute.

        Raises:
            CheckpointError: the graph is not what its certificate says.
            MemoryError: it does not fit.
        """
        if not self._in_place:
            for name, value in self._arrays.items():
                self._bind(name, value)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime has a class for each kind of complaint, and no common base
            reason = " ".join(str(error).split())
            if "allocate memory" in reason or "bad allocation" in reason or "bad_alloc" in reason:
                raise MemoryError(reason) from None
            raise CheckpointError(
                f"the exported graph is not what its certificate says ({reason[-200:]}); export again"
            ) from None

    def _bind(self, name: str, value: npt.NDArray[Any]) -> None:
        self._binding.bind_input(name, "cpu", 0, value.dtype, value.shape, address(value))


def address(array: npt.NDArray[Any]) -> int:
    """Where an array's numbers begin in memory."""
    return int(array.__array_interface__["data"][0])


def buffer(shape: tuple[int, ...], dtype: npt.DTypeLike, device: str) -> Any:
    """An `OrtValue` on a device; on the CPU memory is only taken where something is written."""
    from onnxruntime import OrtValue

    if device == "cpu":
        return OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype))
    return OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, 0)


def cpu_threads() -> int:
    """How many cores this process may use: those of the machine, or fewer where it was given fewer (as in a container)."""
    cores = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such system, or no limit ("max")
        pass
    return min(cores, allowed)


def expected_provider(device: Device, dtype: str) -> str:
    """The execution provider that a model should run on, as far as can be seen before trying.

    Raises:
        SettingError: the device that was asked for cannot be had; says what is missing.
    """
    if device == "mps":
        raise SettingError("device='mps': onnxruntime computes on cpu or cuda; use one of these, or the torch engine")
    missing = _missing_for_cuda(dtype) if device in ("auto", "cuda") else "not asked for"
    if device == "cuda" and missing:
        raise SettingError(f"device='cuda': {missing}; or use --device cpu")
    return "CPUExecutionProvider" if missing else "CUDAExecutionProvider"


def open_session(file: Path, device: Device, dtype: str, threads: int) -> tuple[Any, str]:
    """An onnxruntime session, and the execution provider that it really runs on.

    Its threads wait for each other actively, which halves the time of a small model. They fall asleep some 40 ms after the last
    call: an engine that nobody uses takes no time.

    Raises:
        CheckpointError: the file is no ONNX model.
        SettingError: the device that was asked for cannot be had; says what is missing.
    """
    import onnxruntime

    providers = [expected_provider(device, dtype), "CPUExecutionProvider"]
    if providers[0] == "CUDAExecutionProvider":
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; that is said below
            onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=list(dict.fromkeys(providers)))
    except Exception as error:  # onnxruntime has a class for each kind of complaint, and no common base
        raise CheckpointError(f"{file}: onnxruntime cannot load it ({' '.join(str(error).split())[:200]})") from None
    provider: str = session.get_providers()[0]
    if device == "cuda" and not provider.startswith("CUDA"):
        needed = f"CUDA {onnxruntime.cuda_version} and cuDNN 9"
        raise SettingError(f"device='cuda': onnxruntime {onnxruntime.__version__} could not load {needed}; or use --device cpu")
    return session, provider


def _missing_for_cuda(dtype: str) -> str | None:
    """What keeps onnxruntime from an NVIDIA GPU, and what to do; None when nothing does as far as can be seen before trying."""
    import onnxruntime

    if dtype != "fp16":
        return f"this export is {dtype}, onnxruntime's attention on NVIDIA GPUs wants fp16; export again with --dtype fp16"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime is built without CUDA; `pip install onnxruntime-gpu` in place of onnxruntime"
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        status = ctypes.CDLL(library).cuInit(0)
    except OSError:
        return f"there is no NVIDIA driver ({library} cannot be loaded); install it"
    return f"the NVIDIA driver finds no usable GPU (cuInit gave {status})" if status else None
