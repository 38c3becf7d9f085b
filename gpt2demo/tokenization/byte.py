"""The byte tokenizer: an id is a byte of the text's UTF-8. 256 ids, any text, nothing unknown, nothing to train."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import TokenizerError


class ByteTokenizer:
    """UTF-8 bytes as ids."""

    lossless: ClassVar[bool] = True
    vocab_size = 256
    eos_id: int | None = None

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """There is nothing to learn; the texts are not read."""
        return cls()

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes."""
        return list(utf8(text))

    def encode_array(self, text: str) -> npt.NDArray[np.uint8]:
        """The same as an array (n,)."""
        return np.frombuffer(utf8(text), dtype=np.uint8)

    def decode(self, ids: Sequence[int]) -> str:
        """UTF-8 to text; bytes that are no UTF-8 become U+FFFD."""
        check_ids(ids, self.vocab_size)
        return bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """There is nothing to save."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """There is nothing to load."""
        return cls()

    def tokenizer_json(self) -> str:
        """A byte-level BPE without merges, whose ids are the bytes."""
        alphabet = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        return json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": byte_level,
                "post_processor": None,  # transformers.js insists on every name
                "decoder": byte_level,
                "model": {"type": "BPE", "vocab": alphabet, "merges": []},
            },
            ensure_ascii=False,
        )


def utf8(text: str) -> bytes:
    """A text as UTF-8.

    Raises:
        TokenizerError: it holds half of a surrogate pair, which is no character.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise TokenizerError(f"text: half a surrogate pair ({half!a}) at character {error.start} is not valid Unicode") from None


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Make sure that all ids are in `range(vocab_size)`.

    Raises:
        TokenizerError: one is not.
    """
    if len(ids) and not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(index for index in ids if not 0 <= index < vocab_size)
        raise TokenizerError(f"id {wrong}: is outside the vocabulary of {vocab_size}")


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte in the files of byte-level BPE, as in OpenAI's `bytes_to_unicode`."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]
