"""Split documents into training and validation text, encode them, and store the ids on disk.

The ids of the splits are `train.npy` and `validation.npy` in a run's data folder; they are memory-mapped when loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError

from gpt2demo import plugins
from gpt2demo.config import describe
from gpt2demo.errors import CheckpointError, DataError
from gpt2demo.interfaces import HasEncodeArray, Tokenizer
from gpt2demo.progress import count_characters, task
from gpt2demo.storage import open_regular, read_error, read_json, write_error, write_json

SPLITS = ("train", "validation")
Positive = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
Ids = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Split:
    """Size of a split, in tokens and in UTF-8 bytes of text."""

    tokens: Positive
    bytes: Positive


def split_documents(documents: Sequence[str], validation_fraction: float) -> tuple[list[str], list[str]]:
    """Split documents into training and validation text.

    If the fraction amounts to five documents or more, whole documents are held out, evenly spaced. Otherwise the end of each
    document is held out, from a line break on if one is near.
    """
    if len(documents) * validation_fraction >= 5:
        held_out = [int((i + 1) * validation_fraction) > int(i * validation_fraction) for i in range(len(documents))]
        train = [document for document, out in zip(documents, held_out, strict=True) if not out]
        return train, [document for document, out in zip(documents, held_out, strict=True) if out]
    cuts = [_cut(document, validation_fraction) for document in documents]
    train = [document[:cut] for document, cut in zip(documents, cuts, strict=True)]
    return train, [document[cut:] for document, cut in zip(documents, cuts, strict=True)]


def _cut(document: str, validation_fraction: float) -> int:
    """Return where the validation part starts: after the last line break in the 1 % of the text before the exact position."""
    exact = round(len(document) * (1 - validation_fraction))
    return document.rfind("\n", exact - len(document) // 100, exact) + 1 or exact


def ensure_newlines(documents: Iterable[str]) -> Iterator[str]:
    """Yield documents, each ending with a line break: it separates them under tokenizers without an end-of-text token."""
    for document in documents:
        yield document if document.endswith("\n") else document + "\n"


def train_tokenizer(name: str, documents: Sequence[str], options: dict[str, str]) -> Tokenizer:
    """Train a tokenizer on documents and report progress. Raises as `plugins.train_tokenizer` does."""
    with task(f"training the tokenizer {name}", sum(map(len, documents))):
        return plugins.train_tokenizer(name, ensure_newlines(documents), options)


def encode(documents: Sequence[str], tokenizer: Tokenizer) -> tuple[Ids, int]:
    """Encode documents, each followed by the end-of-text id if the tokenizer has one.

    Returns:
        The ids (N,), uint16 if the vocabulary fits and uint32 otherwise, and the size of the text in UTF-8 bytes.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    ids_of: Callable[[str], npt.ArrayLike] = tokenizer.encode_array if isinstance(tokenizer, HasEncodeArray) else tokenizer.encode
    end: Ids = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], dtype=dtype)
    parts: list[Ids] = []
    size = 0
    with task("encoding the text", sum(map(len, documents))):
        for document in count_characters(ensure_newlines(documents)):
            ids: Ids = np.asarray(ids_of(document), dtype=dtype)
            parts += [ids, end]
            size += len(document.encode())
    return np.concatenate(parts) if parts else np.empty(0, dtype), size


def write_splits(documents: Sequence[str], tokenizer: Tokenizer, folder: Path, validation_fraction: float) -> dict[str, Split]:
    """Split and encode documents; write `train.npy`, `validation.npy` and `data.json` into an existing folder.

    Returns:
        The splits' sizes by name.

    Raises:
        TokenizerError: the tokenizer cannot encode the text.
        CheckpointError: a file cannot be written.
    """
    sizes = {}
    for name, part in zip(SPLITS, split_documents(documents, validation_fraction), strict=True):
        ids, size = encode(part, tokenizer)
        _save_ids(folder / f"{name}.npy", ids)
        sizes[name] = Split(len(ids), size)
    write_json(folder / "data.json", {name: asdict(size) for name, size in sizes.items()})
    return sizes


def _save_ids(path: Path, ids: Ids) -> None:
    """Write ids like `np.save`, whose message for a full disk does not say so."""
    try:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(ids))
            file.write(ids.data.cast("B"))
    except OSError as error:
        raise write_error(path, error) from None


def load_ids(folder: Path, name: str) -> Ids:
    """Memory-map the ids of one split: (N,).

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / f"{name}.npy"
    try:
        open_regular(path).close()
        ids: Ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, EOFError, OverflowError, MemoryError, SyntaxError, TokenError) as error:
        raise DataError(str(read_error(path, error))) from None
    if ids.ndim != 1 or ids.dtype not in (np.uint16, np.uint32):
        raise DataError(f"{path}: not a one-dimensional array of uint16 or uint32 ids")
    return ids


def load_sizes(folder: Path) -> dict[str, Split]:
    """Return the sizes that `write_splits` stored.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / "data.json"
    try:
        stored = read_json(path)
        return {name: TypeAdapter(Split).validate_python(stored.get(name)) for name in SPLITS}
    except CheckpointError as error:
        raise DataError(str(error)) from None
    except ValidationError as error:
        raise DataError(f"{path}: is damaged ({describe(error)})") from None
