"""A file's content -> documents: text, .jsonl and .parquet, packed or not, read strictly.

A text file is a document, and so is a row of a .jsonl or .parquet file. What is not UTF-8 text is refused with the place, never
guessed. A packed file is unpacked up to a limit and no further.
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
"""What is known to be text. A file that is called otherwise is read as text where somebody names it."""
LIMIT = 2**30  # bytes that a .gz, a .parquet column or a download may have: a few kilobytes can unpack to terabytes
CHUNK = 2**20
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_OTHER_MARKS = {  # the longer ones first: UTF-32's begins as UTF-16's does
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_documents(file: BufferedIOBase, name: str, place: str, field: str) -> list[str]:
    """The documents of a file that are not blank.

    Args:
        file: open for reading, at its start.
        name: how it is called; the suffix says what it is.
        place: how messages call it.
        field: where a row has its text.

    Raises:
        DataError: it is empty, binary, damaged, too large or in another encoding; says where.
    """
    found = [document for document in _all_documents(file, name.lower(), place, field) if document and not document.isspace()]
    if not found:
        raise DataError(f"{place}: is empty; give a text file with at least a few thousand characters")
    return found


def _all_documents(file: BufferedIOBase, name: str, place: str, field: str) -> Iterable[str]:
    if name.endswith(".parquet"):
        return _parquet(file, place, field)
    packed = name.endswith(".gz")
    text = decoded(_unpacked(file, place), f"{place} (unpacked)") if packed else decoded(file.read(), place)
    return _rows(text, place, field) if name.removesuffix(".gz").endswith(".jsonl") else [text]


def _unpacked(file: BufferedIOBase, place: str) -> bytearray:
    """The content of a gzip file, as long as it is not larger than LIMIT."""
    content = bytearray()
    try:
        with gzip.GzipFile(fileobj=file) as packed:
            while piece := packed.read(CHUNK):
                content += piece
                if len(content) > LIMIT:
                    raise DataError(f"{place}: unpacks to more than {LIMIT:,} bytes; unpack it yourself, or split it")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{place}: is no whole .gz file ({error}; {len(content):,} bytes could be unpacked)") from None
    return content


def decoded(raw: bytes | bytearray, place: str) -> str:
    """Bytes as text, strictly UTF-8; a byte order mark at the start is dropped.

    Raises:
        DataError: it is no text, or in another encoding; names the byte and its offset.
    """
    _check_binary(raw, place)
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise DataError(f"{place}: is not UTF-8 (byte 0x{byte:02x} at offset {error.start}); convert it to UTF-8 first") from None


def check_start(file: BufferedIOBase, name: str, place: str) -> None:
    """Refuse what is no text by its first megabyte: the picture of a disk is large. Goes back to the start.

    Raises:
        DataError: as `decoded` raises it.
    """
    if not name.lower().endswith((".gz", ".parquet")):
        _check_binary(file.read(CHUNK), place)
        file.seek(0)


def _check_binary(raw: bytes | bytearray, place: str) -> None:
    if other := next((name for mark, name in _OTHER_MARKS.items() if raw.startswith(mark)), None):
        raise DataError(f"{place}: is not UTF-8 but {other} (byte 0x{raw[0]:02x} at offset 0); convert it to UTF-8 first")
    if (nul := raw.find(b"\0")) >= 0:
        raise DataError(f"{place}: is not text (NUL at byte {nul}); give plain text in UTF-8")


def _rows(text: str, place: str, field: str) -> Iterator[str]:
    """The documents of a .jsonl file: one field of each line's object."""
    number = start = 0
    while start < len(text):
        number += 1
        end = text.find("\n", start) + 1 or len(text)
        if (line := text[start:end]).strip():
            yield _document(_parsed(line, f"{place}: line {number}"), field, f"{place}: line {number}")
        start = end


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f'{where} is no JSON ({reason}); a line is an object such as {{"text": "…"}}') from None
    if not isinstance(row, dict):
        raise DataError(f'{where} is {line.strip()[:40]!r}, not a JSON object such as {{"text": "…"}}')
    return row


def _document(row: dict[str, Any], field: str, where: str) -> str:
    """One field of a row; a null is an empty text."""
    if field not in row:
        raise DataError(f"{where} has no field {field!r}; it has {_names(row)}; choose one with --field")
    value = row[field]
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {field!r} is {str(value)[:40]!r}, no text; choose another --field")
    if value and (wrong := _NO_TEXT.search(value)):
        raise DataError(f"{where}: {field!r} is not text ({wrong.group()!a} at character {wrong.start()}); remove it first")
    return value or ""


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))[:120] or "none"


def _parquet(file: BufferedIOBase, place: str, field: str) -> Iterator[str]:
    """The documents of a .parquet file: one column."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile, read_schema
    except ImportError:
        raise DataError(f"{place}: to read .parquet needs pyarrow; `pip install pyarrow`, or convert it to .jsonl") from None
    try:
        names = read_schema(file).names
        if field not in names:
            raise DataError(f"{place}: has no column {field!r}; it has {_names(names)}; choose one with --field")
        table = ParquetFile(file, read_dictionary=[field])  # a text that comes a million times is kept once
        values = (value for batch in table.iter_batches(batch_size=1024, columns=[field]) for value in batch.column(0))
        yield from _cells(values, place, field)
    except (ArrowException, OSError) as error:
        raise DataError(f"{place}: is no readable .parquet file ({' '.join(str(error).split())[:160]})") from None
    except KeyError:
        raise DataError(f"{place}: {field!r} is no column of text; choose another --field") from None


def _cells(values: Iterable[Any], place: str, field: str) -> Iterator[str]:
    """A column's texts, as long as they are not larger than LIMIT together."""
    size = 0
    for number, value in enumerate(values, start=1):
        where = f"{place}: row {number}"
        try:
            text = _document({field: value.as_py()}, field, where)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DataError(f"{where} is not UTF-8 (byte 0x{byte:02x} at offset {error.start}); convert it first") from None
        size += len(text)
        if size > LIMIT:
            raise DataError(f"{where}: the column is larger than {LIMIT:,} characters; split the file")
        yield text
