"""Devices, dtypes and memory of this machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from gpt2demo.errors import SettingError
from gpt2demo.memory import glibc

if sys.platform != "win32":
    import resource

PEAKS = {
    "A100": 312e12,
    "B200": 2250e12,
    "H100": 989e12,
    "H200": 989e12,
    "L4": 121e12,
    "L40S": 362e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
}
"""Floating-point operations per second of dense bfloat16 matrix products with float32 sums, as NVIDIA states them."""


def torch_device(name: str) -> torch.device:
    """Return the device for a setting; `auto` is the first available of NVIDIA GPU, Apple GPU and CPU.

    Raises:
        SettingError: this machine has no such device.
    """
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        name = next(device for device, is_available in available.items() if is_available())
    if not available[name]():
        raise SettingError(f"device={name!r}: torch finds no such device on this machine; try --device auto")
    return torch.device(name)


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype for a setting; `auto` is bfloat16 where the hardware has instructions for it, else float32."""
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


def keep_freed_memory() -> None:
    """Make glibc reuse freed pages instead of returning them: page faults cost up to a third of a training step on a CPU."""
    if libc := glibc():
        m_trim_threshold, m_mmap_threshold = -1, -3  # names and numbers of malloc.h
        libc.mallopt(m_mmap_threshold, 2**30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process had so far, in bytes: allocated on an NVIDIA GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if found := _high_water_mark():
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _high_water_mark() -> int | None:
    """Return the peak that Linux reports for this program alone; getrusage begins with that of the process that started it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the stated peak of floating-point operations per second, or None if it is not known."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    if re.search(r"PCIe|NVL|Laptop", name):  # slower than the others of the same name
        return None
    return next((peak for model, peak in PEAKS.items() if re.search(rf"\b{model}\b", name)), None)
