"""Export to GGUF: one file with weights, shape and tokenizer, for llama.cpp and what is built on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from gpt2demo import hookimpl
from gpt2demo.interfaces import Exporter


class GgufExporter:
    """One GGUF file. What is heavy is imported when an export begins."""

    summary: ClassVar[str] = "GGUF, one file in 32, 16 or 8 bits; for llama.cpp and what is built on it"
    dtypes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "q8_0")

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        """Write NAME.gguf and prove it; see `gpt2demo.interfaces.Exporter`."""
        from gpt2demo_gguf.writing import write_export

        write_export(checkpoint, folder, dtype, report)


@hookimpl
def gpt2demo_exporters() -> dict[str, type[Exporter]]:
    """What this plugin gives."""
    return {"gguf": GgufExporter}
