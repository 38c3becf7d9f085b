"""Open onnxruntime sessions: execution provider, CUDA graphs, and number of threads."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from gpt2demo.errors import CheckpointError, SettingError
from gpt2demo.memory import out_of_memory

Device = Literal["auto", "cpu", "cuda", "mps"]
WARNING, ERROR, FATAL = 2, 3, 4  # severities of onnxruntime's messages; 2 is its default


class Opened(NamedTuple):
    """An open session.

    Attributes:
        session: the onnxruntime session.
        provider: the execution provider that it uses.
        eager_reason: why it cannot capture its steps as CUDA graphs; None if it can.
    """

    session: Any
    provider: str
    eager_reason: str | None


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


def open_session(file: Path, device: Device, dtype: str, threads: int) -> Opened:
    """Open an onnxruntime session.

    Its threads spin while they wait for work, which halves the time of a small model. They go to sleep about 40 ms after the last
    call, so an idle engine uses no CPU time.

    Raises:
        CheckpointError: the file is not an ONNX model.
        SettingError: the requested device is not available; the message contains the reason.
    """
    import onnxruntime

    requested = expected_provider(device, dtype)
    if requested == "CPUExecutionProvider":
        return Opened(_session(file, threads), requested, "the session runs on the CPU")
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # the libraries that are missing
        onnxruntime.preload_dlls()
    onnxruntime.set_default_logger_severity(FATAL)  # it would print several lines about them
    eager_reason = None
    try:
        session = _session(file, threads, {"enable_cuda_graph": "1"})
    except CheckpointError as error:
        if "graph capture" not in str(error):
            raise
        eager_reason = f"{file.name} copies between GPU and host, which a CUDA graph cannot contain"
        session = _session(file, threads, {})
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    provider: str = session.get_providers()[0]
    if provider.startswith("CUDA"):
        return Opened(session, provider, eager_reason)
    if device == "cuda":
        raise SettingError(f"device='cuda': {_missing_libraries(printed.getvalue())}; or use --device cpu")
    return Opened(session, provider, "the session runs on the CPU")


def _missing_libraries(printed: str) -> str:
    """Return what onnxruntime could not load, from what it has printed, and a remedy."""
    import onnxruntime

    needed = f"CUDA {onnxruntime.cuda_version} and cuDNN 9"
    found = re.findall(r"Failed to load ([^\s:]+)", printed)
    names = f" ({', '.join(found)} cannot be loaded)" if found else ""
    remedy = 'install them with `pip install "onnxruntime-gpu[cuda,cudnn]"`'
    return f"onnxruntime {onnxruntime.__version__} needs {needed}{names}; {remedy}"


def _session(file: Path, threads: int, cuda: dict[str, str] | None = None) -> Any:
    """Open a session, on an NVIDIA GPU with the options `cuda` if given and possible, else on the CPU.

    Raises:
        CheckpointError: onnxruntime cannot load the file, or not with these options.
        MemoryError: memory ran out.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERROR if cuda is None else FATAL  # on a GPU, a refused capture is no error
    options.intra_op_num_threads = threads
    providers: list[Any] = [] if cuda is None else [("CUDAExecutionProvider", cuda)]
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one class per kind of error, without a common base
        if out_of_memory(error):
            raise MemoryError from error
        raise CheckpointError(f"{file}: onnxruntime cannot load it ({' '.join(str(error).split())[:200]})") from None


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
