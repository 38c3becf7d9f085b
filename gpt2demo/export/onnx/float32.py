"""The graph of a model.onnx with its stored weights, computing in float32.

An export with other weights than float32 has two kinds of error. Its weights are rounded, and so are its activations: to float16,
or to 8-bit integers in `MatMulNBits` at accuracy level 4. A difference in the last bit of an activation, for example between one
row and several at once, can change which way the next activations are rounded. So the modes of a correct export differ by as much
as its activations are rounded, which can hide an error in the graph.

The same graph in float32 has neither: the PyTorch model with the stored weights has to agree with it as a float32 export agrees
with the original. It is made from the file that is verified, so that every node, constant and weight of that file is compared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from gpt2demo.engines.exported import CERTIFICATE, FORMAT, MODEL
from gpt2demo.export.onnx.protobuf import save
from gpt2demo.storage import read_json, sha256, write_json

EXACT = 0
"""Accuracy level of `MatMulNBits` at which activations are not rounded."""


def write_float32(export: Path, folder: Path) -> None:
    """Write the model.onnx of an export with float32 arithmetic into a folder, and a certificate to load it."""
    model = ir.load(export / MODEL)
    _omit_last_cast(model.graph)
    for node in model.graph:
        if "accuracy_level" in node.attributes:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", EXACT)
        if node.op_type == "Cast" and node.attributes["to"].value == ir.DataType.FLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT.value)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT16:
            value.const_value = _widened(value.const_value)
            value.dtype = ir.DataType.FLOAT
    results = [value for node in model.graph for value in node.outputs]
    for value in [*model.graph.inputs, *model.graph.outputs, *results]:
        if value.dtype == ir.DataType.FLOAT16:
            value.dtype = ir.DataType.FLOAT
    save(model, folder / MODEL)
    certificate = read_json(export / CERTIFICATE)
    files = {MODEL: {"bytes": (folder / MODEL).stat().st_size, "sha256": sha256(folder / MODEL)}}
    write_json(folder / CERTIFICATE, {"format": FORMAT, "dtype": "fp32", "shape": certificate["shape"], "files": files})


def _omit_last_cast(graph: ir.Graph) -> None:
    """Omit the cast of float16 logits to float32, which would now be a copy of the logits, the largest tensor of a run."""
    logits = graph.outputs[0]
    cast = logits.producer()
    if cast is not None and cast.op_type == "Cast":
        (value,) = cast.inputs
        assert value is not None
        graph.outputs[0] = value
        graph.remove(cast, safe=True)
        value.name, value.type, value.shape = logits.name, logits.type, logits.shape


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a float16 tensor in float32, converted when it is written."""
    shape = ir.Shape(list(tensor.shape.numpy()))
    return ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(np.float32)), dtype=ir.DataType.FLOAT, shape=shape, name=tensor.name
    )
