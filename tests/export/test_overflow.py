"""Values beyond a dtype's range are refused, with the tensor's name and a dtype that would work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt2demo.errors import ExportError
from gpt2demo.export.export import export_model
from gpt2demo.model import GPT2
from gpt2demo.runs import weights

Change = Callable[[GPT2], None]
Save = Callable[[Change], Path]


def export(checkpoint: Path, folder: Path, kind: str, dtype: str) -> Path:
    options = {"samplers": ["temperature"]} if kind == "onnx" else {}
    return export_model(checkpoint, kind, folder / "out", dtype=dtype, report=lambda line: None, **options)


@pytest.fixture
def changed(tiny_checkpoint: Path, tmp_path: Path) -> Save:
    """Return a function that saves `tiny_checkpoint` with changed weights and returns the path."""

    def save(change: Change) -> Path:
        model = weights.load_model(tiny_checkpoint)
        with torch.no_grad():
            change(model)
        progress = {"step": 1, "validation_loss": None}
        return weights.save_checkpoint(tmp_path / "checkpoints", model, tiny_checkpoint / "tokenizer", None, progress).path

    return save


def large_weight(model: GPT2) -> None:
    """Set a weight that float16 rounds to infinity."""
    model.h[1].mlp.c_fc.weight[3, 5] = -65520


def large_activation(model: GPT2) -> None:
    """Set weights within float16's range whose products are not."""
    model.h[0].mlp.c_fc.bias[:] = 3e4
    model.h[0].mlp.c_proj.weight[0] += 1


def infinite_logits(model: GPT2) -> None:
    """Set finite weights whose product is infinite."""
    model.ln_f.weight[:] = 1e38
    model.wte.weight *= 100


def tiny_weights(model: GPT2) -> None:
    """Set weights that float16 rounds to zero."""
    model.h[0].attn.c_proj.weight *= 1e-9


LARGE = [
    (large_weight, r"the weight h\.1\.mlp\.c_fc\.weight reaches 6\.55e\+04"),
    (large_activation, r"an activation of h\.0\.mlp\.c_proj reaches"),
]


@pytest.mark.parametrize(("kind", "alternatives"), [("onnx", "fp32 or int8"), ("huggingface", "fp32 or bf16")])
@pytest.mark.parametrize(("change", "message"), LARGE)
def test_a_value_beyond_the_range_of_fp16_is_refused(
    changed: Save, tmp_path: Path, kind: str, alternatives: str, change: Change, message: str
) -> None:
    checkpoint = changed(change)
    with pytest.raises(ExportError, match=f"{message}.*the largest finite value is 65504; export {alternatives}"):
        export(checkpoint, tmp_path / "exports", kind, "fp16")
    assert list((tmp_path / "exports").iterdir()) == []


@pytest.mark.parametrize("change", [change for change, _ in LARGE])
@pytest.mark.parametrize(("kind", "dtype"), [("onnx", "fp32"), ("onnx", "int8"), ("huggingface", "bf16")])
def test_the_recommended_dtypes_work(changed: Save, tmp_path: Path, change: Change, kind: str, dtype: str) -> None:
    assert export(changed(change), tmp_path, kind, dtype).is_dir()


@pytest.mark.parametrize(("kind", "dtype"), [("onnx", "fp32"), ("onnx", "int4"), ("huggingface", "fp32")])
def test_a_model_with_infinite_logits_is_refused_in_any_dtype(changed: Save, tmp_path: Path, kind: str, dtype: str) -> None:
    checkpoint = changed(infinite_logits)
    with pytest.raises(ExportError, match="the logits of the model are not finite; its weights are too large"):
        export(checkpoint, tmp_path, kind, dtype)


def test_weights_that_become_zero_are_exported(changed: Save, tmp_path: Path) -> None:
    assert export(changed(tiny_weights), tmp_path, "onnx", "fp16").is_dir()
