"""The folder that `gpt2demo export --onnx` writes: which files it has, what its certificate says, and whether they may be run.

model.onnx      the model with all of its weights, for every runtime
generate.onnx   one step with samplers and draw inside; its weights are those in model.onnx
gpt2demo.json   the certificate: what was made from what, the files' checksums, and the proof that it is the same model
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
from gpt2demo.storage import read_json, safe_check, sha256

CERTIFICATE = "gpt2demo.json"
MODEL = "model.onnx"
GENERATE = "generate.onnx"
FORMAT = 3
Dtype = Literal["fp32", "fp16", "int8", "int4"]


def cache_names(prefix: str, n_layer: int) -> list[str]:
    """Names of the cache's tensors: `past_key_values.0.key`, `past_key_values.0.value`, `past_key_values.1.key` …"""
    return [f"{prefix}.{layer}.{part}" for layer in range(n_layer) for part in ("key", "value")]


def head_dim(config: ModelConfig) -> int:
    """Width of a head in the cache. onnxruntime's attention takes multiples of 8: other heads are filled up with zeros."""
    return -(-config.n_embd // config.n_head // 8) * 8


class Step(BaseModel):
    """A sampler inside generate.onnx, see `Exported.chain`."""

    name: str
    inputs: dict[str, str]
    limits: dict[str, tuple[int | float | None, int | float | None]]
    values: dict[str, int | float]
    fixed: dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """What the certificate says of a folder.

    Attributes:
        folder: where it lies.
        config: the model's shape.
        dtype: how its weights are stored.
        chain: the samplers inside generate.onnx in order, each with its `name`, its `inputs` (option -> input of the graph) and
            their `values` at the export, what these are limited to (`limits`: option -> the least and the largest that go in, or
            null), and its `fixed` options (option -> value); None where there is no generate.onnx.
    """

    folder: Path
    config: ModelConfig
    dtype: Dtype
    chain: list[dict[str, Any]] | None


def is_export(path: Path) -> bool:
    """Whether a folder claims to be an export for onnxruntime."""
    return safe_check((path / CERTIFICATE).is_file) and safe_check((path / MODEL).is_file)


def export_of(run: Run) -> Path:
    """The export of a run, which has the run's name; warns when the run has been trained on since.

    Raises:
        RunError: there is none.
    """
    folder = exports_dir() / run.name
    if not is_export(folder):
        raise RunError(f"run {run.name!r}: {folder} holds no export of it; make one with `gpt2demo export {run.name} --onnx`")
    source = read_json(folder / CERTIFICATE).get("source")
    newest = max(run.checkpoints.glob("step-*/manifest.json"), default=None)
    weights = _listed(read_json(newest), "model.safetensors") if newest else {}
    if newest and (not isinstance(source, dict) or source.get("sha256") != weights.get("sha256")):
        again = f"export again with `gpt2demo export {run.name} --onnx`"
        warnings.warn(f"{folder}: was not made from the run's newest checkpoint, {newest.parent.name}; {again}", stacklevel=2)
    return folder


def check_export(folder: Path) -> Exported:
    """What an export is, after making sure that its graphs are the certified files and bring no data from elsewhere.

    Raises:
        CheckpointError: it is not; says which file and why.
    """
    certificate = read_json(folder / CERTIFICATE)
    if (found := certificate.get("format")) != FORMAT:
        again = "export the model again" if isinstance(found, int) and found < FORMAT else "use a newer gpt2demo"
        raise CheckpointError(f"{folder}: has export format {found!r}, this program reads {FORMAT}; {again}")
    for name, foreign in ((MODEL, _ANY), (GENERATE, _ELSEWHERE)):
        if name == MODEL or (folder / name).is_file():
            _check_sum(folder, name, certificate)
            _check_references(folder / name, foreign)
    files = certificate.get("files")
    for name in files if isinstance(files, dict) else ():
        if name not in (MODEL, GENERATE):  # the tokenizer's
            _check_sum(folder, name, certificate)
    try:
        return Exported(
            folder, ModelConfig.create(**certificate["shape"]), _dtype(certificate["dtype"]), _chain(folder, certificate)
        )
    except (KeyError, TypeError, SettingError) as error:
        raise CheckpointError(f"{folder / CERTIFICATE}: describes no usable model ({error})") from None


_ANY = re.compile(rb"location")
_ELSEWHERE = re.compile(rb"location(?!\x12\x0amodel\.onnx)")


def _check_sum(folder: Path, name: str, certificate: dict[str, Any]) -> None:
    """Make sure that a file is the certified one.

    Raises:
        CheckpointError: it is missing, or another.
    """
    file = folder / name
    if not safe_check(file.is_file) or sha256(file) != _listed(certificate, name).get("sha256"):
        raise CheckpointError(f"{file}: is not the file that {CERTIFICATE} certifies; export the model again")


def _check_references(file: Path, foreign: re.Pattern[bytes]) -> None:
    """Make sure that a graph refers to no file that it must not refer to.

    ONNX names a file with weights under the key "location", before the file's name with its length; the exporter leaves no other
    text with that word in a graph. Searching the bytes takes no memory, parsing them would take as much as the model.

    Raises:
        CheckpointError: it does.
    """
    if not file.stat().st_size:
        raise CheckpointError(f"{file}: is empty; export the model again")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if foreign.search(content):
            raise CheckpointError(f"{file}: keeps weights in other files, which are not checked; export the model again")


def _dtype(name: Any) -> Dtype:
    if name not in ("fp32", "fp16", "int8", "int4"):
        raise TypeError(f"dtype {name!r}")
    return cast(Dtype, name)


def _chain(folder: Path, certificate: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The samplers inside generate.onnx; TypeError when the certificate describes none, though the file is there."""
    if not (folder / GENERATE).is_file():
        return None
    try:
        steps = TypeAdapter(list[Step]).validate_python(certificate["samplers"])
    except ValidationError as error:
        raise TypeError(f"samplers: {describe(error)}") from None
    return [step.model_dump() for step in steps]


def _listed(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """What a manifest or certificate says of a file; empty when it says nothing usable."""
    files = manifest.get("files")
    entry = files.get(name) if isinstance(files, dict) else None
    return entry if isinstance(entry, dict) else {}
