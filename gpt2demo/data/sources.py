"""Find text in files, folders, globs and URLs, and read it as a stream; each file is recorded with its size and checksum."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from io import BufferedIOBase
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple, cast
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from gpt2demo.config import DataConfig
from gpt2demo.data.formats import CHUNK, SUFFIXES, Piece, check_start, read_pieces
from gpt2demo.errors import DataError, SettingError
from gpt2demo.progress import task
from gpt2demo.storage import safe_check

TIMEOUT = 30  # seconds without data from a server
HUB = "hf:"  # before the name of a dataset on the Hugging Face hub
SPARE = 2**30  # bytes of the disk for temporary files that a download leaves free


@dataclass(frozen=True)
class Source:
    """A file, URL or dataset that documents were read from.

    Attributes:
        path: path, URL, or `dataset:` followed by the dataset's name and options.
        bytes: size as stored; for a .gz file the compressed size.
        sha256: checksum of the same bytes.
        documents: number of documents.
    """

    path: str
    bytes: int
    sha256: str
    documents: int = 1


class Content(NamedTuple):
    """Text of a source that is no file, such as a download, in a temporary file.

    Attributes:
        file: the temporary file.
        bytes, sha256: as in `Source`.
        name: file name; its suffix is the format.
        field: the field of a row with the text; None for the configured one.
    """

    file: IO[bytes]
    bytes: int
    sha256: str
    name: str
    field: str | None = None


def find_all(paths: Sequence[str | Path], config: DataConfig) -> list[str]:
    """Return the files and URLs that paths, folders, globs and URLs stand for; `hf:NAME` stays as it is.

    Raises:
        DataError: as `find_files` does.
        SettingError: the number of checksums differs from the number of URLs.
    """
    files = [file for path in paths for file in find_files(str(path))]
    urls = sum(map(is_url, files))
    if config.sha256 and len(config.sha256) != urls:
        raise SettingError(f"sha256: {len(config.sha256)} given for {urls} URLs; pass one for each URL, in order")
    return files


def fetch(url: str, checksum: str | None) -> Content:
    """Download a URL.

    Args:
        url: the URL.
        checksum: expected SHA-256 of the content; without one, a warning is given.

    Raises:
        DataError: the download fails, or the checksum differs.
    """
    name = file_name(url)
    with ExitStack() as stack:
        file = stack.enter_context(TemporaryFile())
        download(url, file)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if checksum and digest != checksum.lower():
            raise DataError(f"{url}: sha256 is {digest}, expected {checksum}; the file has changed or the download is damaged")
        if not checksum:
            warnings.warn(f"{url}: not verified; pass --sha256 {digest} to detect later changes", stacklevel=2)
        stack.pop_all()  # `Corpus` closes the file
    return Content(file, file.tell(), digest, name)


def read_source(path: str, content: Content | None, field: str, read: Callable[[int], None]) -> Generator[Piece, None, Source]:
    """Yield the documents of a source in pieces, and return the source.

    Args:
        path: a file, or the label of the content.
        content: the text of a source that is no file.
        field: field of a row that holds the text.
        read: called with the number of bytes that were read since the last call.

    Raises:
        DataError: a file is missing, not a regular file, empty, binary, damaged, too large or not UTF-8; the message has the
            position.
    """
    documents = done = 0
    name = content.name if content else file_name(path)
    with open_source(path, content) as file:
        if content:
            size, digest = content.bytes, content.sha256
        else:
            check_start(file, name, path)
            digest, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
            file.seek(0)
        for piece in read_pieces(file, name, path, (content and content.field) or field):
            documents += piece.last
            yield piece
            position = min(file.tell(), size)
            read(max(0, position - done))
            done = max(done, position)
    read(size - done)
    printable = path.encode(errors="backslashreplace").decode()  # a file name may be invalid UTF-8, run.json may not
    return Source(printable, size, digest, documents)


def is_url(path: str) -> bool:
    """Return whether a path is an HTTP or HTTPS URL."""
    return path.lower().startswith(("http://", "https://"))


def file_name(path: str) -> str:
    """Return the last component of a path, or of the path of a URL.

    Raises:
        DataError: the URL is invalid.
    """
    try:
        return Path(unquote(urlsplit(path).path) if is_url(path) else path).name
    except ValueError as error:
        raise DataError(f"{path}: invalid URL ({error}); expected https://HOST/PATH") from None


def title(path: str | Path) -> str:
    """Return the file name without suffixes: `my` for `texts/my.jsonl.gz`."""
    return Path(file_name(str(path)).removesuffix(".gz")).stem


def find_files(path: str) -> list[str]:
    """Return the files of a folder and its subfolders, the matches of a glob, or the path itself; sorted.

    Hidden files and links to folders inside a folder are skipped.

    Raises:
        DataError: no file was found, or a folder cannot be read.
    """
    if is_url(path) or path.startswith(HUB):
        return [path]
    if safe_check(Path(path).is_dir):
        return _walk_folder(path)
    if set("*?[") & set(path) and not safe_check(Path(path).exists):
        return _expand_glob(path)
    return [path]


def _walk_folder(root: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})")

    found = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [str(Path(folder, name)) for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not found:
        raise DataError(f"{root}: folder contains no text files; supported are {', '.join(SUFFIXES)}")
    return sorted(found)


def _expand_glob(pattern: str) -> list[str]:
    root = Path(Path(pattern).anchor)
    try:
        found = sorted(str(path) for path in root.glob(str(Path(pattern).relative_to(root))) if _is_match(path, pattern))
    except (OSError, ValueError) as error:
        raise DataError(f"{pattern}: invalid pattern ({error})") from None
    if not found:
        raise DataError(f"{pattern}: no such file, and no file matches it as a pattern")
    return found


def _is_match(path: Path, pattern: str) -> bool:
    """Skip folders, and hidden files unless the pattern starts with a dot, as a shell does."""
    return path.is_file() and (not path.name.startswith(".") or Path(pattern).name.startswith("."))


@contextmanager
def open_source(path: str, content: Content | None = None) -> Iterator[BufferedIOBase]:
    """Open a file, or the content of another source, for reading.

    Raises:
        DataError: the file is missing, not a regular file, or cannot be read, also inside the block.
    """
    try:
        if content:
            content.file.seek(0)
            yield cast("BufferedIOBase", content.file)
        else:
            _check_regular(Path(path))
            with Path(path).open("rb") as file:
                yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into memory; use a smaller text") from None


def _check_regular(path: Path) -> None:
    """Refuse pipes and devices, which may never end."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise DataError(f"{path}: no such file or folder; `gpt2demo data` lists the example datasets") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: not a regular file; pass a file, folder, glob or URL")


def download(url: str, file: IO[bytes]) -> None:
    """Download a URL into an empty file and seek to its start.

    Raises:
        DataError: the download fails, is incomplete, or would fill the disk.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "gpt2demo"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            _save_response(response, file, url)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        cause = error.reason if type(error) is URLError else error
        advice = "check the URL and the network, or download the file manually and pass its path"
        raise DataError(f"{url}: download failed ({cause}); {advice}") from None
    file.seek(0)


def _save_response(response: HTTPResponse, file: IO[bytes], url: str) -> None:
    total = response.length  # None without a Content-Length
    free = shutil.disk_usage(tempfile.gettempdir()).free - SPARE
    with task(f"downloading {url}", total) as advance:
        while piece := response.read(CHUNK):
            file.write(piece)
            advance(len(piece))
            if file.tell() > free:
                reason = f"larger than the {max(0, free):,} free bytes of {tempfile.gettempdir()}"
                raise DataError(f"{url}: {reason}; download it manually and pass its path")
    if total is not None and file.tell() < total:
        raise HTTPException(f"connection closed after {file.tell():,} of {total:,} bytes")
