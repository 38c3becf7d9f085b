"""Export a model: choose the exporter, write into a temporary folder, move it into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import Any

from gpt2demo import plugins
from gpt2demo.errors import CheckpointError, RunError, SettingError
from gpt2demo.interfaces import Exporter
from gpt2demo.runs.find import find_model
from gpt2demo.runs.folder import Run, exports_dir, now
from gpt2demo.sampling.saved import FILE as CHAINS
from gpt2demo.storage import new_folder, read_json, remove_abandoned, safe_check, write_json

MARK = "gpt2demo.json"
"""Every export has a file of this name: ONNX a certificate, others at least who made it and when."""


def export_model(
    model: str | Path | None = None,
    format: str = "onnx",  # noqa: A002  # the option's name
    output: Path | None = None,
    *,
    dtype: str | None = None,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Path:
    """Export a model into a folder that appears whole and proven, or not at all. An older export there is replaced.

    Files that somebody has put beside an older export's own are kept.

    Args:
        model: a run's name, the path of a run or checkpoint; left out, the newest run. Of a run the newest checkpoint is taken.
        format: the name of an exporter; plugins add more.
        output: the folder to write; left out, `exports/NAME` for ONNX and `exports/NAME-FORMAT` for other formats.
        dtype: how the weights' numbers are written; left out, the format's usual one.
        report: called with one line of text at each stage.
        options: of the format, such as `samplers` for ONNX; see its exporter's constructor.

    Returns:
        The folder.

    Raises:
        RunError: there is no such model, or something else is at `output`.
        SettingError: the format does not have this dtype.
        PluginError: there is no such format.
        CheckpointError: the checkpoint is damaged, or the disk refused. What was there is there still.
        ExportError: the written model is not the same model.

    """
    exporter = _exporter(format, options)
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


def _exporter(format: str, options: dict[str, Any]) -> Exporter:  # noqa: A002  # the option's name
    """Create an exporter by name; its options are the parameters of its constructor. Raises as `export_model` does."""
    cls = plugins.registry().part("exporters", format)
    if unknown := sorted(options.keys() - signature(cls).parameters.keys()):
        raise SettingError(f"{unknown[0]}={options[unknown[0]]!r}: the format {format!r} has no such option")
    exporter: Exporter = cls(**options)
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
    if safe_check(target.exists) and not _replaceable(target):
        raise RunError(f"{asked}: is already there and is no export; choose another --output")
    if Path.cwd().is_relative_to(target):
        raise RunError(f"{asked}: is the current folder, which cannot be replaced; choose another --output")
    return target


def _source(model: str | Path | None) -> tuple[Path, str]:
    """The verified checkpoint folder that a MODEL means, and what its export is called."""
    from gpt2demo.engines.exported import is_export
    from gpt2demo.runs.checkpoint import newest, verify

    found = find_model(None if model is None else str(model), is_export)
    if isinstance(found, Run):
        return newest(found.checkpoints).path, found.name
    if is_export(found):
        raise RunError(f"{found}: is an export already; name the run or checkpoint it was made from")
    path = verify(found).path.resolve()
    run = Run.of_checkpoint(path)
    return path, f"{run.name}-{path.name}" if run else path.name


def _replaceable(target: Path) -> bool:
    """Whether a folder is an export or empty."""
    return target.is_dir() and ((target / MARK).is_file() or not any(target.iterdir()))
