"""Export to GGUF: one file with weights, shape and tokenizer, for llama.cpp and programs based on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from gpt2demo import hookimpl
from gpt2demo.interfaces import Exporter


class GgufExporter:
    """One GGUF file. Heavy imports happen inside `export`."""

    summary: ClassVar[str] = "GGUF, one file in 32, 16 or 8 bits; for llama.cpp and programs based on it"
    dtypes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "q8_0")

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        """Write and verify NAME.gguf; see `gpt2demo.interfaces.Exporter`."""
        from gpt2demo_gguf.writing import write_export

        write_export(checkpoint, folder, dtype, report)


@hookimpl
def gpt2demo_exporters() -> dict[str, type[Exporter]]:
    """Return the exporter of this plugin."""
    return {"gguf": GgufExporter}
