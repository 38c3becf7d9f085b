"""A text as a stream of documents: read from its sources, and cleaned, in bounded memory.

`gpt2demo data`, `gpt2demo train` and `gpt2demo eval` get their documents here.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast

from gpt2demo.config import DataConfig
from gpt2demo.data.cleaning import (
    DocumentHash,
    FirstOccurrences,
    first_documents,
    first_lines,
    normalized,
    only_first_documents,
    only_first_lines,
)
from gpt2demo.data.formats import Piece
from gpt2demo.data.generated import DATASET, generate, is_generated
from gpt2demo.data.sample import SAMPLE, Sample
from gpt2demo.data.sources import Content, Source, fetch, find_all, is_url, read_source
from gpt2demo.errors import DataError
from gpt2demo.progress import task
from gpt2demo.storage import safe_check

LISTED = 1000  # files that run.json lists: it is read on every access to the run


def _ignore(value: object) -> None:
    pass


class Sources:
    """The sources of a text, recorded as they are read. They are kept in a temporary file: there may be a million."""

    def __init__(self) -> None:
        self._lines: IO[bytes] = cast("IO[bytes]", SpooledTemporaryFile(2**22))  # noqa: SIM115  # closed with self
        weakref.finalize(self, self._lines.close)
        self._digest = hashlib.sha256()
        self.count = 0
        self.documents = 0
        self.bytes = 0

    def add(self, source: Source) -> None:
        """Record the next source."""
        self._lines.write(json.dumps(asdict(source), ensure_ascii=False).encode() + b"\n")
        self._digest.update(f"{source.sha256} {''.join(Path(source.path).suffixes[-2:]).lower()}\n".encode())
        self.count += 1
        self.documents += source.documents
        self.bytes += source.bytes

    @property
    def digest(self) -> str:
        """Checksum of the sources' contents and formats, in order. It does not depend on where they lie."""
        return self._digest.hexdigest()

    def lines(self) -> Iterator[bytes]:
        """Yield each source as a line of JSON."""
        self._lines.seek(0)
        yield from self._lines

    def as_list(self, name: str) -> list[dict[str, Any]]:
        """Return the sources, or of more than LISTED a single entry of all together, which has this name."""
        if self.count <= LISTED:
            return [json.loads(line) for line in self.lines()]
        return [{"path": name, "bytes": self.bytes, "sha256": self.digest, "documents": self.documents, "files": self.count}]


@dataclass(frozen=True)
class Long:
    """What is needed of a document of several pieces before its first one is encoded: its size and its `text_hash`."""

    characters: int
    hash: int


@dataclass
class Survey:
    """What one pass over a text finds.

    Attributes:
        sources: where the text was read from.
        sample: for training a tokenizer.
        documents, characters, bytes: size of the cleaned text, in UTF-8.
        removed_documents, removed_lines: duplicates that cleaning removed.
        long: the documents of more than one piece, by number.
    """

    sources: Sources
    sample: Sample
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    removed_documents: int = 0
    removed_lines: int = 0
    long: dict[int, Long] = field(default_factory=dict)
    _current: DocumentHash | None = None  # of a document with more than one piece

    def add(self, piece: Piece) -> None:
        """Count the next piece, and offer it to the sample."""
        text, last = piece
        self.sample.add(piece)
        self.characters += len(text)
        self.bytes += len(text) if text.isascii() else len(text.encode())
        if self._current or not last:
            self._current = self._current or DocumentHash()
            self._current.add(text)
        if last:
            if self._current:
                self.long[self.documents] = Long(self._current.characters, self._current.value())
            self.documents += 1
            self._current = None

    def counts(self) -> dict[str, int]:
        """Return the size of the text and the removals, for JSON."""
        names = ("documents", "bytes", "characters", "removed_documents", "removed_lines")
        return {name: getattr(self, name) for name in names}


class Corpus:
    """Documents that are read from their sources, and cleaned, each time they are iterated over.

    Downloads and datasets are loaded when they are needed, and kept in temporary files as long as the object exists.

    Args:
        paths: files and URLs; or one dataset as in `generated.generate`.
        config: how to read and clean.
    """

    def __init__(self, paths: Sequence[str], config: DataConfig) -> None:
        self.paths = paths
        self.config = config

    @cached_property
    def _contents(self) -> dict[str, Content]:
        """The sources that are no files."""
        checksums = iter(self.config.sha256)
        return {path: self._load(path, checksums) for path in self.paths if is_generated(path) or is_url(path)}

    def _load(self, path: str, checksums: Iterator[str]) -> Content:
        content = generate(path, self.config.field) if is_generated(path) else fetch(path, next(checksums, None))
        weakref.finalize(self, content.file.close)
        return content

    @property
    def numbered(self) -> bool:
        """True for an example dataset, whose documents are known by their number."""
        return self.paths[0].startswith(DATASET)

    @property
    def documents(self) -> Iterator[str]:
        """The cleaned documents, each as a whole."""
        held: list[str] = []
        for text, last in self.pieces():
            held.append(text)
            if last:
                yield "".join(held)
                held = []

    def pieces(self, advance: Callable[[int], None] = _ignore, record: Callable[[Source], None] = _ignore) -> Iterator[Piece]:
        """Return an iterator over the cleaned documents, in pieces.

        Args:
            advance: called with the number of bytes that were read since the last call.
            record: called with each source after it was read.

        Raises:
            DataError: as `sources.read_source` does.
        """
        raw = self._read(advance, record)
        if self.config.unique == "none":
            return raw
        only_first = only_first_documents if self.config.unique == "documents" else only_first_lines
        return only_first(raw, self._first)

    @cached_property
    def _first(self) -> FirstOccurrences:
        """The documents or lines that do not repeat an earlier one."""
        find = first_documents if self.config.unique == "documents" else first_lines
        with task("finding duplicates", self.stored_bytes) as advance:
            return find(self._read(advance))

    def _read(self, advance: Callable[[int], None], record: Callable[[Source], None] = _ignore) -> Iterator[Piece]:
        return normalized(self._read_sources(advance, record), self.config.normalize)

    def _read_sources(self, advance: Callable[[int], None], record: Callable[[Source], None]) -> Iterator[Piece]:
        for path in self.paths:
            record((yield from read_source(path, self._contents.get(path), self.config.field, advance)))

    @property
    def stored_bytes(self) -> int:
        """Size of all sources as stored; a file that cannot be found counts nothing."""
        contents = sum(content.bytes for content in self._contents.values())
        files = (Path(path) for path in self.paths if path not in self._contents)
        return contents + sum(path.stat().st_size for path in files if safe_check(path.is_file))

    def survey(self, sample: int = SAMPLE, seed: int = 0) -> Survey:
        """Read the text once and return what is found.

        Args:
            sample: size of the sample in characters.
            seed: random seed of the sample.
        """
        survey = Survey(Sources(), Sample(sample, seed))
        removed = self._first.repeated if self.config.unique != "none" else 0
        with task("reading the text", self.stored_bytes) as advance:
            for piece in self.pieces(advance, survey.sources.add):
                survey.add(piece)
        survey.removed_documents = survey.sources.documents - survey.documents
        survey.removed_lines = removed if self.config.unique == "lines" else 0
        if not survey.documents:
            raise DataError(f"{self.paths[0]}: no text is left after cleaning")
        return survey


def load_corpus(paths: Sequence[str | Path] = (), dataset: str | None = None, config: DataConfig | None = None) -> Corpus:
    """Return the text of files, folders, globs, URLs and datasets of the Hugging Face hub, or of an example dataset.

    Args:
        paths: as in `gpt2demo.data.sources.find_all`.
        dataset: NAME or NAME:key=value,… to use instead of paths.
        config: how to read and clean.

    Raises:
        DataError, SettingError, PluginError: as `gpt2demo.data.sources.find_all` and `gpt2demo.plugins.create_dataset` do.
    """
    config = config or DataConfig()
    return Corpus([f"{DATASET}{dataset}"] if dataset else find_all(paths, config), config)
