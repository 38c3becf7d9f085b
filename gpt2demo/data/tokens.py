"""Documents -> ids on disk -> batches.

The ids of the two splits lie as `train.npy` and `validation.npy` in the run folder and are memory-mapped; batches are windows
over them in an order that is a function of (seed, number) alone, so that a resumed run needs to remember nothing but its step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpt2demo import plugins
from gpt2demo.errors import DataError
from gpt2demo.interfaces import HasEncodeArray, Tokenizer
from gpt2demo.progress import count_characters, task
from gpt2demo.storage import read_json, write_error, write_json

SPLITS = ("train", "validation")
Ids = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Split:
    """Size of one split."""

    tokens: int
    bytes: int


def split(documents: Sequence[str], validation_fraction: float) -> tuple[list[str], list[str]]:
    """Documents for training and for validation.

    With enough documents whole ones go to validation, evenly spread; with few, each gives its end, cut at a line break where
    there is one near.
    """
    if len(documents) * validation_fraction >= 5:
        chosen = [int((i + 1) * validation_fraction) > int(i * validation_fraction) for i in range(len(documents))]
        marked = list(zip(documents, chosen, strict=True))
        return [document for document, held_out in marked if not held_out], [
            document for document, held_out in marked if held_out
        ]
    cuts = [_cut(document, validation_fraction) for document in documents]
    train = [document[:cut] for document, cut in zip(documents, cuts, strict=True)]
    return train, [document[cut:] for document, cut in zip(documents, cuts, strict=True)]


def _cut(document: str, validation_fraction: float) -> int:
    """Where a document's validation part begins: after the last line break in the 1 % of the text before the exact place."""
    exact = round(len(document) * (1 - validation_fraction))
    return document.rfind("\n", exact - len(document) // 100, exact) + 1 or exact


def with_newline(documents: Iterable[str]) -> Iterator[str]:
    """Each document ends with a line break, so that documents stay apart under every tokenizer."""
    for document in documents:
        yield document if document.endswith("\n") else document + "\n"


def prepare(documents: Sequence[str], tokenizer: Tokenizer, folder: Path, validation_fraction: float) -> dict[str, Split]:
    """Encode documents and write `train.npy`, `validation.npy` and `data.json` into an existing folder.

    Returns:
        The splits' sizes by name.
    """
    sizes = {}
    for name, part in zip(SPLITS, split(documents, validation_fraction), strict=True):
        ids, size = encode(part, tokenizer)
        try:
            np.save(folder / f"{name}.npy", ids, allow_pickle=False)
        except OSError as error:
            raise write_error(folder / f"{name}.npy", error) from None
        sizes[name] = Split(len(ids), size)
    write_json(folder / "data.json", {name: asdict(size) for name, size in sizes.items()})
    return sizes


def encode(documents: Sequence[str], tokenizer: Tokenizer) -> tuple[Ids, int]:
    """The ids of documents behind each other, each with the end-of-text id where there is one; and their bytes."""
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    ids_of: Callable[[str], npt.ArrayLike] = tokenizer.encode_array if isinstance(tokenizer, HasEncodeArray) else tokenizer.encode
    end: Ids = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], dtype=dtype)
    parts: list[Ids] = []
    size = 0
    with task("turning the text into tokens", sum(map(len, documents))):
        for document in count_characters(with_newline(documents)):
            ids: Ids = np.asarray(ids_of(document), dtype=dtype)
            parts += [ids, end]
            size += len(document.encode())
    return np.concatenate(parts) if parts else np.empty(0, dtype), size


def load_ids(folder: Path, name: str) -> Ids:
    """One split's ids, memory-mapped.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / f"{name}.npy"
    try:
        ids: Ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if ids.ndim != 1 or ids.dtype not in (np.uint16, np.uint32):
        raise DataError(f"{path}: is not a list of ids")
    return ids


def load_sizes(folder: Path) -> dict[str, Split]:
    """The splits' sizes as `prepare` wrote them."""
    stored = read_json(folder / "data.json")
    return {name: Split(**stored[name]) for name in SPLITS}


def train_tokenizer(name: str, documents: Sequence[str], options: dict[str, str]) -> Tokenizer:
    """A tokenizer trained on documents, with options as text; shows how far it is. Raises as `plugins.train_tokenizer` does."""
    with task(f"training the tokenizer {name}", sum(map(len, documents))):
        return plugins.train_tokenizer(name, with_newline(documents), options)
