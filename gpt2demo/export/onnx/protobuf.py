"""Write a model.onnx weight by weight, and find the bytes of each weight in it, so that generate.onnx can refer to them.

The onnx library would hold the whole file in memory, twice while writing, and would not report the offsets. This module uses the
Protocol Buffers encoding: each field is a key, with its number and wire type, followed by its value; the order of the fields does
not matter. Three field numbers lead to the weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

GRAPH = 7  # field number in ModelProto
INITIALIZER = 5  # field number in GraphProto
NAME, RAW_DATA = 8, 9  # field numbers in TensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
SIZES = {FIXED64: 8, FIXED32: 4}
LARGE = 1024
"""Bytes from which a weight is written on its own."""


def save(model: ir.Model, file: Path) -> None:
    """Write a model to one file. Only one of its large weights is evaluated and copied at a time."""
    initializers = model.graph.initializers
    tensors = {name: value.const_value for name, value in initializers.items()}
    large = {name: tensor for name, tensor in tensors.items() if tensor is not None and tensor.nbytes >= LARGE}
    removed = [initializers.pop(name) for name in large]
    try:
        proto = ir.to_proto(model)
    finally:
        initializers.update({value.name: value for value in removed if value.name})
    headers = {name: _tensor_header(name, tensor) for name, tensor in large.items()}
    sizes = {name: len(headers[name]) + tensor.nbytes for name, tensor in large.items()}
    rest = proto.graph.SerializeToString()
    proto.ClearField("graph")
    keys = {name: _key(INITIALIZER, size) for name, size in sizes.items()}
    with file.open("wb") as opened:
        opened.write(proto.SerializeToString())
        opened.write(_key(GRAPH, len(rest) + sum(len(keys[name]) + sizes[name] for name in large)))
        opened.write(rest)
        for name, tensor in large.items():
            opened.write(keys[name] + headers[name])
            _write_values(opened, tensor)


def _tensor_header(name: str, tensor: ir.TensorProtocol) -> bytes:
    """Return an encoded TensorProto up to the first byte of its values."""
    header: bytes = onnx.TensorProto(name=name, dims=list(tensor.shape.numpy()), data_type=tensor.dtype.value).SerializeToString()
    return header + _key(RAW_DATA, tensor.nbytes)


def _write_values(opened: BinaryIO, tensor: ir.TensorProtocol) -> None:
    """Write a tensor's values, little-endian."""
    array = np.ascontiguousarray(tensor.numpy())
    opened.write(array.astype(array.dtype.newbyteorder("<"), copy=False).view(np.uint8).data)


def _key(number: int, length: int) -> bytes:
    """Return the key and the length of a field of bytes."""
    return _encoded(number << 3 | BYTES) + _encoded(length)


def _encoded(value: int) -> bytes:
    """Encode a variable-length integer; see `_varint`."""
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])


def weight_ranges(file: Path) -> dict[str, tuple[int, int]]:
    """Return offset and length in bytes of each weight's values in an ONNX file, by name."""
    ranges: dict[str, tuple[int, int]] = {}
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for graph in _fields(content, 0, len(content), GRAPH):
            for tensor in _fields(content, *graph, INITIALIZER):
                names = [content[start:end].decode() for start, end in _fields(content, *tensor, NAME)]
                ranges |= {name: (start, end - start) for name in names for start, end in _fields(content, *tensor, RAW_DATA)}
    return ranges


def _fields(content: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each value of the field `wanted`, in the message from `start` to `end`."""
    while start < end:
        key, start = _varint(content, start)
        number, wire_type = key >> 3, key & 7
        if wire_type == BYTES:
            length, start = _varint(content, start)
            if number == wanted:
                yield start, start + length
            start += length
        else:
            start = _varint(content, start)[1] if wire_type == VARINT else start + SIZES[wire_type]


def _varint(content: mmap.mmap, start: int) -> tuple[int, int]:
    """Decode a variable-length integer, 7 bits a byte, lowest first. Return its value and the offset after it."""
    value = shift = 0
    while True:
        byte = content[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
        shift += 7
