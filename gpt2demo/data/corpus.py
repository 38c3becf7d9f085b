"""Load a corpus, clean it, and write it as .jsonl.

`gpt2demo data`, `gpt2demo train` and `gpt2demo eval` get their documents here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gpt2demo import plugins
from gpt2demo.config import DataConfig
from gpt2demo.data.compare import compare_tokenizers
from gpt2demo.data.sources import Source, read_files
from gpt2demo.data.tokens import ensure_newlines
from gpt2demo.errors import DataError, SettingError
from gpt2demo.storage import new_file, safe_check

OUTPUT_SUFFIXES = (".jsonl", ".jsonl.gz")
UNICODE_FORMS: dict[str, Literal["NFC", "NFKC"]] = {"nfc": "NFC", "nfkc": "NFKC"}


@dataclass(frozen=True)
class Corpus:
    """Documents with their sources, and how many duplicates cleaning removed."""

    documents: list[str]
    sources: list[Source]
    removed_documents: int = 0
    removed_lines: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return counts of documents, UTF-8 bytes, characters and removals, and the sources, for JSON."""
        return {
            "documents": len(self.documents),
            "bytes": sum(len(document.encode()) for document in self.documents),
            "characters": sum(map(len, self.documents)),
            "removed_documents": self.removed_documents,
            "removed_lines": self.removed_lines,
            "sources": [asdict(source) for source in self.sources],
        }


def prepare_corpus(
    paths: Sequence[str | Path], tokenizers: Sequence[str] = (), output: Path | None = None, **settings: Any
) -> dict[str, Any]:
    """Load a corpus, compare tokenizers on it, and optionally write it: the command `gpt2demo data`.

    Args:
        paths: files, folders, globs and URLs; or one example dataset, NAME or NAME:key=value,…
        tokenizers: tokenizers as in `compare_tokenizers`.
        output: a new .jsonl or .jsonl.gz file.
        settings: fields of `DataConfig`.

    Returns:
        `Corpus.as_dict` with `output` and `tokenizers`, the rows of `compare_tokenizers`.

    Raises:
        UserError: a path or setting cannot be used; nothing is written.
        CheckpointError: the output cannot be written.
    """
    config = DataConfig.create(**settings)
    if not paths:
        raise DataError("no text to read; pass files, folders, globs, URLs or an example dataset")
    if output:
        check_output(output)
    dataset = dataset_spec(paths)
    corpus = load_corpus([] if dataset else paths, dataset, config)
    rows = [asdict(stats) for stats in compare_tokenizers(corpus.documents, tokenizers)]
    if output:
        write_jsonl(corpus.documents, output)
    return {**corpus.as_dict(), "output": output and str(output), "tokenizers": rows}


def list_datasets() -> list[dict[str, str]]:
    """Return name and summary of each example dataset."""
    return [{"name": name, "summary": cls.summary} for name, cls in plugins.datasets().items()]


def dataset_spec(paths: Sequence[str | Path]) -> str | None:
    """Return the only path if it names an example dataset, else None; `./NAME` names a file of the same name."""
    known = len(paths) == 1 and str(paths[0]).partition(":")[0] in plugins.datasets()
    return str(paths[0]) if known else None


def load_corpus(paths: Sequence[str | Path] = (), dataset: str | None = None, config: DataConfig | None = None) -> Corpus:
    """Read files, folders, globs and URLs, or an example dataset, and clean the documents.

    Args:
        paths: as in `gpt2demo.data.sources.read_files`.
        dataset: NAME or NAME:key=value,… to use instead of paths.
        config: how to read and clean.

    Raises:
        DataError, SettingError, PluginError: as `gpt2demo.data.sources.read_files` and `gpt2demo.plugins.create_dataset` do.
    """
    config = config or DataConfig()
    documents, sources = read_dataset(dataset) if dataset else read_files(paths, config)
    return clean(documents, sources, config)


def read_dataset(spec: str) -> tuple[list[str], list[Source]]:
    """Return the documents of an example dataset and their source."""
    documents = plugins.documents(spec)
    digest, size = hashlib.sha256(), 0
    for document in ensure_newlines(documents):
        digest.update(document.encode())
        size += len(document.encode())
    return documents, [Source(f"dataset:{spec}", size, digest.hexdigest(), len(documents))]


def clean(documents: Sequence[str], sources: list[Source], config: DataConfig) -> Corpus:
    """Normalize documents, then remove duplicate documents, then duplicate lines across all documents.

    The first of several duplicates is kept. Blank lines stay. A document without remaining text is removed.
    """
    form = UNICODE_FORMS.get(config.normalize)
    kept = [unicodedata.normalize(form, document) if form else document for document in documents]
    removed_lines = 0
    if config.unique != "none":
        kept = list(dict.fromkeys(kept))
    if config.unique == "lines":
        kept, removed_lines = _unique_lines(kept)
    return Corpus(kept, sources, len(documents) - len(kept), removed_lines)


def _unique_lines(documents: Iterable[str]) -> tuple[list[str], int]:
    """Remove lines that occurred before, ignoring surrounding whitespace; return the documents and the number of removals."""
    seen: set[str] = set()
    kept, removed = [], 0

    def is_new(line: str) -> bool:
        before = len(seen)
        seen.add(line.strip())
        return len(seen) > before or line.isspace()

    for document in documents:
        lines = list(io.StringIO(document, newline=""))  # split at \n, \r\n and \r only, and keep them
        new = [line for line in lines if is_new(line)]
        removed += len(lines) - len(new)
        if any(map(str.strip, new)):
            kept.append("".join(new))
    return kept, removed


def check_output(path: Path) -> None:
    """Check that `write_jsonl` can write to a path.

    Raises:
        SettingError: the suffix is unsupported, or the file exists.
    """
    if not path.name.endswith(OUTPUT_SUFFIXES):
        raise SettingError(f"output={str(path)!r}: use a file name that ends in {' or '.join(OUTPUT_SUFFIXES)}")
    if safe_check(path.exists):
        raise SettingError(f"output={str(path)!r}: file already exists; choose another name, or remove it first")


def write_jsonl(documents: Iterable[str], path: Path) -> None:
    """Write documents as rows `{"text": …}`, atomically; the same documents give the same bytes.

    Raises:
        SettingError: as `check_output` does.
        CheckpointError: the file cannot be written.
    """
    check_output(path)
    rows = (json.dumps({"text": document}, ensure_ascii=False).encode() + b"\n" for document in documents)
    with new_file(path) as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as compressed:
                compressed.writelines(rows)
        else:
            file.writelines(rows)
