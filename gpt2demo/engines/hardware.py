"""What this machine can do: device, number format, memory."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable

import torch

from gpt2demo.errors import SettingError


def torch_device(name: str) -> torch.device:
    """The device that a setting means; `auto` is the first of NVIDIA GPU, Apple GPU, CPU that is there.

    Raises:
        SettingError: it is not there.
    """
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        name = next(device for device, available in there.items() if available())
    if not there[name]():
        raise SettingError(f"device={name!r}: this machine has none that torch can use; try --device auto")
    return torch.device(name)


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format that a setting means; `auto` is bfloat16 where the hardware computes in it, else float32."""
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


def out_of_memory(error: BaseException) -> bool:
    """Whether this is Python's or torch's way to say that memory ran out; on the CPU torch has no class for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed pages instead of giving them back: page faults cost up to a third of a step on the CPU."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold = -1, -3  # names and numbers of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 2**30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
