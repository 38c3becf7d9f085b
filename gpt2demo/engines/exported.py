"""Read and check a folder written by `gpt2demo export --onnx`.

model.onnx      the model with all of its weights, for every runtime
generate.onnx   one decoding step with samplers; its weights refer to those in model.onnx
gpt2demo.json   the certificate: source, checksums of the files, and the results of the comparison with the original
"""

from __future__ import annotations

import mmap
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from gpt2demo.config import ModelConfig, describe
from gpt2demo.errors import CheckpointError, RunError, SettingError
from gpt2demo.runs.folder import Run, exports_dir
from gpt2demo.storage import TEMPORARY, read_json, safe_check, sha256

CERTIFICATE = "gpt2demo.json"
MODEL = "model.onnx"
GENERATE = "generate.onnx"
FORMAT = 3
Dtype = Literal["fp32", "fp16", "int8", "int4"]


def cache_names(prefix: str, n_layer: int) -> list[str]:
    """Return the names of the cache's tensors: `past_key_values.0.key`, `past_key_values.0.value`, `past_key_values.1.key` …"""
    return [f"{prefix}.{layer}.{part}" for layer in range(n_layer) for part in ("key", "value")]


def head_dim(config: ModelConfig) -> int:
    """Return the width of a head in the cache: padded with zeros to a multiple of 8, as onnxruntime's attention requires."""
    return -(-config.n_embd // config.n_head // 8) * 8


class Step(BaseModel):
    """A sampler in generate.onnx; see `Exported.samplers`."""

    name: str
    inputs: dict[str, str]
    limits: dict[str, tuple[int | float | None, int | float | None]]
    values: dict[str, int | float]
    fixed: dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """A checked export.

    Attributes:
        folder: the export's folder.
        config: the model's shape.
        dtype: dtype of the stored weights.
        samplers: the samplers in generate.onnx in order, or None without generate.onnx. Each has its `name`, `inputs` (option ->
            input of the graph), the `values` of these options at the export, `limits` (option -> smallest and largest value of
            the input, or null), and `fixed` (option -> value) for options that are constants of the graph.
    """

    folder: Path
    config: ModelConfig
    dtype: Dtype
    samplers: list[dict[str, Any]] | None


def is_export(path: Path) -> bool:
    """Return whether a folder has the files of an ONNX export. They are not checked."""
    return safe_check((path / CERTIFICATE).is_file) and safe_check((path / MODEL).is_file)


def stored_dtype(folder: Path) -> str:
    """Return the dtype in an export's certificate, for lists of exports; they are not checked."""
    try:
        return str(read_json(folder / CERTIFICATE).get("dtype"))
    except CheckpointError:
        return "damaged"


def exports_of(run: Run) -> list[Path]:
    """Return the exports that were made from a run, by name. Exports in other folders than `exports_dir()` are not found."""
    try:
        folders = sorted(path for path in exports_dir().iterdir() if not path.name.startswith(TEMPORARY) and is_export(path))
    except OSError:  # there are no exports
        return []
    return [folder for folder in folders if _made_from(folder) == run.name]


def _made_from(folder: Path) -> Any:
    """Return the name of the run in an export's certificate, or None."""
    try:
        source = read_json(folder / CERTIFICATE).get("source")
    except CheckpointError:
        return None
    return source.get("run") if isinstance(source, dict) else None


def export_of(run: Run) -> Path:
    """Return the export with a run's name, or the only other export of the run.

    Warn if it was not made from the run's newest checkpoint.

    Raises:
        RunError: the run has no export, or several and none has its name.
    """
    folder = exports_dir() / run.name
    if not is_export(folder):
        others = exports_of(run)
        if not others:
            raise RunError(f"run {run.name!r} has no export in {folder}; make one with `gpt2demo export {run.name} --onnx`")
        if len(others) > 1:
            names = ", ".join(f"{other.name} ({stored_dtype(other)})" for other in others)
            raise RunError(f"run {run.name!r} has several exports; use the name of one instead: {names}")
        folder = others[0]
    source = read_json(folder / CERTIFICATE).get("source")
    newest = max(run.checkpoints.glob("step-*/manifest.json"), default=None)
    weights = _file_entry(read_json(newest), "model.safetensors") if newest else {}
    if newest and (not isinstance(source, dict) or source.get("sha256") != weights.get("sha256")):
        again = f"export again with `gpt2demo export {run.name} --onnx`"
        warnings.warn(f"{folder} was not made from the run's newest checkpoint, {newest.parent.name}; {again}", stacklevel=2)
    return folder


def check_export(folder: Path) -> Exported:
    """Check an export: format version, checksums of all certified files, and no references to other files. Return its content.

    Raises:
        CheckpointError: a check failed; the message contains the file and the reason.
    """
    certificate = read_json(folder / CERTIFICATE)
    if (found := certificate.get("format")) != FORMAT:
        again = "export the model again" if isinstance(found, int) and found < FORMAT else "use a newer gpt2demo"
        raise CheckpointError(f"{folder}: has export format {found!r}, this program reads {FORMAT}; {again}")
    for name, forbidden in ((MODEL, _ANY_FILE), (GENERATE, _OTHER_FILE)):
        if name == MODEL or (folder / name).is_file():
            _check_sum(folder, name, certificate)
            _check_references(folder / name, forbidden)
    files = certificate.get("files")
    for name in files if isinstance(files, dict) else ():
        if name not in (MODEL, GENERATE):  # files of the tokenizer
            _check_sum(folder, name, certificate)
    try:
        return Exported(
            folder, ModelConfig.create(**certificate["shape"]), _dtype(certificate["dtype"]), _samplers(folder, certificate)
        )
    except (KeyError, TypeError, SettingError) as error:
        raise CheckpointError(f"{folder / CERTIFICATE}: does not describe a usable model ({error})") from None


_ANY_FILE = re.compile(rb"location")
_OTHER_FILE = re.compile(rb"location(?!\x12\x0amodel\.onnx)")


def _check_sum(folder: Path, name: str, certificate: dict[str, Any]) -> None:
    """Check that a file has the checksum in the certificate.

    Raises:
        CheckpointError: it is missing or modified.
    """
    file = folder / name
    if not safe_check(file.is_file) or sha256(file) != _file_entry(certificate, name).get("sha256"):
        raise CheckpointError(f"{file} is not the file that {CERTIFICATE} certifies; export the model again")


def _check_references(file: Path, forbidden: re.Pattern[bytes]) -> None:
    """Check that a graph does not load weights from other files.

    In ONNX such a reference is the key "location", followed by the length and the name of the file. Exported graphs contain this
    word nowhere else. Searching the bytes needs no memory; parsing them would need as much as the model.

    Raises:
        CheckpointError: it does, or the file is empty.
    """
    if not file.stat().st_size:
        raise CheckpointError(f"{file} is empty; export the model again")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if forbidden.search(content):
            raise CheckpointError(f"{file} loads weights from other files, which are not checked; export the model again")


def _dtype(name: Any) -> Dtype:
    if name not in ("fp32", "fp16", "int8", "int4"):
        raise TypeError(f"dtype {name!r}")
    return cast(Dtype, name)


def _samplers(folder: Path, certificate: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the samplers in generate.onnx, or None without that file.

    Raises:
        TypeError: the file exists, and the certificate does not describe its samplers.
    """
    if not (folder / GENERATE).is_file():
        return None
    try:
        steps = TypeAdapter(list[Step]).validate_python(certificate["samplers"])
    except ValidationError as error:
        raise TypeError(f"samplers: {describe(error)}") from None
    return [step.model_dump() for step in steps]


def _file_entry(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the entry of a file in a manifest or certificate; empty if it is missing or invalid."""
    files = manifest.get("files")
    entry = files.get(name) if isinstance(files, dict) else None
    return entry if isinstance(entry, dict) else {}
