"""What the settings `device` and `dtype` mean on a machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt2demo.engines.hardware import PEAKS, peak_flops, peak_memory, torch_device, training_dtype
from gpt2demo.errors import SettingError
from gpt2demo.memory import out_of_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True, "avx512_bw": True, "amx_tile": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_auto_is_bfloat16_only_with_instructions_for_it(capabilities, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert training_dtype("auto", CPU) == expected


def test_torch_reports_the_capabilities_by_these_names() -> None:
    """A capability under another name would silently be taken as missing."""
    assert {"avx512_bf16", "amx_bf16", "amx_tile"} <= torch.cpu.get_capabilities().keys()


def test_a_named_dtype_is_taken_as_it_is() -> None:
    assert training_dtype("fp32", CPU) == torch.float32
    assert training_dtype("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_is_the_first_available_device(cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert torch_device("auto") == torch.device(expected)
    if not cuda:
        with pytest.raises(SettingError, match="device='cuda'.*try --device auto"):
            torch_device("cuda")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 PCIe", None),
        ("Tesla T4", None),
    ],
)
def test_the_peak_is_known_for_some_gpus_in_bfloat16(name: str, model: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    gpu = torch.device("cuda")
    assert peak_flops(gpu, torch.bfloat16) == (PEAKS[model] if model else None)
    assert peak_flops(gpu, torch.float32) is None
    assert peak_flops(CPU, torch.bfloat16) is None


def test_the_peak_of_the_memory_grows_and_does_not_fall() -> None:
    before = peak_memory(CPU)
    block = np.ones(before // 8 + 2**22)  # more than was ever resident
    least = before + block.nbytes // 2
    assert peak_memory(CPU) > least
    del block
    assert peak_memory(CPU) > least


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("memory"), False),
    ],
)
def test_out_of_memory_is_recognized(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected
