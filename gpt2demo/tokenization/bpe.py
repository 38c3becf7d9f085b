"""Byte-level BPE as in GPT-2 (Radford et al. 2019, section 2.2): tokens are frequent byte sequences, so any text can be encoded.

`tokenizers` trains the tokenizer and defines its file format, `tokenizer.json`; tiktoken encodes, several times faster.
`Vocabulary` refuses a file for which the two would not return the same ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from gpt2demo.errors import CheckpointError, TokenizerError
from gpt2demo.progress import count_characters
from gpt2demo.storage import read_json
from gpt2demo.tokenization.byte import byte_symbols, check_ids, encode_utf8
from gpt2demo.tokenization.vocabulary import Vocabulary, rust_errors

FILE = "tokenizer.json"
END = "<|endoftext|>"
MAX_TOKEN_LENGTH = 128  # bytes; otherwise a megabyte of one character would become a token

# GPT-2's pre-tokenizer pattern; merges never cross the boundaries of its matches. The most frequent alternative is first, and
# `\s+$` matches trailing whitespace without the look-ahead, which uses stack for each character. Neither changes the matches.
PATTERN = r" ?\p{L}+|'(?:[sdmt]|ll|ve|re)| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$|\s+(?!\S)|\s"

CHUNK = 2**18  # characters to encode at a time; the look-ahead's stack is large enough for a chunk of whitespace
TRAINING_CHUNK = 2**10
MAX_WORD = 2**12  # characters; training time is quadratic in the length of a word
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # the characters that `\s` matches in PATTERN
_BOUNDARY = re.compile(rf"(?<=[^{_SPACE}])(?=[{_SPACE}])|(?<=[{_SPACE}])(?=[{_SPACE}][^{_SPACE}])")


class BpeTokenizer:
    """Byte-level BPE with GPT-2's pre-tokenizer and an end-of-text id.

    Args:
        stored: the content of a `tokenizer.json`.

    Raises:
        TokenizerError: the content is not a byte-level BPE like GPT-2's, or is damaged.
    """

    lossless: ClassVar[bool] = True

    def __init__(self, stored: dict[str, Any]) -> None:
        import tiktoken

        vocabulary = Vocabulary.read(stored)
        # transformers stores the padding and truncation of its last batch; they are not part of the tokenizer.
        self._stored: dict[str, Any] = {**stored, **dict.fromkeys({"padding", "truncation"} & stored.keys())}
        self.vocab_size = len(vocabulary.ranks) + len(vocabulary.specials)
        self.eos_id: int | None = vocabulary.specials.get(END)
        with rust_errors("tokenizer"):
            self._encoding = tiktoken.Encoding(
                "gpt2demo", pat_str=PATTERN, mergeable_ranks=vocabulary.ranks, special_tokens=vocabulary.specials
            )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: Annotated[int, Field(ge=257, le=200_000, description="number of different tokens")] = 1024,
    ) -> Self:
        """Train a tokenizer: 256 bytes, then the most frequent pairs, then the end-of-text id.

        The vocabulary is smaller than `vocab_size` if the texts have too few pairs that occur twice.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            min_frequency=2,
            initial_alphabet=byte_symbols(),
            max_token_length=MAX_TOKEN_LENGTH,
            show_progress=False,
        )
        with rust_errors("training the tokenizer"):
            tokenizer.train_from_iterator(count_characters(training_chunks(texts)), trainer)
            tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
            return cls(json.loads(tokenizer.to_str()))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; a literal `<|endoftext|>` is encoded like any other text."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the ids of a text as an array (n,); long texts are encoded on all cores."""
        pieces = list(chunks(text, CHUNK))
        if len(pieces) == 1:
            return self._encode_chunk(text)
        with ThreadPoolExecutor() as pool:
            return np.concatenate(list(pool.map(self._encode_chunk, pieces)))

    def cut(self, text: str, start: int) -> int | None:
        """Return the first boundary of the pre-tokenizer from `start` on, see `chunks`."""
        boundary = _BOUNDARY.search(text, start)
        return boundary.start() if boundary else None

    def _encode_chunk(self, text: str) -> npt.NDArray[np.uint32]:
        with rust_errors("text"):
            return self._encoding.encode_to_numpy(text, disallowed_special=())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; the end-of-text id becomes `<|endoftext|>`, an incomplete character U+FFFD."""
        check_ids(ids, self.vocab_size)
        return self._encoding.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        (folder / FILE).write_text(self.tokenizer_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read tokenizer.json, either written by `save` or GPT-2's as published on Hugging Face."""
        try:
            return cls(read_json(folder / FILE))
        except CheckpointError as error:
            raise TokenizerError(str(error)) from None
        except TokenizerError as error:
            raise TokenizerError(f"{folder / FILE}: {error}") from None

    def tokenizer_json(self) -> str:
        """Return the content of tokenizer.json."""
        return json.dumps(self._stored, ensure_ascii=False)


def chunks(text: str, size: int) -> Iterator[str]:
    """Split a text so that the ids of the chunks, concatenated, are the ids of the text.

    A chunk ends at the first boundary after `size` characters. Boundaries are where PATTERN splits in any context: before
    whitespace that follows another character, and before the last of several whitespace characters that another character
    follows.

    Raises:
        TokenizerError: the text contains a lone surrogate.
    """
    encode_utf8(text)
    start = 0
    while boundary := _BOUNDARY.search(text, start + size):
        yield text[start : boundary.start()]
        start = boundary.start()
    yield text[start:]


def training_chunks(texts: Iterable[str]) -> Iterator[str]:
    """Split texts into short chunks, and words longer than MAX_WORD into pieces."""
    for text in texts:
        for chunk in chunks(text, TRAINING_CHUNK):
            yield from (chunk[start : start + MAX_WORD] for start in range(0, len(chunk), MAX_WORD))
