"""Train a tokenizer on a text, and encode a stream of documents, on all cores where the tokenizer allows it."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from gpt2demo import plugins
from gpt2demo.data.split import SPLITS, TRAIN, Part
from gpt2demo.interfaces import HasCut, HasEncodeArray, Tokenizer
from gpt2demo.progress import task

Ids = npt.NDArray[np.unsignedinteger]
UNIT = 2**17  # characters to encode in one call, where the tokenizer can cut a text
WORD_LIMIT = 2**22  # characters without a place to cut
WHOLE_LIMIT = 2**26  # characters of a document, for a tokenizer that cannot cut
BATCH = 2**20  # characters for a thread at a time


@dataclass(frozen=True)
class Encoded:
    """Ids of a batch that belong to one split.

    Attributes:
        ids: (N,) uint16 or uint32.
        ends: (D,) int64, where documents end in the ids.
        bytes: size of the text in UTF-8.
    """

    ids: Ids
    ends: npt.NDArray[np.int64]
    bytes: int


def ensure_newlines(documents: Iterable[str]) -> Iterator[str]:
    """Yield documents, each ending with a line break: it separates them under tokenizers without an end-of-text token."""
    for document in documents:
        yield document if document.endswith("\n") else document + "\n"


def train_tokenizer(name: str, documents: Iterable[str], options: dict[str, str], characters: int | None = None) -> Tokenizer:
    """Train a tokenizer on documents and report progress.

    Args:
        name: the tokenizer's name.
        documents: the training texts.
        options: option name -> value as a string.
        characters: length of the documents, for the progress.

    Raises:
        PluginError, SettingError: as `plugins.train_tokenizer` does.
    """
    with task(f"training the tokenizer {name}", characters):
        return plugins.train_tokenizer(name, ensure_newlines(documents), options)


def id_type(tokenizer: Tokenizer) -> np.dtype[np.unsignedinteger]:
    """Return the smaller of uint16 and uint32 that holds the tokenizer's ids."""
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)


def encode(documents: Iterable[str], tokenizer: Tokenizer) -> tuple[Ids, int]:
    """Encode documents in memory, each followed by the end-of-text id if the tokenizer has one.

    Returns:
        The ids (N,), uint16 if the vocabulary fits and uint32 otherwise, and the size of the text in UTF-8 bytes.
    """
    parts = (Part(TRAIN, document, last=True) for document in documents)
    with task("encoding the text", None) as advance:
        found = [encoded for (encoded, *_) in encode_batches(batches(parts, tokenizer), tokenizer, advance)]
    ids = np.concatenate([encoded.ids for encoded in found]) if found else np.empty(0, id_type(tokenizer))
    return ids, sum(encoded.bytes for encoded in found)


# ---------------------------------------------------------------------------------------------- batches


def batches(parts: Iterable[Part], tokenizer: Tokenizer) -> Iterator[list[Part]]:
    """Divide long documents where the tokenizer allows it, and group the parts into batches of about BATCH characters.

    The same documents and the same tokenizer give the same batches.
    """
    batch: list[Part] = []
    size = 0
    for part in _units(parts, tokenizer):
        batch.append(part)
        size += len(part.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _units(parts: Iterable[Part], tokenizer: Tokenizer) -> Iterator[Part]:
    """Divide and join parts into units whose ids, concatenated, are those of the whole document. Documents get a line break."""
    cut: Callable[[str, int], int | None] = tokenizer.cut if isinstance(tokenizer, HasCut) else lambda text, start: None
    limit = WORD_LIMIT if isinstance(tokenizer, HasCut) else WHOLE_LIMIT
    rest = ""
    for split, text, last in parts:
        rest += text
        if last and not rest.endswith("\n"):
            rest += "\n"
        start = 0
        while len(rest) - start > UNIT and (end := cut(rest, start + UNIT)) is not None and end < len(rest):
            yield Part(split, rest[start:end], last=False)
            start = end
        rest = rest[start:]
        if last:
            yield Part(split, rest, last=True)
            rest = ""
        elif len(rest) > limit:
            warnings.warn(_cut_warning(limit), stacklevel=2)
            yield Part(split, rest[:-1], last=False)
            rest = rest[-1]


def _cut_warning(limit: int) -> str:
    return f"a document has {limit:,} characters without a place where the tokenizer can divide it; it is divided nevertheless"


# ---------------------------------------------------------------------------------------------- encoding


def encode_batches(
    work: Iterable[list[Part]], tokenizer: Tokenizer, advance: Callable[[int], None]
) -> Iterator[tuple[Encoded, ...]]:
    """Encode batches in their order: one `Encoded` for each of SPLITS.

    A tokenizer that can cut texts is called from several threads, one for each core; another in this thread alone.

    Args:
        work: the batches.
        tokenizer: the tokenizer.
        advance: called with the number of characters of each encoded batch.
    """
    encode_one = partial(_encode_batch, tokenizer=tokenizer, dtype=id_type(tokenizer))
    results = _in_threads(encode_one, work) if isinstance(tokenizer, HasCut) else ((encode_one(b), b) for b in work)
    for encoded, batch in results:
        yield encoded
        advance(sum(len(part.text) for part in batch))


def _in_threads(
    encode_one: Callable[[list[Part]], tuple[Encoded, ...]], work: Iterable[list[Part]]
) -> Iterator[tuple[tuple[Encoded, ...], list[Part]]]:
    """Encode batches in threads, a bounded number ahead of the consumer."""
    count = os.cpu_count() or 1
    waiting: deque[tuple[Future[tuple[Encoded, ...]], list[Part]]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for batch in work:
                waiting.append((pool.submit(encode_one, batch), batch))
                if len(waiting) > 2 * count:
                    future, first = waiting.popleft()
                    yield future.result(), first
            while waiting:
                future, first = waiting.popleft()
                yield future.result(), first
        finally:
            pool.shutdown(cancel_futures=True)


def _encode_batch(batch: list[Part], tokenizer: Tokenizer, dtype: np.dtype[np.unsignedinteger]) -> tuple[Encoded, ...]:
    return tuple(_encode_parts([part for part in batch if part.split == split], tokenizer, dtype) for split in range(len(SPLITS)))


def _encode_parts(parts: list[Part], tokenizer: Tokenizer, dtype: np.dtype[np.unsignedinteger]) -> Encoded:
    ids_of: Callable[[str], npt.ArrayLike] = tokenizer.encode_array if isinstance(tokenizer, HasEncodeArray) else tokenizer.encode
    end: Ids = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], dtype=dtype)
    arrays: list[Ids] = [np.empty(0, dtype)]
    ends: list[int] = []
    length = size = 0
    for _, text, last in parts:
        ids: Ids = np.asarray(ids_of(text), dtype=dtype)
        arrays += [ids, end] if last else [ids]
        length += len(ids) + (len(end) if last else 0)
        size += len(text) if text.isascii() else len(text.encode())
        if last:
            ends.append(length)
    return Encoded(np.concatenate(arrays), np.array(ends, dtype=np.int64), size)
