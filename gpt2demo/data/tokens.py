"""Token ids on disk: files of a bounded size for each split, memory-mapped as one sequence.

train.npy, train-00001.npy, …    ids of the training text, SHARD in each file but the last
train-ends.npy                   where its documents end
validation.npy, …                the same for the validation text
data.json                        sizes; written last
progress.json                    while they are being written: how far they are complete
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import count, islice, takewhile
from pathlib import Path
from tokenize import TokenError
from typing import IO, Annotated, Any, Self, cast, overload

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError

from gpt2demo.config import describe
from gpt2demo.data.encoding import Encoded, Ids, batches, encode_batches, id_type
from gpt2demo.data.split import SPLITS, Part
from gpt2demo.errors import CheckpointError, DataError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.progress import task
from gpt2demo.storage import open_regular, read_error, read_json, write_error, write_json

Positive = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
SHARD = 2**26  # ids in a file: 128 or 256 MiB
HEADER = 128  # bytes of the header of a .npy file with one dimension
COMMIT = 64  # batches between records of the progress


@dataclass(frozen=True)
class Split:
    """Size of a split: tokens, UTF-8 bytes of text, documents (0 if unknown), and files with its ids."""

    tokens: Positive
    bytes: Positive
    documents: Positive = 0
    files: Positive = 1


class ShardedIds:
    """Ids in several arrays, as one sequence.

    Args:
        shards: the arrays, all of one dtype.
    """

    ndim = 1

    def __init__(self, shards: Sequence[Ids]) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *map(len, shards)]).tolist()
        self.dtype = shards[0].dtype
        self.shape = (self._starts[-1],)
        self.size = self._starts[-1]

    def __len__(self) -> int:
        """Return the number of ids."""
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> np.unsignedinteger: ...

    @overload
    def __getitem__(self, index: slice) -> Ids: ...

    def __getitem__(self, index: int | slice) -> np.unsignedinteger | Ids:
        """Return one id, or the ids of a slice as an array; of more than one file it is a copy."""
        if not isinstance(index, slice):
            return cast("np.unsignedinteger", self[index : index + 1 or None][0])
        start, stop, step = index.indices(len(self))
        if step != 1:
            return np.asarray(self)[index]
        first = bisect_right(self._starts, start) - 1
        if start < stop <= self._starts[first + 1]:  # nearly always
            return self._shards[first][start - self._starts[first] : stop - self._starts[first]]
        parts = [
            self._shards[k][max(0, start - self._starts[k]) : stop - self._starts[k]]
            for k in takewhile(lambda k: k < len(self._shards) and self._starts[k] < stop, count(first))
        ]
        return np.concatenate(parts or [self._shards[0][:0]])

    def tolist(self) -> list[int]:
        """Return all ids as a list."""
        return [index for shard in self._shards for index in shard.tolist()]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all ids in memory."""
        return np.concatenate(self._shards).astype(dtype or self.dtype, copy=False)


# ---------------------------------------------------------------------------------------------- writing


class NpyWriter:
    """A growing one-dimensional .npy file.

    Args:
        path: the file.
        dtype: of the values.
        length: number of values to keep of an existing file.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, length: int = 0) -> None:
        self.path = path
        self.length = length
        self._dtype = np.dtype(dtype)
        try:
            self._file: IO[bytes] = path.open("r+b" if length else "wb")
            self._file.truncate(HEADER + length * self._dtype.itemsize)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise write_error(path, error) from None

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write more values."""
        try:
            self._file.write(values.astype(self._dtype, copy=False).data.cast("B") if len(values) else b"")
        except OSError as error:
            raise write_error(self.path, error) from None
        self.length += len(values)

    def flush(self) -> None:
        """Make the file valid, and flush it to disk."""
        try:
            self._file.seek(0)
            header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.length,)}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._file.seek(0, os.SEEK_END)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class SplitWriter:
    """The files of one split.

    Args:
        folder: an existing folder.
        name: name of the split.
        dtype: of the ids.
        size: what to keep of existing files.
    """

    def __init__(self, folder: Path, name: str, dtype: npt.DTypeLike, size: Split) -> None:
        self.name = name
        self._folder, self._dtype = folder, dtype
        self.size = size
        self._stack = ExitStack()
        self._shard = self._open(ids_file(folder, name, size.tokens // SHARD), size.tokens % SHARD)
        self._ends = self._stack.enter_context(NpyWriter(ends_file(folder, name), np.uint64, size.documents))

    def _open(self, path: Path, length: int) -> NpyWriter:
        return self._stack.enter_context(NpyWriter(path, self._dtype, length))

    def append(self, encoded: Encoded) -> None:
        """Write the ids of a batch."""
        tokens, size = self.size.tokens, self.size
        self._ends.append(encoded.ends + tokens)
        ids = encoded.ids
        while len(ids):
            if self._shard.length == SHARD:
                self._shard.flush()
                self._shard = self._open(ids_file(self._folder, self.name, tokens // SHARD), 0)
            fitting, ids = np.split(ids, [SHARD - self._shard.length])
            self._shard.append(fitting)
            tokens += len(fitting)
        files = max(1, -(-tokens // SHARD))
        self.size = Split(tokens, size.bytes + encoded.bytes, size.documents + len(encoded.ends), files)

    def flush(self) -> None:
        """Flush the files to disk."""
        self._shard.flush()
        self._ends.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def ids_file(folder: Path, name: str, number: int = 0) -> Path:
    """Return the path of one of the files with a split's ids."""
    return folder / (f"{name}-{number:05d}.npy" if number else f"{name}.npy")


def ends_file(folder: Path, name: str) -> Path:
    """Return the path of the file with the ends of a split's documents."""
    return folder / f"{name}-ends.npy"


def write_splits(parts: Iterable[Part], tokenizer: Tokenizer, folder: Path, characters: int | None = None) -> dict[str, Split]:
    """Encode documents and write the files of both splits into an existing folder.

    If an earlier call with the same parts and tokenizer was killed, the work is continued after its last record.

    Args:
        parts: the documents, divided by `split.split_documents`.
        tokenizer: the tokenizer.
        folder: the folder.
        characters: length of all parts, for the progress.

    Returns:
        The splits' sizes by name.

    Raises:
        TokenizerError: the tokenizer cannot encode the text.
        CheckpointError: a file cannot be written.
    """
    done, sizes = _progress(folder)
    dtype = id_type(tokenizer)
    with ExitStack() as stack, task("encoding the text", characters) as advance:
        writers = [stack.enter_context(SplitWriter(folder, name, dtype, sizes[name])) for name in SPLITS]
        work = batches(parts, tokenizer)
        for batch in islice(work, done):
            advance(sum(len(part.text) for part in batch))
        for number, encoded in enumerate(encode_batches(work, tokenizer, advance), start=done + 1):
            for writer, one in zip(writers, encoded, strict=True):
                writer.append(one)
            if number % COMMIT == 0:
                _flush(writers)
                write_json(folder / "progress.json", {"batches": number, **_sizes(writers)})
        _flush(writers)
    write_json(folder / "data.json", _sizes(writers))
    (folder / "progress.json").unlink(missing_ok=True)
    return {writer.name: writer.size for writer in writers}


def _flush(writers: Sequence[SplitWriter]) -> None:
    for writer in writers:
        writer.flush()


def _sizes(writers: Sequence[SplitWriter]) -> dict[str, Any]:
    return {writer.name: asdict(writer.size) for writer in writers}


def _progress(folder: Path) -> tuple[int, dict[str, Split]]:
    """Return the number of batches that a killed process has written, and the sizes of the splits then."""
    try:
        stored = read_json(folder / "progress.json")
        return int(stored["batches"]), _parse_sizes(stored)
    except (CheckpointError, ValidationError, KeyError, TypeError, ValueError):
        return 0, dict.fromkeys(SPLITS, Split(0, 0))


# ---------------------------------------------------------------------------------------------- reading


def load_ids(folder: Path, name: str) -> Ids:
    """Memory-map the ids of one split: (N,). Those of several files are `ShardedIds`, which have a length and slices.

    Raises:
        DataError: a file is missing or damaged.
    """
    files = load_sizes(folder)[name].files if (folder / "data.json").exists() else 1
    shards = [_load(ids_file(folder, name, number), (np.uint16, np.uint32)) for number in range(files)]
    return shards[0] if files == 1 else cast("Ids", ShardedIds(shards))


def load_ends(folder: Path, name: str) -> npt.NDArray[np.uint64]:
    """Memory-map the positions in a split's ids where its documents end: (D,).

    Raises:
        DataError: the file is missing, as in runs of older versions, or damaged.
    """
    return _load(ends_file(folder, name), (np.uint64,))


def _load(path: Path, dtypes: tuple[type[np.unsignedinteger], ...]) -> npt.NDArray[Any]:
    try:
        open_regular(path).close()
        ids: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, EOFError, OverflowError, MemoryError, SyntaxError, TokenError) as error:
        raise DataError(str(read_error(path, error))) from None
    if ids.ndim != 1 or ids.dtype not in dtypes:
        names = " or ".join(dtype.__name__ for dtype in dtypes)
        raise DataError(f"{path}: not a one-dimensional array of {names}")
    return ids.view(np.ndarray)  # faster to slice than a memmap


def load_sizes(folder: Path) -> dict[str, Split]:
    """Return the sizes that `write_splits` stored.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / "data.json"
    try:
        return _parse_sizes(read_json(path))
    except CheckpointError as error:
        raise DataError(str(error)) from None
    except ValidationError as error:
        raise DataError(f"{path}: is damaged ({describe(error)})") from None


def _parse_sizes(stored: dict[str, Any]) -> dict[str, Split]:
    return {name: TypeAdapter(Split).validate_python(stored.get(name)) for name in SPLITS}
