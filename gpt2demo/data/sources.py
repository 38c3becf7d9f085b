"""Where text lies: files, folders, globs and URLs -> documents, each file with its size and checksum."""

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

TIMEOUT = 30  # seconds in which a server sends nothing


@dataclass(frozen=True)
class Source:
    """Where a part of the text came from: a file as it lies there, a URL, or a dataset's name.

    Attributes:
        bytes, sha256: of the file, packed as it may be.
        documents: how many it has.
    """

    path: str
    bytes: int
    sha256: str
    documents: int = 1


def read(places: Sequence[str | Path], config: DataConfig | None = None) -> tuple[list[str], list[Source]]:
    """The documents of files, folders, globs and URLs, and the files that they came from.

    Raises:
        DataError: a file is missing, no regular file, empty, binary, damaged, too large or in another encoding; says where.
        SettingError: there are more or fewer checksums than URLs.
    """
    config = config or DataConfig()
    files = [file for place in places for file in find(str(place))]
    urls = [file for file in files if is_url(file)]
    if config.sha256 and len(config.sha256) != len(urls):
        raise SettingError(f"sha256: {len(config.sha256)} for {len(urls)} URLs; give one for each URL, in order")
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


def read_file(place: str | Path, field: str = "text", checksum: str | None = None) -> tuple[list[str], Source]:
    """The documents of one file or URL, and what it is. Raises as `read` does."""
    place = str(place)
    name = path_of(place).name
    with opened(place) as file:
        if not is_url(place):  # of which the checksum comes first
            check_start(file, name, place)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        _check_sum(place, digest, checksum)
        file.seek(0)
        documents = read_documents(file, name, place, field)
    printable = place.encode(errors="backslashreplace").decode()  # a file's name need not be UTF-8, run.json is
    return documents, Source(printable, size, digest, len(documents))


def _check_sum(url: str, digest: str, expected: str | None) -> None:
    if expected and digest != expected.lower():
        raise DataError(f"{url}: its sha256 is {digest}, not {expected}; it has changed, or was damaged on the way")
    if is_url(url) and not expected:
        warnings.warn(f"{url}: was not checked; --sha256 {digest} makes sure that it stays the same", stacklevel=2)


def is_url(place: str) -> bool:
    """Whether a place is fetched from the network."""
    return place.lower().startswith(("http://", "https://"))


def path_of(place: str) -> Path:
    """The path of a place; of a URL, the one inside it.

    Raises:
        DataError: it is no valid URL.
    """
    try:
        return Path(unquote(urlsplit(place).path)) if is_url(place) else Path(place)
    except ValueError as error:
        raise DataError(f"{place}: is no address ({error}); expected https://HOST/PATH") from None


def title(place: str | Path) -> str:
    """What a place is called, without folders and suffixes: `texts/my.jsonl.gz` is `my`."""
    return Path(path_of(str(place)).name.removesuffix(".gz")).stem


def find(place: str) -> list[str]:
    """The files that a place means, sorted: those of a folder and its folders, those that a glob matches, or itself.

    Hidden files and links to folders are left out of a folder.

    Raises:
        DataError: there are none, or a folder cannot be read.
    """
    if is_url(place):
        return [place]
    if safe_check(Path(place).is_dir):
        return _in_folder(place)
    if set("*?[") & set(place) and not safe_check(Path(place).exists):
        return _matching(place)
    return [place]


def _in_folder(place: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})")

    found = []
    for folder, inner, names in os.walk(place, onerror=refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [str(Path(folder, name)) for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not found:
        raise DataError(f"{place}: is a folder without text; looked for {', '.join(SUFFIXES)}")
    return sorted(found)


def _matching(pattern: str) -> list[str]:
    root = Path(Path(pattern).anchor)
    try:
        found = sorted(str(path) for path in root.glob(str(Path(pattern).relative_to(root))) if _meant(path, pattern))
    except (OSError, ValueError) as error:
        raise DataError(f"{pattern}: cannot be used as a pattern ({error})") from None
    if not found:
        raise DataError(f"{pattern}: there is no such file, and none that matches")
    return found


def _meant(path: Path, pattern: str) -> bool:
    """Whether a path that matches is a file, and not hidden unless the pattern names hidden ones, as in a shell."""
    return path.is_file() and (not path.name.startswith(".") or Path(pattern).name.startswith("."))


@contextmanager
def opened(place: str) -> Iterator[BufferedIOBase]:
    """A file, or a URL's content in a temporary file, for reading.

    Raises:
        DataError: it is missing, no regular file, or cannot be read; also when that shows inside the block.
    """
    try:
        if is_url(place):
            with tempfile.TemporaryFile() as file:
                download(place, file)
                yield file
        else:
            _check_regular(Path(place))
            with Path(place).open("rb") as file:
                yield file
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise DataError(f"{place}: does not fit into memory; give a smaller text") from None


def _check_regular(path: Path) -> None:
    """Make sure that there is a file that ends: a pipe or a device may never do."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        hint = "`gpt2demo data` lists the example datasets"
        raise DataError(f"{path}: there is no such file or folder; {hint}") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is no regular file; give a file, a folder, a glob or a URL")


def download(url: str, file: BufferedIOBase) -> None:
    """Fetch a URL into an empty file and go back to its start.

    Raises:
        DataError: it cannot be fetched, breaks off, or is larger than LIMIT.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "gpt2demo"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            _copy(answer, file, url)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        cause = error.reason if type(error) is URLError else error
        advice = "look at the address and the network, or fetch it elsewhere and name the file"
        raise DataError(f"{url}: cannot be fetched ({cause}); {advice}") from None
    file.seek(0)


def _copy(answer: HTTPResponse, file: BufferedIOBase, url: str) -> None:
    total = answer.length  # None where the server does not say
    with task(f"fetching {url}", total) as advance:
        while piece := answer.read(CHUNK):
            file.write(piece)
            advance(len(piece))
            if file.tell() > LIMIT:
                raise DataError(f"{url}: is larger than {LIMIT:,} bytes; fetch it yourself and name the file")
    if total is not None and file.tell() < total:
        raise HTTPException(f"broke off after {file.tell():,} of {total:,} bytes")
