"""Exports with fp16, int8 and int4 weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import save_checkpoint

from gpt2demo.config import ModelConfig
from gpt2demo.errors import ExportError, SettingError
from gpt2demo.export.export import export_model
from gpt2demo.export.onnx import certificate
from gpt2demo.export.onnx.quantization import BLOCKS, quantize
from gpt2demo.generation.load import load


def silent(line: str) -> None:
    """Discard a line of progress."""


@pytest.mark.parametrize("bits", [8, 4])
def test_the_rounding_error_is_at_most_half_a_step(bits: int) -> None:
    """Except at the end of the range opposite to the largest magnitude, where it is at most one step."""
    matrix = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    matrix[3] = 0
    quantized = quantize(matrix, bits)
    integers = quantized.blocks if bits == 8 else np.stack([quantized.blocks & 15, quantized.blocks >> 4], -1)
    restored = (integers.reshape(20, -1, quantized.block).astype(np.float32) - 2 ** (bits - 1)) * quantized.scales[..., None]
    blocks = matrix.reshape(restored.shape)
    steps = np.abs(blocks - restored) / np.abs(quantized.scales[..., None])
    assert steps.max() <= 1.0001
    assert np.quantile(steps, 0.99) <= 0.5001
    largest = np.abs(blocks).argmax(-1)[..., None]
    np.testing.assert_allclose(np.take_along_axis(restored, largest, -1), np.take_along_axis(blocks, largest, -1), rtol=1e-6)


def test_a_width_that_no_block_size_divides_is_refused() -> None:
    with pytest.raises(SettingError, match=f"width of 20 is not divisible by {BLOCKS[8][-1]}"):
        quantize(np.zeros((4, 20), np.float32), 8)


@pytest.mark.parametrize(("dtype", "smaller"), [("fp16", 1.8), ("int8", 2.5), ("int4", 2.6)])
def test_fewer_bits_give_a_smaller_file_within_the_limits(
    tiny_checkpoint: Path, tmp_path: Path, dtype: str, smaller: float, tiny_export: Path
) -> None:
    """Scales and the graph limit the factor of a model with 30 thousand parameters."""
    folder = export_model(tiny_checkpoint, output=tmp_path / dtype, dtype=dtype, samplers=["temperature"], report=silent)
    content = json.loads((folder / "gpt2demo.json").read_text())
    assert content["dtype"] == dtype
    assert all(row["kl_divergence"] <= content["limits"]["kl_divergence"] for row in content["comparisons"])
    assert content["sampled"]["equal_tokens"] == content["sampled"]["tokens"]
    size = content["files"]["model.onnx"]["bytes"]
    assert size * smaller < (tiny_export / "model.onnx").stat().st_size
    assert "".join(load(folder).generate("Once", max_new_tokens=20, temperature=0))


def test_too_large_a_rounding_error_fails_the_export(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(certificate.ROUNDED, "int4", (1e-9, 1.1))
    with pytest.raises(ExportError, match=r"the distributions diverge by .* nats, the limit is 1e-09"):
        export_model(tiny_checkpoint, output=tmp_path / "exports" / "int4", dtype="int4", report=silent)
    monkeypatch.setitem(certificate.ROUNDED, "int4", (9.0, 0.5))
    with pytest.raises(ExportError, match="perplexity .* choose a larger --dtype"):
        export_model(tiny_checkpoint, output=tmp_path / "exports" / "int4", dtype="int4", report=silent)
    assert list((tmp_path / "exports").iterdir()) == []


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_heads_of_any_width_can_be_exported(tmp_path: Path, dtype: str) -> None:
    """onnxruntime's attention supports multiples of 8: heads of width 12 are padded to 16."""
    shape = ModelConfig(vocab_size=256, n_positions=32, n_embd=48, n_head=4, n_layer=2)
    folder = export_model(save_checkpoint(tmp_path / "odd", shape=shape), output=tmp_path / "out", dtype=dtype, report=silent)
    content = json.loads((folder / "gpt2demo.json").read_text())
    assert content["head_dim"] == 16
    assert all(row["largest_difference"] < (1e-4 if dtype == "fp32" else 1) for row in content["comparisons"])
    program = f"import runpy, sys; sys.argv = ['run.py', 'Once']; runpy.run_path({str(folder / 'run.py')!r}, run_name='__main__')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.startswith(b"Once")
