"""Where in a model.onnx each weight lies: so that a second graph can use the same bytes on disk.

An ONNX file is a protocol buffer: fields with a number and a length. Three numbers of them lead to the weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

GRAPH = 7  # of ModelProto
INITIALIZER = 5  # of GraphProto
NAME, RAW_DATA = 8, 9  # of TensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # the ways a value is written
SIZES = {FIXED64: 8, FIXED32: 4}


def weight_places(file: Path) -> dict[str, tuple[int, int]]:
    """Offset and length in bytes of each weight's numbers, by name. They are not copied and not read."""
    places: dict[str, tuple[int, int]] = {}
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for graph in _fields(content, 0, len(content), GRAPH):
            for tensor in _fields(content, *graph, INITIALIZER):
                names = [content[start:end].decode() for start, end in _fields(content, *tensor, NAME)]
                places |= {name: (start, end - start) for name in names for start, end in _fields(content, *tensor, RAW_DATA)}
    return places


def _fields(content: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each field of one number in a message that goes from `start` to `end`."""
    while start < end:
        key, start = _varint(content, start)
        number, kind = key >> 3, key & 7
        if kind == BYTES:
            length, start = _varint(content, start)
            if number == wanted:
                yield start, start + length
            start += length
        else:
            start = _varint(content, start)[1] if kind == VARINT else start + SIZES[kind]


def _varint(content: mmap.mmap, start: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = content[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
        shift += 7
