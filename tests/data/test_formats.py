"""Parsing text, .jsonl and .parquet files; anything but valid text is refused with its position."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import read_error, read_texts

from gpt2demo.data import formats
from gpt2demo.data.formats import decode
from gpt2demo.errors import DataError

STORY = "Zoë met a fox.\r\nThey walked.\n"


# Plain text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "contains no text"),
        (b" \n\t ", "contains no text"),
        (b"\xef\xbb\xbf\n", "contains no text"),
        (b"abc\0def", "NUL at byte 3"),
        ("Zoë".encode("latin-1"), "byte 0xeb at offset 2"),
        ("日本".encode("shift-jis"), "byte 0x93 at offset 0"),
        ("text".encode("utf-16"), "UTF-16, not UTF-8"),
        ("text".encode("utf-16-le"), "NUL at byte 1"),
        ("text".encode("utf-32"), "UTF-32, not UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "NUL at byte 7"),
        (gzip.compress(b"text", mtime=0), "not "),
        (b"\xed\xa0\x80", "byte 0xed at offset 0"),
        (b"\xef\xbb\xbfabc\xff", "byte 0xff at offset 6"),
        (b"a" * 65_535 + b"\xff", "offset 65535"),
        (b"a" * 70_000 + b"\xff", "offset 70000"),
    ],
)
def test_anything_but_utf8_text_is_refused_with_its_position(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "invalid.txt"
    path.write_bytes(content)
    assert reason in read_error(path)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.integers(0, 1000))
def test_an_invalid_byte_is_reported_at_any_offset(text: str, offset: int) -> None:
    raw = text.encode()
    offset = min(offset, len(raw))
    while offset < len(raw) and raw[offset] & 0xC0 == 0x80:  # go to a border between characters
        offset += 1
    with pytest.raises(DataError, match=f"byte 0xff at offset {offset}\\b"):
        decoded(raw[:offset] + b"\xff" + raw[offset:])
    assert decoded(raw) == text.removeprefix("\ufeff")


def decoded(raw: bytes) -> str:
    """Decode bytes that are read three at a time: borders are inside of characters."""
    return "".join(decode((raw[start : start + 3] for start in range(0, len(raw), 3)), "file"))


# Compressed files


def test_a_gzip_file_is_decompressed_and_its_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "story.txt.gz"
    path.write_bytes(gzip.compress(STORY.encode(), mtime=0))
    documents, (source,) = read_texts(path)
    assert documents == [STORY]
    assert (source["bytes"], source["sha256"]) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"plain text", "not a complete .gz file (Not a gzipped file"),
        (gzip.compress(b"text " * 999, mtime=0)[:-9], "not a complete .gz file (Compressed file ended"),
        (gzip.compress(b"text", mtime=0) + b"rest", "not a complete .gz file (Not a gzipped file"),
        (gzip.compress(b"text", mtime=0)[:-8] + bytes(8), "not a complete .gz file (CRC check failed"),
        (gzip.compress(b"", mtime=0), "contains no text"),
        (gzip.compress(b"ab\0", mtime=0), "(decompressed): not text (NUL at byte 2)"),
        (gzip.compress(b"abc\xe4", mtime=0), "(decompressed): not UTF-8 (byte 0xe4 at offset 3)"),
    ],
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "damaged.gz"
    path.write_bytes(content)
    assert reason in read_error(path)


def test_decompression_stops_at_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LIMIT", 10_000)
    monkeypatch.setattr(formats, "RATIO", 10)
    for size, name in ((10_000, "fits.gz"), (10_001, "bomb.gz")):
        (tmp_path / name).write_bytes(gzip.compress(b"a" * size, mtime=0))
    assert read_texts(tmp_path / "fits.gz")[0] == ["a" * 10_000]
    assert "decompresses to more than 10,000 bytes" in read_error(tmp_path / "bomb.gz")


# .jsonl


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_each_row_of_a_jsonl_file_with_text_is_a_document(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"text": STORY, "id": 1}, {"text": ""}, {"text": None}, {"text": "\u2028two"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'\n  \n{"text": "no line break at the end"}')
    documents, (source,) = read_texts(path)
    assert documents == [STORY, "\u2028two", "no line break at the end"]
    assert source["documents"] == 3
    compressed = tmp_path / "rows.jsonl.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    assert read_texts(compressed)[0] == documents


def test_the_field_of_a_row_is_configurable(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"title": "a", "body": "b"})
    assert read_texts(path, field="body")[0] == ["b"]
    assert "line 1: no field 'text'; available are 'title', 'body'; choose one with --field" in read_error(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'text': 'a'}", "line 2: invalid JSON (Expecting property name enclosed in double quotes at column 2)"),
        (b'{"text": "a"', "line 2: invalid JSON"),
        (b"[" * 100_000, "line 2: invalid JSON (maximum recursion depth"),
        (b'{"text": ' + b"1" * 5000 + b"}", "line 2: invalid JSON (Exceeds the limit"),
        (b'["a"]', "line 2: '[\"a\"]' is not a JSON object"),
        (b'{"text": 12}', "line 2: field 'text' is not text but '12'"),
        (b'{"text": "ab\\u0000"}', r"line 2: 'text' is not text ('\x00' at character 2)"),
        (b'{"text": "\\ud83d"}', r"line 2: 'text' is not text ('\ud83d' at character 0)"),
        (b'{"text": "\xe4"}', "byte 0xe4 at offset 27"),
    ],
)
def test_an_invalid_row_is_refused_with_its_line_number(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    assert reason in read_error(path)


# .csv


def test_each_row_of_a_csv_file_with_text_is_a_document(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'id,text\r\n1,"two\nlines, ""quoted"""\r\n\r\n2,\r\n3,one\r\n')
    assert read_texts(path)[0] == ['two\nlines, "quoted"', "one"]
    assert read_texts(path, field="id")[0] == ["1", "2", "3"]
    assert "line 3: no field 'body'; available are 'id', 'text'; choose one with --field" in read_error(path, field="body")


def test_an_invalid_row_of_a_csv_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n1,one\n2,two, or three\n", encoding="utf-8")
    assert "line 3: has 3 values, the first line 2; quote values that contain commas" in read_error(path)
    path.write_text('text\n"one" two\n', encoding="utf-8")
    assert "line 2: invalid CSV" in read_error(path)


@pytest.mark.parametrize(("name", "row"), [("rows.jsonl", '{"text": "%s"}\n'), ("rows.csv", '"%s"\n')])
def test_a_row_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, row: str) -> None:
    monkeypatch.setattr(formats, "ROW_LIMIT", 1000)
    monkeypatch.setattr(formats, "CHUNK", 100)
    (tmp_path / name).write_text("text\n" * (name == "rows.csv") + row % ("a" * 2000), encoding="utf-8")
    assert "a line is longer than 1,000 characters" in read_error(tmp_path / name)


# .parquet


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes columns to a .parquet file."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    def write(**columns: object) -> Path:
        write_table(pyarrow.table(columns), tmp_path / "rows.parquet", row_group_size=20)
        return tmp_path / "rows.parquet"

    return write


def test_each_row_of_a_parquet_file_with_text_is_a_document(parquet: Callable[..., Path]) -> None:
    path = parquet(text=[STORY, "", None, "two", "two"], body=["1", "2", "3", "4", "5"])
    documents, (source,) = read_texts(path)
    assert documents == [STORY, "two", "two"]
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_texts(path, field="body")[0] == ["1", "2", "3", "4", "5"]


def test_a_missing_or_non_text_column_is_refused(parquet: Callable[..., Path]) -> None:
    path = parquet(text=["a"], number=[1])
    assert "no column 'story'; available are 'text', 'number'; choose one with --field" in read_error(path, field="story")
    assert "row 1: field 'number' is not text but '1'" in read_error(path, field="number")
    for nested in (["a"], {"a": "b"}):
        assert "column 'text' is not text; choose another --field" in read_error(parquet(text=[nested]))


def test_an_invalid_row_of_a_parquet_file_is_refused_with_its_number(parquet: Callable[..., Path]) -> None:
    import pyarrow

    assert "row 3: 'text' is not text ('\\x00' at character 1)" in read_error(parquet(text=["a", "b", "c\0"]))
    latin = pyarrow.array([b"good", "Zoë".encode("latin-1")]).view(pyarrow.string())
    assert "row 2: not UTF-8 (byte 0xeb at offset 2)" in read_error(parquet(text=latin))


def test_a_parquet_column_is_read_up_to_a_limit(parquet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(text=["a" * 1000] * 50)
    assert path.stat().st_size < 20_000, "repeated values are stored once"
    monkeypatch.setattr(formats, "LIMIT", 30_000)
    monkeypatch.setattr(formats, "RATIO", 1)
    assert "row 31: the column is larger than 30,000 characters" in read_error(path)


def test_a_damaged_parquet_file_is_refused(parquet: Callable[..., Path]) -> None:
    path = parquet(text=["text"] * 100)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:4] + b"\xff" * 40 + whole[44:]):
        path.write_bytes(content)
        assert "not a readable .parquet file" in read_error(path)


def test_a_parquet_file_without_pyarrow_names_the_package_to_install(
    parquet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(text=["text"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "`pip install pyarrow`" in read_error(path)
