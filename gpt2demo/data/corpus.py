"""Text made ready: read or taken from a dataset, cleaned on request, measured under tokenizers, written as .jsonl.

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
from gpt2demo.data.compare import compare
from gpt2demo.data.sources import Source, read
from gpt2demo.data.tokens import with_newline
from gpt2demo.errors import DataError, SettingError
from gpt2demo.storage import new_file, safe_check

OUTPUTS = (".jsonl", ".jsonl.gz")
FORMS: dict[str, Literal["NFC", "NFKC"]] = {"nfc": "NFC", "nfkc": "NFKC"}


@dataclass(frozen=True)
class Corpus:
    """Documents, where they came from, and what was removed from them as a repetition."""

    documents: list[str]
    sources: list[Source]
    removed_documents: int = 0
    removed_lines: int = 0

    def as_dict(self) -> dict[str, Any]:
        """What there is, for people and JSON: numbers of documents, UTF-8 bytes and characters; removals; sources."""
        return {
            "documents": len(self.documents),
            "bytes": sum(len(document.encode()) for document in self.documents),
            "characters": sum(map(len, self.documents)),
            "removed_documents": self.removed_documents,
            "removed_lines": self.removed_lines,
            "sources": [asdict(source) for source in self.sources],
        }


def make(places: Sequence[str | Path], specs: Sequence[str] = (), output: Path | None = None, **settings: Any) -> dict[str, Any]:
    """All of `gpt2demo data`: read text, clean it, measure it under tokenizers, write it if wanted.

    Args:
        places: files, folders, globs and URLs; or one example dataset, NAME or NAME:key=value,…
        specs: tokenizers as in `compare`.
        output: the .jsonl to write.
        settings: fields of `DataConfig`.

    Returns:
        `Corpus.as_dict` with `output` and `tokenizers`, the rows of `compare`.

    Raises:
        UserError: something cannot be read, used or written there; nothing is written.
        CheckpointError: the disk refused.
    """
    config = DataConfig.create(**settings)
    if not places:
        raise DataError("there is no text to read; name files, folders, globs, URLs or an example dataset")
    if output:
        check_output(output)
    dataset = dataset_named(places)
    corpus = load([] if dataset else places, dataset, config)
    compared = [asdict(measured) for measured in compare(corpus.documents, specs)]
    if output:
        write(corpus.documents, output)
    return {**corpus.as_dict(), "output": output and str(output), "tokenizers": compared}


def list_datasets() -> list[dict[str, str]]:
    """The example datasets by name, with what each is."""
    return [{"name": name, "summary": cls.summary} for name, cls in plugins.datasets().items()]


def dataset_named(places: Sequence[str | Path]) -> str | None:
    """The one place, where it is an example dataset; a file of the same name is meant by `./NAME`."""
    known = len(places) == 1 and str(places[0]).partition(":")[0] in plugins.datasets()
    return str(places[0]) if known else None


def load(places: Sequence[str | Path] = (), dataset: str | None = None, config: DataConfig | None = None) -> Corpus:
    """Read files, folders, globs and URLs, or take an example dataset, and clean it as the settings say.

    Args:
        places: what `gpt2demo.data.sources.read` takes.
        dataset: NAME or NAME:key=value,… instead of places.
        config: how to read and clean.

    Raises:
        DataError, SettingError, PluginError: as `gpt2demo.data.sources.read` and `gpt2demo.plugins.create_dataset` raise them.
    """
    config = config or DataConfig()
    documents, sources = read_dataset(dataset) if dataset else read(places, config)
    return clean(documents, sources, config)


def read_dataset(spec: str) -> tuple[list[str], list[Source]]:
    """The documents of an example dataset and where they came from."""
    documents = list(plugins.create_dataset(spec).documents())
    digest, size = hashlib.sha256(), 0
    for document in with_newline(documents):
        digest.update(document.encode())
        size += len(document.encode())
    return documents, [Source(f"dataset:{spec}", size, digest.hexdigest(), len(documents))]


def clean(documents: Sequence[str], sources: list[Source], config: DataConfig) -> Corpus:
    """Normalise documents, then drop those that came before; at last the lines that came before, in whichever document.

    Blank lines stay. A document of which nothing is left is dropped. The first of several equal ones is the one that is kept.
    """
    form = FORMS.get(config.normalize)
    kept = [unicodedata.normalize(form, document) if form else document for document in documents]
    removed_lines = 0
    if config.unique != "none":
        kept = list(dict.fromkeys(kept))
    if config.unique == "lines":
        kept, removed_lines = _unique_lines(kept)
    return Corpus(kept, sources, len(documents) - len(kept), removed_lines)


def _unique_lines(documents: Iterable[str]) -> tuple[list[str], int]:
    """Documents without the lines that came before, and how many lines those were. Blanks at a line's ends do not count."""
    seen: set[str] = set()
    kept, removed = [], 0

    def is_new(line: str) -> bool:
        before = len(seen)
        seen.add(line.strip())
        return len(seen) > before or line.isspace()

    for document in documents:
        lines = list(io.StringIO(document, newline=""))  # cut at line breaks alone, and they stay as they are
        new = [line for line in lines if is_new(line)]
        removed += len(lines) - len(new)
        if any(map(str.strip, new)):
            kept.append("".join(new))
    return kept, removed


def check_output(path: Path) -> None:
    """Make sure that `write` can write there.

    Raises:
        SettingError: the name says no form that we write, or the file is there already.
    """
    if not path.name.endswith(OUTPUTS):
        raise SettingError(f"output={str(path)!r}: give a file that ends in {' or '.join(OUTPUTS)}")
    if safe_check(path.exists):
        raise SettingError(f"output={str(path)!r}: is already there; choose another name, or remove it first")


def write(documents: Iterable[str], path: Path) -> None:
    """Write documents as rows `{"text": …}`; the file appears whole or not at all, and the same documents give the same bytes.

    Raises:
        SettingError: as `check_output` raises it.
        CheckpointError: the disk refused.
    """
    check_output(path)
    rows = (json.dumps({"text": document}, ensure_ascii=False).encode() + b"\n" for document in documents)
    with new_file(path) as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                packed.writelines(rows)
        else:
            file.writelines(rows)
