"""The built-in exporters, registered through the same hook as any plugin's, and the one door to all of them.

Everything heavy is imported when an export begins: listing the formats costs nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from gpt2demo.errors import RunError
from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Exporter


class OnnxExporter:
    """One folder for onnxruntime, Optimum, onnxruntime-genai and transformers.js, with proof that it is the same model."""

    summary: ClassVar[str] = "ONNX, float32, with a certificate; for onnxruntime and what is built on it"

    def export(self, checkpoint: Path, folder: Path, *, report: Callable[[str], None]) -> None:
        """Write and prove; see `gpt2demo.interfaces.Exporter`."""
        from gpt2demo.export.onnx import write_export

        write_export(checkpoint, folder, report)


@hookimpl
def gpt2demo_exporters() -> dict[str, type[Exporter]]:
    """The built-in exporters by format."""
    return {"onnx": OnnxExporter}


def export_model(
    checkpoint: Path, target: Path, format: str = "onnx", report: Callable[[str], None] = print  # noqa: A002  # the option's name
) -> Path:
    """Export a checkpoint into a folder that appears whole and proven, or not at all. An older export there is replaced.

    Args:
        checkpoint: a checkpoint folder; it is verified first.
        target: where the export shall be.
        format: the name of an exporter; plugins add more.
        report: called with one line of text at each stage.

    Returns:
        `target`.

    Raises:
        RunError: there is something else at `target`.
        PluginError: there is no such format.
        CheckpointError: the checkpoint is damaged, or the disk refused.
        ExportError: the written model is not the same model.
    """
    from gpt2demo import plugins
    from gpt2demo.checkpoint import verify
    from gpt2demo.storage import new_folder

    exporter: Exporter = plugins.registry().part("exporters", format)()
    if target.exists() and not _replaceable(target):
        raise RunError(f"{target}: is already there and is no export; choose another --output")
    verify(checkpoint)
    with new_folder(target) as temporary:
        exporter.export(checkpoint, temporary, report=report)
        if target.exists():
            shutil.rmtree(target)  # only now: the new one is proven
    return target


def _replaceable(target: Path) -> bool:
    """Whether a folder is an export or empty."""
    return target.is_dir() and ((target / "gpt2demo.json").is_file() or not any(target.iterdir()))
