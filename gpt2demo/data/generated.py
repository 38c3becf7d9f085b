"""Texts that are no files: example datasets, and datasets of the Hugging Face hub. Each is kept in a temporary file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from typing import IO, cast

from gpt2demo import plugins
from gpt2demo.data.formats import text_field
from gpt2demo.data.sources import HUB, Content
from gpt2demo.errors import DataError
from gpt2demo.progress import task

DATASET = "dataset:"  # before the name and options of an example dataset
SPLITS = ("train", "validation", "test")
MEMORY = 2**22  # bytes of a temporary file that are kept in memory


def is_generated(path: str) -> bool:
    """Return whether a path stands for a dataset."""
    return path.startswith((DATASET, HUB))


def generate(path: str, field: str) -> Content:
    """Write the documents of a dataset to a temporary file.

    Args:
        path: `dataset:NAME[:key=value,…]`, or `hf:NAME[:CONFIG][:SPLIT]`.
        field: column of a dataset of the hub that holds the text.

    Raises:
        DataError: the dataset of the hub cannot be read.
        PluginError, SettingError: as `plugins.create_dataset` does.
    """
    documents = hub_documents(path, field) if path.startswith(HUB) else plugins.documents(path.removeprefix(DATASET))
    digest, size = hashlib.sha256(), 0
    with ExitStack() as stack, task(f"loading {path}", None) as advance:
        file = cast("IO[bytes]", stack.enter_context(SpooledTemporaryFile(MEMORY)))
        for document in documents:
            text = document.encode(errors="surrogatepass") + (b"" if document.endswith("\n") else b"\n")
            digest.update(text)
            size += len(text)
            file.write(json.dumps({"text": document}).encode() + b"\n")
            advance(len(text))
        stack.pop_all()  # `Corpus` closes the file
    return Content(file, size, digest.hexdigest(), "rows.jsonl", "text")


def hub_documents(path: str, field: str) -> Iterator[str]:
    """Yield a column of a dataset on the Hugging Face hub, which is streamed.

    Args:
        path: `hf:NAME[:CONFIG][:SPLIT]`; the split is `train` by default. One of SPLITS alone is a split, not a configuration.
        field: the column.

    Raises:
        DataError: the library is not installed, or the dataset cannot be found or read.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"{path}: needs the library datasets; run `pip install gpt2demo[hub]`") from None
    name, config, split = _hub_parts(path)
    try:
        for number, row in enumerate(load_dataset(name, config, split=split, streaming=True), start=1):
            yield text_field(row, field, f"{path}: row {number}")
    except DataError:
        raise
    except Exception as error:  # of the library, of the network, or of the data
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be read from the hub ({reason}); check the name and the network") from None


def _hub_parts(path: str) -> tuple[str, str | None, str]:
    """Return name, configuration and split."""
    name, *rest = path.removeprefix(HUB).split(":")
    if not name or len(rest) > 2 or not all(rest):
        raise DataError(f"{path}: expected {HUB}NAME[:CONFIG][:SPLIT]")
    split = rest.pop() if rest and (len(rest) > 1 or rest[0] in SPLITS) else "train"
    return name, rest[0] if rest else None, split
