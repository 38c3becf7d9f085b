"""The character tokenizer: one id per character of the training text, in code point order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import TokenizerError
from gpt2demo.storage import read_bytes, read_error
from gpt2demo.tokenization.byte import check_ids, encode_utf8

FILE = "characters.json"
BLOCK = 2**16  # characters to look up at a time; a block fits the processor's cache


class CharTokenizer:
    """Tokenizer whose ids are characters. A character that is not in the training text is an error.

    Args:
        characters: the vocabulary; the index of a character is its id.
    """

    lossless: ClassVar[bool] = True
    needs_whole_text: ClassVar[bool] = True  # a character that is missing in a sample could not be encoded
    eos_id: int | None = None

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = list(characters)
        self._table = np.full(sys.maxunicode + 1, -1, dtype=np.int32)  # code point -> id, or -1
        self._table[code_points("".join(self.characters))] = np.arange(len(self.characters))

    @property
    def vocab_size(self) -> int:
        """Number of characters."""
        return len(self.characters)

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """Return a tokenizer for the characters of the texts."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        encode_utf8("".join(seen))
        return cls(sorted(seen))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            TokenizerError: a character is not in the vocabulary.
        """
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the ids of a text as an array (n,). Raises as `encode` does."""
        ids = np.empty(len(text), dtype=np.int32)
        for start in range(0, len(text), BLOCK):
            block = slice(start, start + BLOCK)
            self._table.take(code_points(text[block]), out=ids[block], mode="clip")  # every code point is in the table
        if ids.size and ids.min() < 0:
            raise self._unknown_characters(text)
        return ids.view(np.uint32)

    def cut(self, text: str, start: int) -> int:
        """Return `start`: each character is encoded by itself."""
        return start

    def _unknown_characters(self, text: str) -> TokenizerError:
        unknown = sorted(set(text) - set(self.characters))
        named = " ".join(f"{character!a} (U+{ord(character):04X})" for character in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        return TokenizerError(f"text: unknown characters {named}{more}; remove them, or train with the tokenizer `byte`")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        check_ids(ids, self.vocab_size)
        return "".join([self.characters[index] for index in ids])

    def save(self, folder: Path) -> None:
        """Write characters.json."""
        (folder / FILE).write_text(json.dumps(self.characters), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read characters.json."""
        path = folder / FILE
        try:
            characters = json.loads(read_bytes(path))
        except (OSError, ValueError, RecursionError) as error:
            raise TokenizerError(str(read_error(path, error))) from None
        if not isinstance(characters, list) or not all(isinstance(c, str) and len(c) == 1 for c in characters):
            raise TokenizerError(f"{path}: not a list of single characters")
        if len(set(characters)) != len(characters) or any("\ud800" <= c <= "\udfff" for c in characters):
            raise TokenizerError(f"{path}: contains a duplicate character or a lone surrogate")
        return cls(characters)


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """Return the code points of a text (n,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
