"""Memory of an export: a multiple of the weights, and what happens when it runs out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from samples import BYTES, save_checkpoint

from gpt2demo.errors import Error
from gpt2demo.export.export import export_model
from gpt2demo.export.onnx import certificate, float32, graph, protobuf, quantization, write

PROGRAM = """
import sys
from pathlib import Path
from gpt2demo.export.export import export_model
from gpt2demo.memory import release_memory

def resident(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

warm_up, checkpoint, folder, dtype = sys.argv[1:]
export_model(Path(warm_up), output=Path(folder) / "small", dtype=dtype, report=lambda line: None)  # imports, and caches of torch
release_memory()
Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
before = resident("VmRSS:")
export_model(Path(checkpoint), output=Path(folder) / "large", dtype=dtype, report=lambda line: None)
print(resident("VmHWM:") - before)
"""
LARGE = BYTES.with_changes(n_embd=640, n_head=10, n_layer=4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(("dtype", "copies"), [("fp32", 1.9), ("fp16", 5.1)])
def test_an_export_needs_memory_for_few_copies_of_the_weights(tmp_path: Path, dtype: str, copies: float) -> None:
    """The limits are half a copy above the measured values. With fp16, onnxruntime converts weights to float32 on a CPU."""
    checkpoints = [save_checkpoint(tmp_path / name, shape=shape) for name, shape in (("small", BYTES), ("large", LARGE))]
    command = [sys.executable, "-c", PROGRAM, *map(str, checkpoints), str(tmp_path / "exports"), dtype]
    used = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert used < copies * 4 * LARGE.n_parameters


def out_of_memory(*args: object, **options: object) -> None:
    """Fail as Python does."""
    raise MemoryError


def no_tensor(*args: object, **options: object) -> None:
    """Fail as torch does on a CPU."""
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    )


def bad_allocation(*args: object, **options: object) -> None:
    """Fail as onnxruntime does."""
    raise onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"
    )


STAGES = [
    (write, "convert_weights", out_of_memory),
    (quantization.np, "rint", out_of_memory),
    (graph, "layers", out_of_memory),
    (torch.export, "export", no_tensor),
    (protobuf, "_write_values", out_of_memory),
    (write, "sha256", out_of_memory),
    (certificate, "reference_logits", no_tensor),
    (certificate, "round_weights", no_tensor),
    (float32.ir, "load", out_of_memory),
    (onnxruntime, "InferenceSession", bad_allocation),
    (certificate, "compare_on_text", out_of_memory),
    (certificate, "compare_greedy", out_of_memory),
    (certificate, "compare_sampled", out_of_memory),
]


@pytest.mark.parametrize(("module", "name", "failure"), STAGES, ids=[name for _, name, _ in STAGES])
def test_running_out_of_memory_gives_advice_at_every_stage_and_leaves_nothing(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    failure: Callable[..., None],
) -> None:
    monkeypatch.setattr(module, name, failure)
    with pytest.raises(Error, match="^exporting tiny-step-00000001 as int8: out of memory; close other programs") as raised:
        export_model(tiny_checkpoint, output=tmp_path / "out", dtype="int8", samplers=["temperature"], report=lambda line: None)
    assert type(raised.value) is Error
    assert list(tmp_path.iterdir()) == []
