"""Exporters: write a trained model in another format and verify the result against the original.

The built-in exporters are registered through the same hook as those of plugins. Heavy imports happen inside `export`, so listing
the formats is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, cast

from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Exporter


class OnnxExporter:
    """One folder for onnxruntime, Optimum, onnxruntime-genai and transformers.js, with a certificate.

    Args:
        samplers: the chain inside generate.onnx, each `NAME:key=value` or `@CHAIN`; empty for the default chain.

    Raises:
        PluginError: a sampler does not exist.
        SettingError: a sampler's option is unknown or out of range.
    """

    summary: ClassVar[str] = "ONNX with a certificate, for onnxruntime and programs based on it"
    dtypes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8", "int4")

    def __init__(self, *, samplers: Sequence[str] = ()) -> None:
        from gpt2demo.plugins import create_sampler

        for spec in samplers:
            if not spec.startswith("@"):  # a saved chain is stored with the model and resolved in `export`
                create_sampler(spec)
        self.samplers = samplers

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        """Write and verify the export; see `gpt2demo.interfaces.Exporter`."""
        from gpt2demo.engines.exported import Dtype
        from gpt2demo.export.onnx.write import write_export

        write_export(checkpoint, folder, cast("Dtype", dtype), self.samplers, report)


class HuggingFaceExporter:
    """A folder for transformers and every program that reads its GPT-2 format, with a model card."""

    summary: ClassVar[str] = "Hugging Face, float32, float16 or bfloat16, with a model card; for transformers"
    dtypes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        """Write and verify the export; see `gpt2demo.interfaces.Exporter`."""
        from gpt2demo.export.huggingface import write_export

        write_export(checkpoint, folder, dtype, report)


@hookimpl
def gpt2demo_exporters() -> dict[str, type[Exporter]]:
    """Return the built-in exporters by format."""
    return {"huggingface": HuggingFaceExporter, "onnx": OnnxExporter}
