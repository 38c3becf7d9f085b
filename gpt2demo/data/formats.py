"""Parse a file into documents, as a stream: plain text, .jsonl, .csv and .parquet; all but the last also compressed with gzip.

A text file is one document; the others have one document per row. A document comes in pieces of about a megabyte, so that memory
does not grow with the file. The encoding is never guessed: anything but valid UTF-8 text is an error that names the position.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import os
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from gpt2demo.errors import DataError

TEXTS, ROWS = (".txt", ".md"), (".jsonl", ".csv")
SUFFIXES = (*TEXTS, *ROWS, *(f"{suffix}.gz" for suffix in (*TEXTS, *ROWS)), ".parquet")
"""Suffixes that are picked up from folders. A file with another suffix is read as text if it is named explicitly."""
CHUNK = 2**20  # bytes to read at a time
PIECE = 2**20  # characters of a document to handle at a time
ROW_LIMIT = 2**27  # characters of one row, which is parsed as a whole
LIMIT = 2**30  # bytes of decompressed text that are always allowed; a few kilobytes can decompress to terabytes
RATIO = 100  # and so many times the compressed size; text rarely exceeds 20
BLANK_LIMIT = 2**24  # whitespace at the start of a document
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_OTHER_BOMS = {  # the longer ones first: UTF-32's starts like UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Piece(NamedTuple):
    """A part of a document, and whether the document ends with it."""

    text: str
    last: bool


def read_pieces(file: BufferedIOBase, name: str, label: str, field: str) -> Iterator[Piece]:
    """Yield the documents of a file in pieces; blank documents are skipped.

    Args:
        file: open for reading, at its start.
        name: file name; its suffix selects the format.
        label: name of the file in messages.
        field: field or column that holds the text.

    Raises:
        DataError: the file is empty, binary, damaged, too large or not UTF-8; the message has the position.
    """
    found = False
    for piece in skip_blank(_parse(file, name.lower(), label, field)):
        found = True
        yield piece
    if not found:
        raise DataError(f"{label}: contains no text; use a file with at least a few thousand characters")


def skip_blank(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Remove documents without text. Whitespace at the start of a document is held until text follows."""
    held, started = "", False
    for text, last in pieces:
        held += text
        started = started or bool(held.strip()) or len(held) > BLANK_LIMIT
        if started:
            yield Piece(held, last)
        if started or last:
            held, started = "", started and not last


def divide(texts: Iterable[str]) -> Iterator[Piece]:
    """Yield the texts, joined to one document, in pieces of about PIECE characters.

    A piece ends after a line break where there is one, and never where Unicode normalization could join two characters.
    """
    rest = ""
    for text in texts:
        rest += text
        if len(rest) > PIECE:
            end = rest.rfind("\n") + 1 or _before_a_base(rest)
            yield Piece(rest[:end], last=False)
            rest = rest[end:]
    yield Piece(rest, last=True)


def _before_a_base(text: str) -> int:
    """Return the last index of a character that does not combine with the one before it."""
    return next((i for i in range(len(text) - 1, len(text) - 1000, -1) if _is_base(text[i])), len(text))


def _is_base(character: str) -> bool:
    """Return False for marks and for the letters of Hangul and half-width forms, which may combine with the character before."""
    combining = "\u1100" <= character <= "\u11ff" or "\uff65" <= character <= "\uffdc"
    return not combining and unicodedata.category(character)[0] != "M"


def _parse(file: BufferedIOBase, name: str, label: str, field: str) -> Iterator[Piece]:
    if name.endswith(".parquet"):
        for text in _read_parquet(file, label, field):
            yield from divide(_slices(text))
        return
    compressed = name.endswith(".gz")
    texts = decode(_decompress(file, label), f"{label} (decompressed)") if compressed else decode(_chunks(file), label)
    read = {".jsonl": _read_jsonl, ".csv": _read_csv}.get(Path(name.removesuffix(".gz")).suffix)
    if read is None:
        yield from divide(texts)
        return
    for text in read(_lines(texts, label), label, field):
        yield from divide(_slices(text))


def _slices(text: str) -> Iterator[str]:
    return (text[start : start + PIECE] for start in range(0, max(1, len(text)), PIECE))


# ---------------------------------------------------------------------------------------------- bytes to text


def _chunks(file: BufferedIOBase) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _decompress(file: BufferedIOBase, label: str) -> Iterator[bytes]:
    """Yield the content of a gzip file of at most LIMIT bytes, or RATIO times its size."""
    done, limit = 0, max(LIMIT, RATIO * file_size(file))
    try:
        with gzip.GzipFile(fileobj=file) as compressed:
            while chunk := compressed.read(CHUNK):
                done += len(chunk)
                if done > limit:
                    raise DataError(f"{label}: decompresses to more than {limit:,} bytes; decompress it manually, or split it")
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{label}: not a complete .gz file ({error}; {done:,} bytes decompressed)") from None


def file_size(file: BufferedIOBase) -> int:
    """Return the size of an open file in bytes, and leave its position unchanged."""
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def decode(chunks: Iterable[bytes], label: str) -> Iterator[str]:
    """Decode strict UTF-8 and drop a byte order mark at the start.

    Raises:
        DataError: the bytes are not UTF-8 text; the message has the byte and its offset.
    """
    rest, offset = b"", 0  # the start of an incomplete character, and its position
    for chunk in chunks:
        raw = rest + chunk
        check_binary(raw, label, offset)
        text, used = _decode_part(raw, label, offset, final=False)
        yield text if offset else text.removeprefix("\ufeff")
        rest, offset = raw[used:], offset + used
    _decode_part(rest, label, offset, final=True)


def _decode_part(raw: bytes, label: str, offset: int, *, final: bool) -> tuple[str, int]:
    try:
        return codecs.utf_8_decode(raw, "strict", final)
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
        raise DataError(f"{label}: not UTF-8 ({found}); convert it to UTF-8 first") from None


def check_start(file: BufferedIOBase, name: str, label: str) -> None:
    """Refuse a large binary file, such as a disk image, after its first megabyte. Seeks back to the start.

    Raises:
        DataError: as `decode` does.
    """
    if not name.lower().endswith((".gz", ".parquet")):
        check_binary(file.read(CHUNK), label)
        file.seek(0)


def check_binary(raw: bytes, label: str, offset: int = 0) -> None:
    """Refuse bytes that are not text in UTF-8. `offset` is their position in the file."""
    encoding = next((encoding for bom, encoding in _OTHER_BOMS.items() if raw.startswith(bom)), None)
    if encoding and not offset:
        raise DataError(f"{label}: {encoding}, not UTF-8 (byte 0x{raw[0]:02x} at offset 0); convert it to UTF-8 first")
    if (nul := raw.find(b"\0")) >= 0:
        raise DataError(f"{label}: not text (NUL at byte {offset + nul}); use plain text in UTF-8")


def _lines(texts: Iterable[str], label: str) -> Iterator[str]:
    r"""Yield the lines of a text with their line breaks: \n alone ends a line."""
    rest = ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line + "\n"
        if len(rest) > ROW_LIMIT:
            raise DataError(f"{label}: a line is longer than {ROW_LIMIT:,} characters; split it, or convert the file to text")
    if rest:
        yield rest


# ---------------------------------------------------------------------------------------------- rows


def _read_jsonl(lines: Iterable[str], label: str, field: str) -> Iterator[str]:
    """Yield the text field of each line of a .jsonl file."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = f"{label}: line {number}"
            yield text_field(_parse_row(line, row), field, row)


def _parse_row(line: str, label: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f'{label}: invalid JSON ({reason}); expected an object such as {{"text": "…"}}') from None
    if not isinstance(row, dict):
        raise DataError(f'{label}: {line.strip()[:40]!r} is not a JSON object such as {{"text": "…"}}')
    return row


def _read_csv(lines: Iterable[str], label: str, field: str) -> Iterator[str]:
    """Yield the text column of each row of a .csv file, whose first row has the names of the columns."""
    csv.field_size_limit(ROW_LIMIT)
    rows = csv.reader(lines, strict=True)
    try:
        names = next(rows, [])
        for values in filter(None, rows):
            row = f"{label}: line {rows.line_num}"
            if len(values) != len(names):
                raise DataError(f"{row}: has {len(values)} values, the first line {len(names)}; quote values that contain commas")
            yield text_field(dict(zip(names, values, strict=True)), field, row)
    except csv.Error as error:
        raise DataError(f"{label}: line {rows.line_num}: invalid CSV ({error})") from None


def text_field(row: dict[str, Any], field: str, label: str) -> str:
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
    """Yield the values of one column of a .parquet file, which is read page by page."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile, read_schema
    except ImportError:
        advice = "run `pip install pyarrow`, or convert the file to .jsonl"
        raise DataError(f"{label}: reading .parquet needs pyarrow; {advice}") from None
    limit = max(LIMIT, RATIO * file_size(file))
    try:
        names = read_schema(file).names
        if field not in names:
            raise DataError(f"{label}: no column {field!r}; available are {_join(names)}; choose one with --field")
        # Repeated values are stored once in memory.
        table = ParquetFile(file, read_dictionary=[field], buffer_size=CHUNK, pre_buffer=False)
        values = (value for batch in table.iter_batches(batch_size=1024, columns=[field]) for value in batch.column(0))
        yield from _read_column(values, label, field, limit)
    except (ArrowException, OSError) as error:
        raise DataError(f"{label}: not a readable .parquet file ({' '.join(str(error).split())[:160]})") from None
    except KeyError:
        raise DataError(f"{label}: column {field!r} is not text; choose another --field") from None


def _read_column(values: Iterable[Any], label: str, field: str, limit: int) -> Iterator[str]:
    """Yield a column's texts, at most `limit` characters in total."""
    size = 0
    for number, value in enumerate(values, start=1):
        row = f"{label}: row {number}"
        try:
            text = text_field({field: value.as_py()}, field, row)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DataError(f"{row}: not UTF-8 (byte 0x{byte:02x} at offset {error.start}); convert it first") from None
        size += len(text)
        if size > limit:
            raise DataError(f"{row}: the column is larger than {limit:,} characters; split the file")
        yield text
