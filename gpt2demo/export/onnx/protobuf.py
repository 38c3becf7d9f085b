"""Find the bytes of each weight in a model.onnx, so that generate.onnx can refer to them instead of storing a copy.

The onnx library would parse the whole file into Python objects, which takes as much memory as the model, and would not report the
offsets. This module only skips through the fields of the Protocol Buffers encoding: each field is a key, with its number and wire
type, followed by its value. Three field numbers lead to the weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

GRAPH = 7  # field number in ModelProto
INITIALIZER = 5  # field number in GraphProto
NAME, RAW_DATA = 8, 9  # field numbers in TensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
SIZES = {FIXED64: 8, FIXED32: 4}


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
