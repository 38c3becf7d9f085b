"""The built-in exporters, registered through the same hook as any plugin's, and the one door to all of them.

Everything heavy is imported when an export begins: listing the formats costs nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from gpt2demo.chains import FILE as CHAINS
from gpt2demo.errors import CheckpointError, RunError, SettingError
from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Exporter
from gpt2demo.run import Run, exports_dir, find_model, now
from gpt2demo.storage import certainly, new_folder, read_json, remove_abandoned, write_json

MARK = "gpt2demo.json"
"""Every export has a file of this name: ONNX a certificate, others at least who made it and when."""


class OnnxExporter:
    """One folder for onnxruntime, Optimum, onnxruntime-genai and transformers.js, with proof that it is the same model."""

    summary: ClassVar[str] = "ONNX with a certificate, for onnxruntime and what is built on it"
    dtypes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8", "int4")

    def __init__(self, samplers: Sequence[str] = ()) -> None:
        self.samplers = samplers

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        """Write and prove; see `gpt2demo.interfaces.Exporter`."""
        from gpt2demo.export.onnx import write_export

        write_export(checkpoint, folder, dtype, self.samplers, report)  # type: ignore[arg-type]  # one of `dtypes`


class HuggingFaceExporter:
    """A folder for transformers and everything that reads its GPT-2, with a model card."""

    summary: ClassVar[str] = "Hugging Face, float32, float16 or bfloat16, with a model card; for transformers"
    dtypes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        """Write and prove; see `gpt2demo.interfaces.Exporter`."""
        from gpt2demo.export.huggingface import write_export

        write_export(checkpoint, folder, dtype, report)


@hookimpl
def gpt2demo_exporters() -> dict[str, type[Exporter]]:
    """The built-in exporters by format."""
    return {"huggingface": HuggingFaceExporter, "onnx": OnnxExporter}


def export_model(
    model: str | Path | None = None,
    format: str = "onnx",  # noqa: A002  # the option's name
    output: Path | None = None,
    *,
    dtype: str | None = None,
    samplers: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> Path:
    """Export a model into a folder that appears whole and proven, or not at all. An older export there is replaced.

    Files that somebody has put beside an older export's own are kept.

    Args:
        model: a run's name, the path of a run or checkpoint; left out, the newest run. Of a run the newest checkpoint is taken.
        format: the name of an exporter; plugins add more.
        output: the folder to write; left out, `exports/NAME` for ONNX and `exports/NAME-FORMAT` for other formats.
        dtype: how the weights' numbers are written; left out, the format's usual one.
        samplers: for ONNX, the sampler chain inside generate.onnx, each `NAME:key=value`; left out, the default chain.
        report: called with one line of text at each stage.

    Returns:
        The folder.

    Raises:
        RunError: there is no such model, or something else is at `output`.
        SettingError: the format does not have this dtype.
        PluginError: there is no such format.
        CheckpointError: the checkpoint is damaged, or the disk refused. What was there is there still.
        ExportError: the written model is not the same model.

    """
    exporter = _exporter(format, samplers)
    dtype = dtype or exporter.dtypes[0]
    if dtype not in exporter.dtypes:
        raise SettingError(f"dtype={dtype!r}: the format {format!r} can be written as {', '.join(exporter.dtypes)}")
    checkpoint, name = _source(model)
    asked = output or exports_dir() / (name if format == "onnx" else f"{name}-{format}")
    target = _target(asked)
    remove_abandoned(target)
    with new_folder(target) as temporary:
        with _while_it_is_there(checkpoint):
            exporter.export(checkpoint, temporary, dtype=dtype, report=report)
        about = read_json(temporary / MARK) if (temporary / MARK).exists() else {"exporter": format, "created": now()}
        write_json(temporary / MARK, {**about, "written": sorted({MARK, *_files(temporary)})})
        if (target / MARK).exists():  # only now: the new one is proven
            report(f"replacing the export that is in {asked}")
            _keep_own(target, temporary)
    return asked


def _exporter(format: str, samplers: Sequence[str]) -> Exporter:  # noqa: A002  # the option's name
    """An exporter by name. A wrong sampler is said here, before anything is written. Raises as `export_model` does."""
    from gpt2demo import plugins

    made = plugins.registry().part("exporters", format)
    if samplers and made is not OnnxExporter:
        raise SettingError(f"samplers={', '.join(samplers)}: the format {format!r} has no samplers inside; use onnx")
    for spec in samplers:
        if not spec.startswith("@"):  # that is a chain of the model's
            plugins.create_sampler(spec)
    exporter: Exporter = OnnxExporter(samplers) if made is OnnxExporter else made()
    return exporter


@contextmanager
def _while_it_is_there(checkpoint: Path) -> Iterator[None]:
    """Say what happened when a training that goes on has removed the checkpoint within the block."""
    try:
        yield
    except CheckpointError as error:
        if checkpoint.exists():
            raise
        advice = "stop the training first, or train with a larger --keep"
        raise RunError(f"{checkpoint}: was removed by the training while it was exported ({error}); {advice}") from None


def _files(folder: Path) -> set[str]:
    """All files below a folder, as paths within it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _keep_own(old: Path, new: Path) -> None:
    """Copy what somebody has put into an export, such as saved chains, to the one that takes its place."""
    there, written = _files(old), None
    with suppress(CheckpointError):
        written = read_json(old / MARK).get("written")
    own = there.difference(written) if isinstance(written, list) else there & {CHAINS}  # an older program did not say
    for name in own - _files(new):
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old / name, new / name)


def _target(asked: Path) -> Path:
    """Where to write, behind links.

    Raises:
        RunError: something else than an export is there, or the folder that this process is in.
    """
    target = Path(os.path.realpath(asked))
    if certainly(target.exists) and not _replaceable(target):
        raise RunError(f"{asked}: is already there and is no export; choose another --output")
    if Path.cwd().is_relative_to(target):
        raise RunError(f"{asked}: is the current folder, which cannot be replaced; choose another --output")
    return target


def _source(model: str | Path | None) -> tuple[Path, str]:
    """The verified checkpoint folder that a MODEL means, and what its export is called."""
    from gpt2demo.checkpoint import is_checkpoint, newest, verify
    from gpt2demo.engines.exported import is_export

    found = find_model(None if model is None else str(model), is_checkpoint, is_export)
    if isinstance(found, Run):
        return newest(found.checkpoints).path, found.name
    if is_export(found):
        raise RunError(f"{found}: is an export already; name the run or checkpoint it was made from")
    path = verify(found).path.resolve()
    run = Run(path.parent.parent)
    return path, f"{run.name}-{path.name}" if run.exists else path.name


def _replaceable(target: Path) -> bool:
    """Whether a folder is an export or empty."""
    return target.is_dir() and ((target / MARK).is_file() or not any(target.iterdir()))
