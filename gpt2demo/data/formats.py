"""Parse the content of a file into documents: plain text, .jsonl and .parquet, optionally compressed with gzip.

A text file is one document; a .jsonl or .parquet file has one document per row. The encoding is never guessed: anything but valid
UTF-8 text is an error that names the position. Decompression stops at a limit.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from typing import Any

from gpt2demo.errors import DataError

SUFFIXES = (".txt", ".md", ".jsonl", ".txt.gz", ".md.gz", ".jsonl.gz", ".parquet")
"""Suffixes that are picked up from folders. A file with another suffix is read as text if it is named explicitly."""
LIMIT = 2**30  # bytes of a decompressed .gz, a .parquet column or a download: a few kilobytes can decompress to terabytes
CHUNK = 2**20
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_OTHER_BOMS = {  # the longer ones first: UTF-32's starts like UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_documents(file: BufferedIOBase, name: str, label: str, field: str) -> list[str]:
    """Read the documents of a file and skip blank ones.

    Args:
        file: open for reading, at its start.
        name: file name; its suffix selects the format.
        label: name of the file in messages.
        field: field or column that holds the text.

    Raises:
        DataError: the file is empty, binary, damaged, too large or not UTF-8; the message has the position.
    """
    found = [document for document in _parse(file, name.lower(), label, field) if document and not document.isspace()]
    if not found:
        raise DataError(f"{label}: contains no text; use a file with at least a few thousand characters")
    return found


def _parse(file: BufferedIOBase, name: str, label: str, field: str) -> Iterable[str]:
    if name.endswith(".parquet"):
        return _read_parquet(file, label, field)
    compressed = name.endswith(".gz")
    text = decode(_decompress(file, label), f"{label} (decompressed)") if compressed else decode(file.read(), label)
    return _read_rows(text, label, field) if name.removesuffix(".gz").endswith(".jsonl") else [text]


def _decompress(file: BufferedIOBase, label: str) -> bytearray:
    """Decompress a gzip file of at most LIMIT bytes."""
    content = bytearray()
    try:
        with gzip.GzipFile(fileobj=file) as compressed:
            while piece := compressed.read(CHUNK):
                content += piece
                if len(content) > LIMIT:
                    raise DataError(f"{label}: decompresses to more than {LIMIT:,} bytes; decompress it manually, or split it")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{label}: not a complete .gz file ({error}; {len(content):,} bytes decompressed)") from None
    return content


def decode(raw: bytes | bytearray, label: str) -> str:
    """Decode strict UTF-8 and drop a byte order mark at the start.

    Raises:
        DataError: the bytes are not UTF-8 text; the message has the byte and its offset.
    """
    _check_binary(raw, label)
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise DataError(f"{label}: not UTF-8 (byte 0x{byte:02x} at offset {error.start}); convert it to UTF-8 first") from None


def check_start(file: BufferedIOBase, name: str, label: str) -> None:
    """Refuse a large binary file, such as a disk image, after its first megabyte. Seeks back to the start.

    Raises:
        DataError: as `decode` does.
    """
    if not name.lower().endswith((".gz", ".parquet")):
        _check_binary(file.read(CHUNK), label)
        file.seek(0)


def _check_binary(raw: bytes | bytearray, label: str) -> None:
    if encoding := next((encoding for bom, encoding in _OTHER_BOMS.items() if raw.startswith(bom)), None):
        raise DataError(f"{label}: {encoding}, not UTF-8 (byte 0x{raw[0]:02x} at offset 0); convert it to UTF-8 first")
    if (nul := raw.find(b"\0")) >= 0:
        raise DataError(f"{label}: not text (NUL at byte {nul}); use plain text in UTF-8")


def _read_rows(text: str, label: str, field: str) -> Iterator[str]:
    """Yield the text field of each line of a .jsonl file."""
    number = start = 0
    while start < len(text):
        number += 1
        end = text.find("\n", start) + 1 or len(text)
        if (line := text[start:end]).strip():
            yield _text_field(_parse_row(line, f"{label}: line {number}"), field, f"{label}: line {number}")
        start = end


def _parse_row(line: str, label: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f'{label}: invalid JSON ({reason}); expected an object such as {{"text": "…"}}') from None
    if not isinstance(row, dict):
        raise DataError(f'{label}: {line.strip()[:40]!r} is not a JSON object such as {{"text": "…"}}')
    return row


def _text_field(row: dict[str, Any], field: str, label: str) -> str:
    """Return the text of one field; null counts as empty."""
    if field not in row:
        raise DataError(f"{label}: no field {field!r}; available are {_join(row)}; choose one with --field")
    value = row[field]
    if value is not None and not isinstance(value, str):
        raise DataError(f"{label}: field {field!r} is not text but {str(value)[:40]!r}; choose another --field")
    if value and (invalid := _NOT_TEXT.search(value)):
        raise DataError(f"{label}: {field!r} is not text ({invalid.group()!a} at character {invalid.start()}); remove it first")
    return value or ""


def _join(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))[:120] or "none"


def _read_parquet(file: BufferedIOBase, label: str, field: str) -> Iterator[str]:
    """Yield the values of one column of a .parquet file."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile, read_schema
    except ImportError:
        advice = "run `pip install pyarrow`, or convert the file to .jsonl"
        raise DataError(f"{label}: reading .parquet needs pyarrow; {advice}") from None
    try:
        names = read_schema(file).names
        if field not in names:
            raise DataError(f"{label}: no column {field!r}; available are {_join(names)}; choose one with --field")
        table = ParquetFile(file, read_dictionary=[field])  # repeated values are stored once in memory
        values = (value for batch in table.iter_batches(batch_size=1024, columns=[field]) for value in batch.column(0))
        yield from _read_column(values, label, field)
    except (ArrowException, OSError) as error:
        raise DataError(f"{label}: not a readable .parquet file ({' '.join(str(error).split())[:160]})") from None
    except KeyError:
        raise DataError(f"{label}: column {field!r} is not text; choose another --field") from None


def _read_column(values: Iterable[Any], label: str, field: str) -> Iterator[str]:
    """Yield a column's texts, at most LIMIT characters in total."""
    size = 0
    for number, value in enumerate(values, start=1):
        row = f"{label}: row {number}"
        try:
            text = _text_field({field: value.as_py()}, field, row)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DataError(f"{row}: not UTF-8 (byte 0x{byte:02x} at offset {error.start}); convert it first") from None
        size += len(text)
        if size > LIMIT:
            raise DataError(f"{row}: the column is larger than {LIMIT:,} characters; split the file")
        yield text
