"""Export a model: choose the exporter, write into a temporary folder, move it to its destination."""

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
from gpt2demo.memory import LOADING_ADVICE, memory_advice
from gpt2demo.runs.find import find_model
from gpt2demo.runs.folder import Run, exports_dir, now
from gpt2demo.sampling.chains import FILE as CHAINS
from gpt2demo.storage import new_folder, read_json, remove_abandoned, safe_check, write_json

MARK = "gpt2demo.json"
"""File that identifies an export: the certificate of an ONNX export, elsewhere at least the exporter's name and the time."""


def export_model(
    model: str | Path | None = None,
    format: str = "onnx",  # noqa: A002  # the option's name
    output: Path | None = None,
    *,
    dtype: str | None = None,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Path:
    """Export a model; the folder appears complete and verified, or not at all.

    An existing export in this folder is replaced. Files that the user has added to it are kept.

    Args:
        model: a run's name, or the path of a run or checkpoint; default: the newest run. Of a run the newest checkpoint is used.
        format: the name of an exporter, built-in or from a plugin.
        output: the folder to write; default: `exports/NAME` for ONNX and `exports/NAME-FORMAT` for other formats, followed by
            `-DTYPE` unless the dtype is fp32.
        dtype: dtype of the exported weights; default: the first of the exporter's `dtypes`.
        report: called with one line of text at each stage.
        options: parameters of the exporter's constructor, such as `samplers` for ONNX.

    Returns:
        The folder.

    Raises:
        RunError: the model does not exist, or `output` exists and is not an export.
        SettingError: the format does not support the dtype or an option.
        PluginError: the format does not exist.
        CheckpointError: the checkpoint is damaged, or writing failed. An existing export is unchanged.
        ExportError: the written model differs from the original.
        Error: there is not enough memory.
    """
    exporter = _exporter(format, options)
    dtype = dtype or exporter.dtypes[0]
    if dtype not in exporter.dtypes:
        raise SettingError(f"dtype={dtype!r}: the format {format!r} can be written as {', '.join(exporter.dtypes)}")
    checkpoint, name = _source(model)
    requested = output or exports_dir() / _default_name(name, format, dtype)
    target = _target(requested)
    remove_abandoned(target)
    with new_folder(target) as temporary:
        with (
            memory_advice(f"exporting {name} as {dtype}", LOADING_ADVICE),
            _explain_removed(checkpoint),
            plugins.Guard("exporters", format, "export"),
        ):
            exporter.export(checkpoint, temporary, dtype=dtype, report=report)
        about = read_json(temporary / MARK) if (temporary / MARK).exists() else {"exporter": format, "created": now()}
        write_json(temporary / MARK, {**about, "written": sorted({MARK, *_files(temporary)})})
        if (target / MARK).exists():
            report(f"replacing the {_difference(target, temporary)} in {requested}")
            _keep_added_files(target, temporary)
    return requested


def _exporter(format: str, options: dict[str, Any]) -> Exporter:  # noqa: A002  # the option's name
    """Create an exporter by name. Its options are the parameters of its constructor.

    Raises:
        PluginError: the format does not exist.
        SettingError: the exporter does not have one of the options, or refuses its value.
    """
    cls = plugins.registry().part("exporters", format)
    supported = signature(cls).parameters
    for name, value in options.items():
        if name not in supported:
            existing = f"its options are {', '.join(supported)}" if supported else "it has no options"
            raise SettingError(f"{name}={value!r}: not an option of the format {format!r}; {existing}")
    with plugins.Guard("exporters", format, "__init__"):
        exporter: Exporter = cls(**options)
    return exporter


def _default_name(name: str, format: str, dtype: str) -> str:  # noqa: A002  # the option's name
    """Return the name of an export's folder: `NAME`, `NAME-int8`, `NAME-huggingface`, `NAME-huggingface-fp16`."""
    return "-".join([name, *([] if format == "onnx" else [format]), *([] if dtype == "fp32" else [dtype])])


def _difference(old: Path, new: Path) -> str:
    """Return a description of the export that is replaced: what distinguishes it from the new one."""
    try:
        before, after = read_json(old / MARK), read_json(new / MARK)
    except CheckpointError:
        return "damaged export"
    chains = [_chain(about.get("samplers")) for about in (before, after)]
    dtype = before.get("dtype")
    described = [f"{dtype} export" if dtype and dtype != after.get("dtype") else ""]
    described += [f"with chain {chains[0]}" if chains[0] and chains[0] != chains[1] else ""]
    if not any(described):
        return "existing export"
    return " ".join(filter(None, [described[0] or "export", described[1]]))


def _chain(samplers: Any) -> str:
    """Return the chain in a certificate as text: `temperature:value=0.8, top-p:p=0.95`."""
    steps = [step for step in samplers if isinstance(step, dict)] if isinstance(samplers, list) else []
    options = [{**step.get("values", {}), **step.get("fixed", {})} for step in steps]
    pairs = [":".join(f"{key}={value}" for key, value in values.items()) for values in options]
    return ", ".join(":".join(filter(None, [str(step.get("name")), text])) for step, text in zip(steps, pairs, strict=True))


@contextmanager
def _explain_removed(checkpoint: Path) -> Iterator[None]:
    """Replace a CheckpointError raised in the block if a running training has removed the checkpoint.

    Raises:
        RunError: the checkpoint does not exist any more.
    """
    try:
        yield
    except CheckpointError as error:
        if checkpoint.exists():
            raise
        advice = "stop the training first, or train with a larger --keep"
        raise RunError(f"{checkpoint}: removed by its training during the export ({error}); {advice}") from None


def _files(folder: Path) -> set[str]:
    """Return all files in a folder and its subfolders, as relative paths."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _keep_added_files(old: Path, new: Path) -> None:
    """Copy the files that the user added to an old export, such as saved chains, into the new one."""
    existing, written = _files(old), None
    with suppress(CheckpointError):
        written = read_json(old / MARK).get("written")
    # Exports of older versions do not list their files: there only saved chains are known to be added.
    added = existing.difference(written) if isinstance(written, list) else existing & {CHAINS}
    for name in added - _files(new):
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old / name, new / name)


def _target(requested: Path) -> Path:
    """Return the folder to write, with links resolved.

    Raises:
        RunError: the folder exists and is not an export, or it contains the current working directory.
    """
    target = Path(os.path.realpath(requested))
    if safe_check(target.exists) and not _replaceable(target):
        raise RunError(f"{requested} already exists and is not an export; choose another --output")
    if Path.cwd().is_relative_to(target):
        raise RunError(f"{requested} is the current folder and cannot be replaced; choose another --output")
    return target


def _source(model: str | Path | None) -> tuple[Path, str]:
    """Return the verified checkpoint folder for a MODEL argument, and the name of its export."""
    from gpt2demo.engines.exported import is_export
    from gpt2demo.runs.checkpoint import newest, verify

    found = find_model(None if model is None else str(model), is_export)
    if isinstance(found, Run):
        return newest(found.checkpoints).path, found.name
    if is_export(found):
        raise RunError(f"{found} is already an export; use the run or checkpoint from which it was made")
    path = verify(found).path.resolve()
    run = Run.of_checkpoint(path)
    return path, f"{run.name}-{path.name}" if run else path.name


def _replaceable(target: Path) -> bool:
    """Return whether a folder is empty or an export."""
    return target.is_dir() and ((target / MARK).is_file() or not any(target.iterdir()))
