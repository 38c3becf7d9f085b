"""Find text in files, folders, globs and URLs, and read it; each file is recorded with its size and checksum."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from io import BufferedIOBase
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from gpt2demo.config import DataConfig
from gpt2demo.data.formats import CHUNK, LIMIT, SUFFIXES, check_start, read_documents
from gpt2demo.errors import DataError, SettingError
from gpt2demo.progress import task
from gpt2demo.storage import safe_check

TIMEOUT = 30  # seconds without data from a server


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


def read_files(paths: Sequence[str | Path], config: DataConfig | None = None) -> tuple[list[str], list[Source]]:
    """Read files, folders, globs and URLs.

    Returns:
        The documents, and a source for each file.

    Raises:
        DataError: a file is missing, not a regular file, empty, binary, damaged, too large or not UTF-8; the message has the
            position.
        SettingError: the number of checksums differs from the number of URLs.
    """
    config = config or DataConfig()
    files = [file for path in paths for file in find_files(str(path))]
    urls = [file for file in files if is_url(file)]
    if config.sha256 and len(config.sha256) != len(urls):
        raise SettingError(f"sha256: {len(config.sha256)} given for {len(urls)} URLs; pass one for each URL, in order")
    checksums = iter(config.sha256)
    documents: list[str] = []
    sources: list[Source] = []
    with task("reading the text", None) as advance:
        for file in files:
            found, source = read_file(file, config.field, next(checksums, None) if is_url(file) else None)
            documents += found
            sources.append(source)
            advance(source.bytes)
    return documents, sources


def read_file(path: str | Path, field: str = "text", checksum: str | None = None) -> tuple[list[str], Source]:
    """Read one file or URL.

    Args:
        path: a file or URL.
        field: field of a .jsonl row, or column of a .parquet file, that holds the text.
        checksum: expected SHA-256 of the content; a URL without one gives a warning.

    Returns:
        The documents and their source.

    Raises:
        DataError: as `read_files` does, or the checksum differs.
    """
    path = str(path)
    name = file_name(path)
    with open_source(path) as file:
        if not is_url(path):  # a download is checked against its checksum first
            check_start(file, name, path)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        _verify(path, digest, checksum)
        file.seek(0)
        documents = read_documents(file, name, path, field)
    printable = path.encode(errors="backslashreplace").decode()  # a file name may be invalid UTF-8, run.json may not
    return documents, Source(printable, size, digest, len(documents))


def _verify(path: str, digest: str, expected: str | None) -> None:
    if expected and digest != expected.lower():
        raise DataError(f"{path}: sha256 is {digest}, expected {expected}; the file has changed or the download is damaged")
    if is_url(path) and not expected:
        warnings.warn(f"{path}: not verified; pass --sha256 {digest} to detect later changes", stacklevel=2)


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
    if is_url(path):
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
def open_source(path: str) -> Iterator[BufferedIOBase]:
    """Open a file, or download a URL to a temporary file, for reading.

    Raises:
        DataError: the file is missing, not a regular file, or cannot be read, also inside the block.
    """
    try:
        if is_url(path):
            with tempfile.TemporaryFile() as file:
                download(path, file)
                yield file
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


def download(url: str, file: BufferedIOBase) -> None:
    """Download a URL into an empty file and seek to its start.

    Raises:
        DataError: the download fails, is incomplete, or is larger than LIMIT.
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


def _save_response(response: HTTPResponse, file: BufferedIOBase, url: str) -> None:
    total = response.length  # None without a Content-Length
    with task(f"downloading {url}", total) as advance:
        while piece := response.read(CHUNK):
            file.write(piece)
            advance(len(piece))
            if file.tell() > LIMIT:
                raise DataError(f"{url}: larger than {LIMIT:,} bytes; download it manually and pass its path")
    if total is not None and file.tell() < total:
        raise HTTPException(f"connection closed after {file.tell():,} of {total:,} bytes")
