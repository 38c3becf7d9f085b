"""The byte tokenizer: ids are the bytes of the text in UTF-8. It encodes any text with 256 ids, without training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import TokenizerError


class ByteTokenizer:
    """Tokenizer whose ids are UTF-8 bytes."""

    lossless: ClassVar[bool] = True
    vocab_size = 256
    eos_id: int | None = None

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """Return a tokenizer; the texts are not used."""
        return cls()

    def encode(self, text: str) -> list[int]:
        """Return the UTF-8 bytes of a text."""
        return list(encode_utf8(text))

    def encode_array(self, text: str) -> npt.NDArray[np.uint8]:
        """Return the UTF-8 bytes of a text as an array (n,)."""
        return np.frombuffer(encode_utf8(text), dtype=np.uint8)

    def cut(self, text: str, start: int) -> int:
        """Return `start`: each character is encoded by itself."""
        return start

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of UTF-8 bytes; invalid bytes become U+FFFD."""
        check_ids(ids, self.vocab_size)
        return bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Write nothing: the tokenizer has no files."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return a tokenizer; no files are read."""
        return cls()

    def tokenizer_json(self) -> str:
        """Return an equivalent tokenizer.json: a byte-level BPE without merges."""
        alphabet = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        return json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": byte_level,
                "post_processor": None,  # transformers.js requires every key
                "decoder": byte_level,
                "model": {"type": "BPE", "vocab": alphabet, "merges": []},
            },
            ensure_ascii=False,
        )


def encode_utf8(text: str) -> bytes:
    """Return a text in UTF-8.

    Raises:
        TokenizerError: the text contains a lone surrogate, which is not valid Unicode.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        surrogate = text[error.start]
        raise TokenizerError(f"text: lone surrogate {surrogate!a} at character {error.start} is not valid Unicode") from None


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Check that all ids are in `range(vocab_size)`.

    Raises:
        TokenizerError: an id is out of range.
    """
    if len(ids) and not 0 <= min(ids) <= max(ids) < vocab_size:
        invalid = next(index for index in ids if not 0 <= index < vocab_size)
        raise TokenizerError(f"id {invalid}: out of range for a vocabulary of {vocab_size}")


def byte_symbols() -> list[str]:
    """Return the printable character for each byte in byte-level BPE files, as OpenAI's `bytes_to_unicode` does."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(substitutes)) for byte in range(256)]
