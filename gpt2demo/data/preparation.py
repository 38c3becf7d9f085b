"""The command `gpt2demo data`: list datasets, measure a text with tokenizers, and write it as .jsonl."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpt2demo import plugins
from gpt2demo.config import DataConfig
from gpt2demo.data.compare import compare_tokenizers
from gpt2demo.data.corpus import load_corpus
from gpt2demo.data.sample import SAMPLE
from gpt2demo.errors import DataError, SettingError
from gpt2demo.progress import Advance, task
from gpt2demo.storage import new_file, safe_check

OUTPUT_SUFFIXES = (".jsonl", ".jsonl.gz")


def prepare_corpus(
    paths: Sequence[str | Path], tokenizers: Sequence[str] = (), output: Path | None = None, **settings: Any
) -> dict[str, Any]:
    """Read a text, compare tokenizers on it, and optionally write it: the command `gpt2demo data`.

    Args:
        paths: files, folders, globs and URLs; or one example dataset, NAME or NAME:key=value,…
        tokenizers: tokenizers as in `compare_tokenizers`. They are compared on a sample of a large text.
        output: a new .jsonl or .jsonl.gz file.
        settings: fields of `DataConfig`.

    Returns:
        `Survey.counts` with `sources`, `output` and `tokenizers`, the rows of `compare_tokenizers`.

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
    survey = corpus.survey(SAMPLE)
    if not survey.sample.complete:
        size = f"{len(survey.sample):,} of {survey.characters:,} characters"
        warnings.warn(f"the tokenizers are compared on a random sample of {size}", stacklevel=2)
    rows = [asdict(stats) for stats in compare_tokenizers(list(survey.sample.documents()), tokenizers)]
    if output:
        with task(f"writing {output}", survey.documents) as advance:
            write_jsonl(corpus.documents, output, advance)
    sources = survey.sources.as_list(str(paths[0]))
    return {**survey.counts(), "sources": sources, "output": output and str(output), "tokenizers": rows}


def list_datasets() -> list[dict[str, str]]:
    """Return name and summary of each example dataset."""
    return [{"name": name, "summary": cls.summary} for name, cls in plugins.datasets().items()]


def dataset_spec(paths: Sequence[str | Path]) -> str | None:
    """Return the only path if it names an example dataset, else None; `./NAME` names a file of the same name."""
    known = len(paths) == 1 and str(paths[0]).partition(":")[0] in plugins.datasets()
    return str(paths[0]) if known else None


def check_output(path: Path) -> None:
    """Check that `write_jsonl` can write to a path.

    Raises:
        SettingError: the suffix is unsupported, or the file exists.
    """
    if not path.name.endswith(OUTPUT_SUFFIXES):
        raise SettingError(f"output={str(path)!r}: use a file name that ends in {' or '.join(OUTPUT_SUFFIXES)}")
    if safe_check(path.exists):
        raise SettingError(f"output={str(path)!r}: file already exists; choose another name, or remove it first")


def write_jsonl(documents: Iterable[str], path: Path, advance: Advance = lambda amount: None) -> None:
    """Write documents as rows `{"text": …}`, atomically; the same documents give the same bytes.

    Args:
        documents: the documents.
        path: the file.
        advance: called with 1 for each document.

    Raises:
        SettingError: as `check_output` does.
        CheckpointError: the file cannot be written.
    """
    check_output(path)

    def rows() -> Iterator[bytes]:
        for document in documents:
            yield json.dumps({"text": document}, ensure_ascii=False).encode() + b"\n"
            advance(1)

    with new_file(path) as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as compressed:
                compressed.writelines(rows())
        else:
            file.writelines(rows())
