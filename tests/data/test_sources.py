"""Text is found in files, folders, globs and URLs, and read strictly: what is no text is refused in one line, with its place."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import Cli

from gpt2demo.config import DataConfig
from gpt2demo.data import formats
from gpt2demo.data.formats import decoded
from gpt2demo.data.sources import find, read, read_file, title
from gpt2demo.errors import DataError, SettingError

TEXT = "Zoë met a fox.\r\nThey walked.\n"


def refusal(path: object, **options: str) -> str:
    """The one line that says why a file cannot be used. It begins with the file's name."""
    with pytest.raises(DataError) as error:
        read_file(str(path), **options)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# Where the text lies


def test_a_text_file_is_one_document_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(TEXT.encode())
    found, source = read_file(path)
    assert found == [TEXT], "line ends stay"
    assert (source.path, source.bytes, source.documents) == (str(path), 30, 1)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_gives_its_texts_sorted_and_nothing_hidden(tmp_path: Path) -> None:
    for name in ("b.md", "a.txt", "inner/C.TXT", "inner/d.txt.gz", "e.png", ".hidden.txt", ".git/f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b"d") if name.endswith(".gz") else name.encode())
    (tmp_path / "inner" / "again").symlink_to(tmp_path, target_is_directory=True)
    found, sources = read([tmp_path])
    assert found == ["a.txt", "b.md", "inner/C.TXT", "d"]
    assert [source.path for source in sources] == find(str(tmp_path))


def test_a_glob_gives_the_files_that_match_and_passes_links_to_folders_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("1.log", "2.log", "deep/3.log", "deep/4.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name, encoding="utf-8")
    Path("deep/loop").symlink_to(tmp_path, target_is_directory=True)
    assert read(["*.log"])[0] == ["1.log", "2.log"]
    assert read(["**/*.log"])[0] == ["1.log", "2.log", "deep/3.log"]
    assert read([tmp_path / "deep" / "[34].*"])[0] == ["deep/3.log", "deep/4.txt"]
    Path(".hidden.log").write_text("hidden", encoding="utf-8")
    assert read(["*.log"])[0] == ["1.log", "2.log"]
    assert read([".*.log"])[0] == ["hidden"]
    Path("[1].txt").write_text("a name, not a pattern", encoding="utf-8")
    assert read(["[1].txt"])[0] == ["a name, not a pattern"]


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("none.txt", "there is no such file or folder"),
        ("story.txt/inner.txt", "there is no such file or folder"),
        ("*.none", "none that matches"),
        ("**x", "cannot be used as a pattern"),
        ("empty", "is a folder without text; looked for .txt, .md, .jsonl"),
        ("pipe", "is no regular file"),
        ("/dev/zero", "is no regular file"),
        ("circle.txt", "cannot be read (Too many levels of symbolic links)"),
        ("dangling.txt", "there is no such file"),
        ("nul\0.txt", "there is no such file"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_what_is_no_file_with_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(TEXT, encoding="utf-8")
    Path("empty").mkdir()
    os.mkfifo("pipe")
    Path("circle.txt").symlink_to("circle.txt")
    Path("dangling.txt").symlink_to("nowhere")
    with pytest.raises(DataError) as error:
        read([place])
    assert str(error.value).startswith(place)
    assert complaint in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "mine.txt").chmod(0)
    assert "Permission denied" in refusal(tmp_path / "mine.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="such a file is only here")
def test_an_error_while_reading_is_one_line() -> None:
    assert "cannot be read (Input/output error)" in refusal("/proc/self/mem")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a name is Unicode")
def test_a_name_that_is_no_unicode_is_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_text(TEXT, encoding="utf-8")
    assert read_file(path)[1].path == f"{tmp_path}/\\udcff.txt"


def test_a_place_has_a_title_for_the_run() -> None:
    assert [title(place) for place in ("a/my.notes.txt", "texts/", "x.jsonl.gz", "https://b.org/a/my%20book.txt?raw=1")] == [
        "my.notes", "texts", "x", "my book",
    ]  # fmt: skip


# What is text


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b"abc\0def", "NUL at byte 3"),
        ("Zoë".encode("latin-1"), "byte 0xeb at offset 2"),
        ("日本".encode("shift-jis"), "byte 0x93 at offset 0"),
        ("text".encode("utf-16"), "is not UTF-8 but UTF-16"),
        ("text".encode("utf-16-le"), "NUL at byte 1"),
        ("text".encode("utf-32"), "is not UTF-8 but UTF-32"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "NUL at byte 7"),
        (gzip.compress(b"text"), "is not"),
        (b"\xed\xa0\x80", "byte 0xed at offset 0"),
        (b"\xef\xbb\xbfabc\xff", "byte 0xff at offset 6"),
        (b"a" * 65_535 + b"\xff", "offset 65535"),
        (b"a" * 70_000 + b"\xff", "offset 70000"),
    ],
)
def test_what_is_not_text_is_refused_with_its_place(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    assert complaint in refusal(path)


def test_a_huge_file_that_is_no_text_is_refused_by_its_start(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte that takes no room
    assert "NUL at byte 0" in refusal(path)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.integers(0, 1000))
def test_a_lone_invalid_byte_is_found_at_any_offset(text: str, place: int) -> None:
    raw = text.encode()
    place = min(place, len(raw))
    while place < len(raw) and raw[place] & 0xC0 == 0x80:  # between two characters
        place += 1
    with pytest.raises(DataError, match=f"byte 0xff at offset {place}\\b"):
        decoded(raw[:place] + b"\xff" + raw[place:], "file")
    assert decoded(raw, "file") == text.removeprefix("\ufeff")


# Packed files


def test_a_packed_text_is_unpacked_and_its_checksum_is_the_files(tmp_path: Path) -> None:
    path = tmp_path / "story.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    found, source = read_file(path)
    assert found == [TEXT]
    assert (source.bytes, source.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"plain text", "is no whole .gz file (Not a gzipped file"),
        (gzip.compress(b"text " * 999)[:-9], "is no whole .gz file (Compressed file ended"),
        (gzip.compress(b"text") + b"rest", "is no whole .gz file (Not a gzipped file"),
        (gzip.compress(b"text")[:-8] + bytes(8), "is no whole .gz file (CRC check failed"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(b"ab\0"), "(unpacked): is not text (NUL at byte 2)"),
        (gzip.compress(b"abc\xe4"), "(unpacked): is not UTF-8 (byte 0xe4 at offset 3)"),
    ],
)
def test_a_damaged_packed_file_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "bad.gz"
    path.write_bytes(content)
    assert complaint in refusal(path)


def test_a_packed_file_is_unpacked_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LIMIT", 10_000)
    for size, name in ((10_000, "fits.gz"), (10_001, "bomb.gz")):
        (tmp_path / name).write_bytes(gzip.compress(b"a" * size))
    assert read_file(tmp_path / "fits.gz")[0] == ["a" * 10_000]
    assert "unpacks to more than 10,000 bytes; unpack it yourself" in refusal(tmp_path / "bomb.gz")


# Rows


def test_a_row_of_jsonl_is_a_document_and_blank_ones_are_none(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"text": TEXT, "id": 1}, {"text": ""}, {"text": None}, {"text": "\u2028two"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'\n  \n{"text": "no line break at the end"}')
    found, source = read_file(path)
    assert found == [TEXT, "\u2028two", "no line break at the end"]
    assert source.documents == 3
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_file(packed)[0] == found


def test_the_field_of_a_row_is_chosen(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"title": "a", "body": "b"})
    assert read([path], DataConfig(field="body"))[0] == ["b"]
    assert "line 1 has no field 'text'; it has 'title', 'body'; choose one with --field" in refusal(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{'text': 'a'}", "line 2 is no JSON (Expecting property name enclosed in double quotes at column 2)"),
        (b'{"text": "a"', "line 2 is no JSON"),
        (b"[" * 100_000, "line 2 is no JSON (maximum recursion depth"),
        (b'{"text": ' + b"1" * 5000 + b"}", "line 2 is no JSON (Exceeds the limit"),
        (b'["a"]', "line 2 is '[\"a\"]', not a JSON object"),
        (b'{"text": 12}', "line 2: 'text' is '12', no text"),
        (b'{"text": "ab\\u0000"}', r"line 2: 'text' is not text ('\x00' at character 2)"),
        (b'{"text": "\\ud83d"}', r"line 2: 'text' is not text ('\ud83d' at character 0)"),
        (b'{"text": "\xe4"}', "byte 0xe4 at offset 27"),
    ],
)
def test_a_row_that_is_no_text_is_refused_with_its_line(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    assert complaint in refusal(path)


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """Writes columns into a real file."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    def write(**columns: object) -> Path:
        write_table(pyarrow.table(columns), tmp_path / "rows.parquet", row_group_size=20)
        return tmp_path / "rows.parquet"

    return write


def test_a_row_of_parquet_is_a_document(parquet: Callable[..., Path]) -> None:
    path = parquet(text=[TEXT, "", None, "two", "two"], body=["1", "2", "3", "4", "5"], number=[1, 2, 3, 4, 5])
    found, source = read_file(path)
    assert found == [TEXT, "two", "two"]
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_file(path, "body")[0] == ["1", "2", "3", "4", "5"]
    assert "has no column 'story'; it has 'text', 'body', 'number'; choose one with --field" in refusal(path, field="story")
    assert "row 1: 'number' is '1', no text" in refusal(path, field="number")
    for nested in (["a"], {"a": "b"}):
        assert "'text' is no column of text; choose another --field" in refusal(parquet(text=[nested]))


def test_a_row_of_parquet_that_is_no_text_is_refused_with_its_number(parquet: Callable[..., Path]) -> None:
    import pyarrow

    assert "row 3: 'text' is not text ('\\x00' at character 1)" in refusal(parquet(text=["a", "b", "c\0"]))
    latin = pyarrow.array([b"good", "Zoë".encode("latin-1")]).view(pyarrow.string())
    assert "row 2 is not UTF-8 (byte 0xeb at offset 2)" in refusal(parquet(text=latin))


def test_a_parquet_file_is_read_up_to_a_limit(parquet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(text=["a" * 1000] * 50)
    assert path.stat().st_size < 20_000, "the same text is stored once"
    monkeypatch.setattr(formats, "LIMIT", 30_000)
    assert "row 31: the column is larger than 30,000 characters" in refusal(path)


def test_a_damaged_parquet_file_is_refused(parquet: Callable[..., Path]) -> None:
    path = parquet(text=["text"] * 100)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:4] + b"\xff" * 40 + whole[44:]):
        path.write_bytes(content)
        assert "is no readable .parquet file" in refusal(path)


def test_without_pyarrow_a_parquet_file_says_what_to_install(
    parquet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(text=["text"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "`pip install pyarrow`" in refusal(path)


# URLs


class Pages(BaseHTTPRequestHandler):
    """Serves what `PAGES` has; `/short` breaks off, `/moved` leads to `/story.txt`."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        content = PAGES.get(path)
        self.send_response(302 if path == "/moved" else 200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"") + (path == "/short")))
        self.send_header("Location", "/story.txt")
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *words: object) -> None:
        pass


PAGES = {
    "/story.txt": TEXT.encode(),
    "/rows.jsonl.gz": gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'),
    "/short": b"half a te",
    "/latin.txt": "Zoë".encode("latin-1"),
    "/moved": b"",
}


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Pages) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def digest(page: str) -> str:
    return hashlib.sha256(PAGES[page]).hexdigest()


def test_a_url_is_read_as_the_file_that_it_names(server: str) -> None:
    places = [f"{server}/story.txt", f"{server}/rows.jsonl.gz?raw=1"]
    found, sources = read(places, DataConfig(sha256=(digest("/story.txt"), digest("/rows.jsonl.gz").upper())))
    assert found == [TEXT, "one", "two"]
    assert [(source.path, source.sha256) for source in sources] == [
        (places[0], digest("/story.txt")),
        (places[1], digest("/rows.jsonl.gz")),
    ]


def test_a_url_without_a_checksum_says_which_it_has(server: str) -> None:
    with pytest.warns(UserWarning, match=f"was not checked; --sha256 {digest('/story.txt')}"):
        assert read([f"{server}/moved"])[0] == [TEXT]


def test_a_url_that_cannot_be_trusted_or_fetched_is_refused(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"its sha256 is {digest('/story.txt')}, not {'0' * 64}" in refusal(f"{server}/story.txt", checksum="0" * 64)
    assert "HTTP Error 404: Not Found" in refusal(f"{server}/none.txt")
    assert "broke off after 9 of 10 bytes" in refusal(f"{server}/short")
    assert "byte 0xeb at offset 2" in refusal(f"{server}/latin.txt", checksum=digest("/latin.txt"))
    monkeypatch.setattr("gpt2demo.data.sources.LIMIT", 10)
    assert "is larger than 10 bytes" in refusal(f"{server}/story.txt")


def test_without_a_network_a_url_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/a.txt"
        assert "Connection refused" in refusal(closed)
    for url in ("http://nowhere.invalid/a.txt", "http://", "http://127.0.0.1:0x/a b.txt"):
        assert "fetch it elsewhere and name the file" in refusal(url)
    assert "is no address (Invalid IPv6 URL)" in refusal("http://[::1/a.txt")


def test_checksums_are_one_for_each_url(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    with pytest.raises(SettingError, match="sha256: 1 for 0 URLs; give one for each URL, in order"):
        read([tmp_path / "a.txt"], DataConfig(sha256=("0" * 64,)))
    with pytest.raises(SettingError, match="sha256"):
        DataConfig.create(sha256=["abc"])


# In the terminal


def test_a_bad_file_ends_every_command_with_one_line(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "texts" / "bad.txt"
    bad.parent.mkdir()
    bad.write_bytes(b"abc\0")
    for command in ("data", "train"):
        done = cli(command, bad.parent)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"gpt2demo: error: {bad}: is not text (NUL at byte 3); give plain text in UTF-8\n"
