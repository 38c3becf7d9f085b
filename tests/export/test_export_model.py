"""`export_model` and `gpt2demo export`: names, options, existing folders and failures. A tiny exporter replaces the real formats."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
from samples import BYTES, Cli, assert_one_line_error, save_checkpoint

from gpt2demo import hookimpl, plugins
from gpt2demo.errors import CheckpointError, ExportError, RunError, SettingError
from gpt2demo.export.export import export_model
from gpt2demo.export.onnx import write
from gpt2demo.storage import write_json
from gpt2demo.ui import models


class TextExporter:
    """Writes a text file; an exporter plugin with an option."""

    summary: ClassVar[str] = "plain text"
    dtypes: ClassVar[tuple[str, ...]] = ("fp32", "fp16")

    def __init__(self, *, greeting: str = "hello") -> None:
        self.greeting = greeting

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        (folder / "model.txt").write_text(f"{self.greeting} {dtype}")
        report(f"exported {checkpoint.name}")


@pytest.fixture(autouse=True)
def text_plugin(fresh_plugins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin with the format `text`."""
    module = ModuleType("gpt2demo_text")
    module.gpt2demo_exporters = hookimpl(lambda: {"text": TextExporter})  # type: ignore[attr-defined]
    module.gpt2demo_exporters.__name__ = "gpt2demo_exporters"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("gpt2demo.plugins.loading.installed", lambda: [EntryPoint("text", module.__name__, "gpt2demo")])


def export(model: Path, output: Path | None = None, format: str = "text", **options: object) -> Path:  # noqa: A002
    return export_model(model, format, output, report=lambda line: None, **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------- names


def test_an_export_has_the_name_of_its_run_or_checkpoint_and_format(tiny_checkpoint, tmp_path):
    lines: list[str] = []
    exports = tmp_path / "exports"
    assert export_model(tiny_checkpoint.parent.parent, "text", report=lines.append) == exports / "tiny-text"
    assert export_model(tiny_checkpoint, "text", report=lines.append) == exports / "tiny-step-00000001-text"
    assert lines == [f"exported {tiny_checkpoint.name}"] * 2
    assert export(tiny_checkpoint, dtype="fp16") == exports / "tiny-step-00000001-text-fp16"


def test_the_default_folder_of_an_onnx_export_has_the_name_of_the_run(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins.registry(), "part", lambda kind, name: TextExporter)
    assert export(tiny_checkpoint.parent.parent, format="onnx") == tmp_path / "exports" / "tiny"
    assert export(tiny_checkpoint.parent.parent, format="onnx", dtype="fp16") == tmp_path / "exports" / "tiny-fp16"


def test_an_export_cannot_be_exported(tiny_export):
    with pytest.raises(RunError, match="is already an export; use the run or checkpoint from which it was made"):
        export(tiny_export)


def test_listing_the_formats_imports_nothing_heavy():
    program = """
import sys
import gpt2demo.export
assert gpt2demo.export.gpt2demo_exporters()["onnx"].summary
assert not {"torch", "onnx", "onnxscript", "onnxruntime"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ---------------------------------------------------------------------------------------------- options


def test_options_are_parameters_of_the_exporters_constructor(tiny_checkpoint, tmp_path):
    folder = export(tiny_checkpoint, tmp_path / "out", greeting="welcome", dtype="fp16")
    assert (folder / "model.txt").read_text() == "welcome fp16"
    assert (export(tiny_checkpoint, tmp_path / "default") / "model.txt").read_text() == "hello fp32"


@pytest.mark.parametrize(
    ("format_", "options", "message"),
    [
        ("text", {"color": "red"}, r"color='red': not an option of the format 'text'; its options are greeting"),
        ("huggingface", {"samplers": ["top-k"]}, r"samplers=\['top-k'\]: not an option .* 'huggingface'; it has no options"),
        ("text", {"dtype": "int8"}, "dtype='int8': the format 'text' can be written as fp32, fp16"),
    ],
)
def test_unsupported_options_are_refused(tiny_checkpoint, tmp_path, format_, options, message):
    with pytest.raises(SettingError, match=message):
        export(tiny_checkpoint, tmp_path / "out", format_, **options)
    assert not (tmp_path / "out").exists()


def test_the_command_passes_only_given_samplers(tiny_checkpoint, tmp_path, invoke: Cli):
    done = invoke("export", tiny_checkpoint, "--huggingface", "--output", tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n"), done.stderr
    done = invoke("export", tiny_checkpoint, "--huggingface", "--sampler", "top-k", "--output", tmp_path / "other")
    assert_one_line_error(done, 2, "samplers=['top-k']", "'huggingface'")
    assert not (tmp_path / "other").exists()
    assert_one_line_error(invoke("export", tiny_checkpoint), 2, "--onnx", "--huggingface", "--format NAME")


# ---------------------------------------------------------------------------------------------- existing folders


def test_an_export_is_replaced_and_added_files_are_kept(tiny_checkpoint, tmp_path):
    folder, lines = tmp_path / "out", []
    export(tiny_checkpoint, folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("keep me")
    export_model(tiny_checkpoint, "text", folder, greeting="new", report=lines.append)
    assert (folder / "model.txt").read_text() == "new fp32"
    assert (folder / "notes" / "mine.txt").read_text() == "keep me"
    assert lines[-1] == f"replacing the existing export in {folder}"


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("fp32", 0.8, "replacing the existing export in"),
        ("int8", 0.8, "replacing the fp32 export in"),
        ("fp32", 1.0, "replacing the export with chain temperature:value=0.8 in"),
        ("int8", 1.0, "replacing the fp32 export with chain temperature:value=0.8 in"),
    ],
)
def test_replacing_an_export_of_another_dtype_or_chain_is_reported(tiny_checkpoint, tmp_path, monkeypatch, dtype, value, message):
    def write(self, checkpoint, folder, *, dtype, report):
        step = {"name": "temperature", "values": {"value": chosen}, "fixed": {}}
        write_json(folder / "gpt2demo.json", {"dtype": dtype, "samplers": [step]})

    monkeypatch.setattr(TextExporter, "export", write)
    monkeypatch.setattr(TextExporter, "dtypes", ("fp32", "int8"))
    folder, lines, chosen = tmp_path / "out", [], 0.8
    export(tiny_checkpoint, folder)
    chosen = value
    export_model(tiny_checkpoint, "text", folder, dtype=dtype, report=lines.append)
    assert lines == [f"{message} {folder}"]


def test_a_folder_that_is_not_an_export_is_not_replaced(tiny_checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(RunError, match="mine already exists and is not an export; choose another --output"):
        export(tiny_checkpoint, tmp_path / "mine")


def test_a_link_is_followed(tiny_checkpoint, tmp_path):
    export(tiny_checkpoint, tmp_path / "out")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "out", target_is_directory=True)
    assert export(tiny_checkpoint, link, greeting="new") == link
    assert link.is_symlink()
    assert (tmp_path / "out" / "model.txt").read_text() == "new fp32"


def test_the_current_folder_is_not_replaced(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(export(tiny_checkpoint, tmp_path / "out"))
    with pytest.raises(RunError, match="is the current folder and cannot be replaced"):
        export(tiny_checkpoint, Path())


# ---------------------------------------------------------------------------------------------- failures


def test_an_export_that_fails_its_verification_leaves_nothing(tiny_checkpoint, tmp_path, monkeypatch):
    def wrong(model, dtype):
        weights = convert(model, dtype)
        weights["h.1.mlp.c_fc.weight"] = weights["h.1.mlp.c_fc.weight"] + 0.01
        return weights

    convert = write.convert_weights
    monkeypatch.setattr(write, "convert_weights", wrong)
    monkeypatch.setattr(write, "write_generate", lambda *args: [])  # takes most of the time, and is not reached
    with pytest.raises(ExportError, match=r"model\.onnx differs from the PyTorch model"):
        export(tiny_checkpoint, tmp_path / "exports" / "wrong", "onnx")
    assert list((tmp_path / "exports").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows does not refuse it")
def test_an_old_export_is_unchanged_if_it_cannot_be_replaced(tiny_checkpoint, tmp_path, monkeypatch):
    folder = export(tiny_checkpoint, tmp_path / "exports" / "out")
    before, rename = contents(folder), os.rename

    def refuse(old, new):
        if Path(new) == folder and not str(old).endswith("-old"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CheckpointError, match="could not be written"):
        export(tiny_checkpoint, folder, greeting="new")
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_leftovers_of_a_killed_export_are_removed_and_never_listed(export_copy, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(export_copy.parent))
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    leftovers = [export_copy.with_name(f".tmp-{export_copy.name}-{process.pid}-1a2b3c4d{end}") for end in ("", "-old")]
    in_progress = export_copy.with_name(f".tmp-{export_copy.name}-{os.getpid()}-1a2b3c4d")
    for folder in (*leftovers, in_progress):
        shutil.copytree(export_copy, folder)
    assert [model for _, model in models.choices()] == [str(export_copy)]
    export(tiny_checkpoint, export_copy)
    assert {path.name for path in export_copy.parent.iterdir()} == {export_copy.name, in_progress.name}


def test_a_checkpoint_that_its_training_removes_during_the_export_is_reported(tmp_path, monkeypatch):
    checkpoint = save_checkpoint(tmp_path / "runs" / "growing", shape=BYTES.with_changes(n_layer=1))

    def fail(self, source, folder, *, dtype, report):
        shutil.rmtree(source)
        raise CheckpointError("model.safetensors is missing")

    monkeypatch.setattr(TextExporter, "export", fail)
    with pytest.raises(RunError, match="removed by its training during the export .* train with a larger --keep"):
        export(checkpoint, tmp_path / "out")
