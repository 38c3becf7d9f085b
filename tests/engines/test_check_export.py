"""Which export folders are found for a run, and which ones the ONNX engine refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_files import change_certificate, change_onnx, update_checksum
from samples import BYTES, save_checkpoint

from gpt2demo.engines.exported import export_of
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.runs.folder import Run
from gpt2demo.storage import TEMPORARY


def refused(folder: Path) -> str:
    """Return the one-line message with which a folder is refused."""
    with pytest.raises(CheckpointError) as error:
        OnnxEngine(folder, "cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------------------------- changed files


def test_a_changed_model_is_refused(export_copy):
    content = bytearray((export_copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (export_copy / "model.onnx").write_bytes(content)
    assert "is not the file that gpt2demo.json certifies" in refused(export_copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer/plugin.json"])
def test_a_changed_tokenizer_is_refused(export_copy, name):
    (export_copy / name).write_text((export_copy / name).read_text() + " ", encoding="utf-8")
    assert "is not the file that gpt2demo.json certifies" in refused(export_copy)


def test_weights_in_other_files_are_refused(export_copy):
    def move_out(model: onnx.ModelProto) -> None:
        onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)

    change_onnx(export_copy, move_out)
    assert (export_copy / "weights.bin").exists()
    assert "loads weights from other files" in refused(export_copy)


def test_a_graph_with_other_outputs_is_refused(export_copy):
    def rename_logits(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        model.graph.output[0].name = "scores"

    change_onnx(export_copy, rename_logits)
    assert "inputs and outputs" in refused(export_copy)


def test_a_file_that_is_not_a_model_is_refused(export_copy):
    (export_copy / "model.onnx").write_bytes(b"not a model")
    update_checksum(export_copy, "model.onnx")
    assert "onnxruntime cannot load it" in refused(export_copy)


# ---------------------------------------------------------------------------------------------- changed certificates


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 99}, "format 99, this program reads 3; use a newer gpt2demo"),
        ({"format": 1}, "export the model again"),
        ({"files": []}, "is not the file"),
        ({"files": {"model.onnx": "x"}}, "is not the file"),
        ({"shape": None}, "does not describe a usable model"),
        ({"shape": {"n_head": 0}}, "does not describe a usable model"),
        ({"shape": {**BYTES.model_dump(), "vocab_size": 300}}, "inputs and outputs"),
        ({"dtype": "fp8"}, "does not describe a usable model"),
        ({"samplers": [{"name": 3}]}, "does not describe a usable model"),
        ({"samplers": None}, "does not describe a usable model"),
    ],
)
def test_a_damaged_certificate_is_refused(export_copy, changes, reason):
    change_certificate(export_copy, lambda certificate: certificate.update(changes))
    assert reason in refused(export_copy)


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("inputs", {"value": 7}, "does not describe a usable model .samplers"),
        ("limits", {"value": [1, 2, 3]}, "does not describe a usable model .samplers"),
        ("inputs", {"value": "nope"}, "its inputs are not those of the samplers"),
        ("inputs", {}, "its inputs are not those of the samplers"),
        ("values", {}, "its inputs are not those of the samplers"),
    ],
)
def test_a_certificate_with_other_samplers_than_the_graph_is_refused(export_copy, part, changes, reason):
    change_certificate(export_copy, lambda certificate: certificate["samplers"][0].update({part: changes}))
    with pytest.raises(CheckpointError, match=reason):
        OnnxEngine(export_copy, "cpu").set_options([("temperature", {"value": 1.0}), ("top-p", {"p": 0.5})])


def test_a_graph_that_fails_at_run_time_is_a_one_line_error(export_copy):
    """The certificate promises a longer context than the position embedding has."""
    change_certificate(export_copy, lambda certificate: certificate["shape"].update(n_positions=4 * BYTES.n_positions))
    engine = OnnxEngine(export_copy, "cpu")
    with pytest.raises(CheckpointError, match="the exported graph does not match its certificate"):
        for _ in range(engine.n_positions):
            engine.feed(np.zeros((1, 1), np.int64))


# ---------------------------------------------------------------------------------------------- the export of a run


def test_the_export_of_a_run_is_found_by_name(tiny_checkpoint, tiny_export, monkeypatch):
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(tiny_export.parent))
    run = tiny_checkpoint.parent.parent
    assert export_of(Run(run)) == tiny_export
    with pytest.raises(RunError, match="gpt2demo export other --onnx"):
        export_of(Run(run.with_name("other")))


def test_without_an_export_of_its_name_the_only_other_export_of_a_run_is_used(export_copy, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(export_copy.parent))
    run = Run(tiny_checkpoint.parent.parent)
    other = export_copy.rename(export_copy.with_name("tiny-int8"))
    change_certificate(other, lambda certificate: certificate.update(dtype="int8"))
    assert export_of(run) == other
    shutil.copytree(other, other.with_name(f"{TEMPORARY}tiny-1-2"))  # an export in progress is not one
    assert export_of(run) == other
    second = shutil.copytree(other, other.with_name("tiny-short"))
    change_certificate(second, lambda certificate: certificate.update(dtype="fp32"))
    with pytest.raises(RunError, match=r"several exports; use the name of one instead: tiny-int8 \(int8\), tiny-short \(fp32\)"):
        export_of(run)


def test_an_export_older_than_its_run_is_used_with_a_warning(tiny_export, tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(tiny_export.parent))
    save_checkpoint(tmp_path / "tiny", step=2)
    with pytest.warns(UserWarning, match="not made from the run's newest checkpoint, step-00000002"):
        assert export_of(Run(tmp_path / "tiny")) == tiny_export
