"""Finding text in files, folders, globs and URLs."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import Cli, read_error, read_texts

from gpt2demo.config import DataConfig
from gpt2demo.data import sources as module
from gpt2demo.data.sources import find_files, title
from gpt2demo.errors import DataError, SettingError

STORY = "Zoë met a fox.\r\nThey walked.\n"


# Files, folders and globs


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(STORY.encode())
    documents, (source,) = read_texts(path)
    assert documents == [STORY], "line breaks are kept"
    assert (source["path"], source["bytes"], source["documents"]) == (str(path), 30, 1)
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_is_read_recursively_in_sorted_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.md", "a.txt", "inner/C.TXT", "inner/d.txt.gz", "e.png", ".hidden.txt", ".git/f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b"d", mtime=0) if name.endswith(".gz") else name.encode())
    (tmp_path / "inner" / "again").symlink_to(tmp_path, target_is_directory=True)
    documents, sources = read_texts(tmp_path)
    assert documents == ["a.txt", "b.md", "inner/C.TXT", "d"]
    assert [source["path"] for source in sources] == find_files(str(tmp_path))


def test_a_glob_matches_files_and_does_not_follow_links_to_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("1.log", "2.log", "deep/3.log", "deep/4.txt", ".hidden.log"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name, encoding="utf-8")
    Path("deep/loop").symlink_to(tmp_path, target_is_directory=True)
    assert find_files("*.log") == ["1.log", "2.log"]
    assert find_files("**/*.log") == ["1.log", "2.log", "deep/3.log"]
    assert read_texts(tmp_path / "deep" / "[34].*")[0] == ["deep/3.log", "deep/4.txt"]
    assert find_files(".*.log") == [".hidden.log"], "hidden files need a pattern that starts with a dot"


def test_an_existing_file_name_is_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "[1].txt").write_text(STORY, encoding="utf-8")
    (tmp_path / "1.txt").write_text("another text", encoding="utf-8")
    assert read_texts(tmp_path / "[1].txt")[0] == [STORY]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none.txt", "no such file or folder"),
        ("story.txt/inner.txt", "no such file or folder"),
        ("*.none", "no file matches"),
        ("**x", "invalid pattern"),
        ("empty", "folder contains no text files; supported are .txt, .md, .jsonl"),
        ("pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("circle.txt", "cannot be read (Too many levels of symbolic links)"),
        ("dangling.txt", "no such file"),
        ("nul\0.txt", "no such file"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX special files")
def test_a_path_without_a_readable_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(STORY, encoding="utf-8")
    Path("empty").mkdir()
    os.mkfifo("pipe")
    Path("circle.txt").symlink_to("circle.txt")
    Path("dangling.txt").symlink_to("nowhere")
    with pytest.raises(DataError) as error:
        read_texts(path)
    assert str(error.value).startswith(path)
    assert reason in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read every file")
def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(STORY, encoding="utf-8")
    (tmp_path / "mine.txt").chmod(0)
    assert "Permission denied" in read_error(tmp_path / "mine.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_io_error_while_reading_is_reported() -> None:
    assert "cannot be read (Input/output error)" in read_error("/proc/self/mem")


def test_a_large_binary_file_is_refused_after_its_start(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(2**40)  # a sparse file of one terabyte
    assert "NUL at byte 0" in read_error(path)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode on other systems")
def test_a_file_name_that_is_not_utf8_is_stored_escaped(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_text(STORY, encoding="utf-8")
    assert read_texts(path)[1][0]["path"] == f"{tmp_path}/\\udcff.txt"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/my.notes.txt", "my.notes"),
        ("texts/", "texts"),
        ("x.jsonl.gz", "x"),
        ("https://b.org/a/my%20book.txt?raw=1", "my book"),
    ],
)
def test_the_title_is_the_file_name_without_suffixes(path: str, expected: str) -> None:
    assert title(path) == expected


def test_the_command_line_reports_an_invalid_file_in_one_line(cli: Cli, tmp_path: Path) -> None:
    invalid = tmp_path / "texts" / "invalid.txt"
    invalid.parent.mkdir()
    invalid.write_bytes(b"abc\0")
    done = cli("data", invalid.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"gpt2demo: error: {invalid}: not text (NUL at byte 3); use plain text in UTF-8\n"


# URLs


PAGES = {
    "/story.txt": STORY.encode(),
    "/rows.jsonl.gz": gzip.compress(b'{"text": "one"}\n{"text": "two"}\n', mtime=0),
    "/short": b"half a te",
    "/latin.txt": "Zoë".encode("latin-1"),
    "/moved": b"",
}


class Pages(BaseHTTPRequestHandler):
    """Serve PAGES; `/short` is one byte shorter than its Content-Length, `/moved` redirects to `/story.txt`."""

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


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Pages) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def digest(page: str) -> str:
    return hashlib.sha256(PAGES[page]).hexdigest()


def test_a_url_is_read_like_a_file_of_the_same_name(server: str) -> None:
    urls = [f"{server}/story.txt", f"{server}/rows.jsonl.gz?raw=1"]
    documents, sources = read_texts(*urls, sha256=(digest("/story.txt"), digest("/rows.jsonl.gz").upper()))
    assert documents == [STORY, "one", "two"]
    assert [(source["path"], source["sha256"]) for source in sources] == [
        (urls[0], digest("/story.txt")),
        (urls[1], digest("/rows.jsonl.gz")),
    ]


def test_a_url_without_a_checksum_gives_a_warning_with_its_checksum(server: str) -> None:
    with pytest.warns(UserWarning, match=f"not verified; pass --sha256 {digest('/story.txt')}"):
        assert read_texts(f"{server}/moved")[0] == [STORY]


def test_a_url_that_cannot_be_verified_or_downloaded_is_refused(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"sha256 is {digest('/story.txt')}, expected {'0' * 64}" in read_error(f"{server}/story.txt", sha256=["0" * 64])
    assert "HTTP Error 404: Not Found" in read_error(f"{server}/none.txt")
    assert "connection closed after 9 of 10 bytes" in read_error(f"{server}/short")
    assert "byte 0xeb at offset 2" in read_error(f"{server}/latin.txt", sha256=[digest("/latin.txt")])
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=module.SPARE + 10))
    assert "larger than the 10 free bytes" in read_error(f"{server}/story.txt")


def test_an_unreachable_or_invalid_url_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "Connection refused" in read_error(f"http://127.0.0.1:{unused.getsockname()[1]}/a.txt")
    for url in ("http://nowhere.invalid/a.txt", "http://", "http://127.0.0.1:0x/a b.txt"):
        assert "download the file manually and pass its path" in read_error(url)
    assert "invalid URL (Invalid IPv6 URL)" in read_error("http://[::1/a.txt")


def test_the_number_of_checksums_must_match_the_number_of_urls(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(STORY, encoding="utf-8")
    with pytest.raises(SettingError, match="sha256: 1 given for 0 URLs; pass one for each URL, in order"):
        read_texts(tmp_path / "a.txt", sha256=["0" * 64])
    with pytest.raises(SettingError, match="sha256"):
        DataConfig.create(sha256=["abc"])
