"""Helpers that change the files of an ONNX export, together with their checksums in the certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from gpt2demo.storage import sha256


def change_onnx(export: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change model.onnx and its checksum."""
    model = onnx.load(export / "model.onnx")
    change(model)
    onnx.save(model, export / "model.onnx")
    update_checksum(export, "model.onnx")


def change_weight(model: onnx.ModelProto, by: float = 0.1) -> None:
    """Change one value of one matrix."""
    weight = next(w for w in model.graph.initializer if w.name == "h.1.mlp.c_fc.weight")
    values = numpy_helper.to_array(weight).copy()
    values[3, 5] += by
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def change_certificate(export: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of gpt2demo.json."""
    certificate = json.loads((export / "gpt2demo.json").read_text())
    change(certificate)
    (export / "gpt2demo.json").write_text(json.dumps(certificate))


def update_checksum(export: Path, name: str) -> None:
    """Write a file's checksum into the certificate."""
    change_certificate(export, lambda certificate: certificate["files"][name].update(sha256=sha256(export / name)))
