"""The character tokenizer: an id for each character of the training text, in the order of their code points."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import TokenizerError
from gpt2demo.tokenization.byte import check_ids, utf8

FILE = "characters.json"
BLOCK = 2**16  # characters that are looked up at a time: they stay in the processor's cache


class CharTokenizer:
    """Characters as ids. A character that the training text did not have is an error that names it.

    Args:
        characters: the characters; their index is their id.
    """

    lossless: ClassVar[bool] = True
    eos_id: int | None = None

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = list(characters)
        self._table = np.full(sys.maxunicode + 1, -1, dtype=np.int32)  # code point -> id, -1 where there is none
        self._table[code_points("".join(self.characters))] = np.arange(len(self.characters))

    @property
    def vocab_size(self) -> int:
        """Number of different characters."""
        return len(self.characters)

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """Collect the characters of the texts."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        utf8("".join(seen))
        return cls(sorted(seen))

    def encode(self, text: str) -> list[int]:
        """The characters' ids."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> npt.NDArray[np.uint32]:
        """The same as an array (n,)."""
        ids = np.empty(len(text), dtype=np.int32)
        for start in range(0, len(text), BLOCK):
            block = slice(start, start + BLOCK)
            self._table.take(code_points(text[block]), out=ids[block], mode="clip")  # no code point is outside the table
        if ids.size and ids.min() < 0:
            raise TokenizerError(self._complaint(text))
        return ids.view(np.uint32)

    def _complaint(self, text: str) -> str:
        """What cannot be expressed, and what to do."""
        unknown = sorted(set(text) - set(self.characters))
        named = " ".join(f"{character!a} (U+{ord(character):04X})" for character in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        advice = "leave out such characters, or train with the tokenizer `byte`"
        return f"text: the training text had no {named}{more}; {advice}"

    def decode(self, ids: Sequence[int]) -> str:
        """The ids' characters."""
        check_ids(ids, self.vocab_size)
        return "".join([self.characters[index] for index in ids])

    def save(self, folder: Path) -> None:
        """Write the list of characters."""
        (folder / FILE).write_text(json.dumps(self.characters), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the list of characters."""
        path = folder / FILE
        try:
            characters = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise TokenizerError(f"{path}: cannot be read ({error})") from None
        if not isinstance(characters, list) or not all(isinstance(c, str) and len(c) == 1 for c in characters):
            raise TokenizerError(f"{path}: is not a list of single characters")
        if len(set(characters)) != len(characters) or any("\ud800" <= c <= "\udfff" for c in characters):
            raise TokenizerError(f"{path}: lists a character twice, or half a surrogate pair")
        return cls(characters)


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """The characters as numbers (n,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
