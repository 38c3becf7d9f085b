"""The character tokenizer: an id for each character of the training text, in the order of their code points."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

from gpt2demo.errors import TokenizerError

FILE = "characters.json"


class CharTokenizer:
    """Characters as ids. A character that the training text did not have is an error that names it.

    Args:
        characters: the characters; their index is their id.

    """

    lossless: ClassVar[bool] = True
    eos_id: int | None = None

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = list(characters)
        self._ids = {character: index for index, character in enumerate(self.characters)}

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
        return cls(sorted(seen))

    def encode(self, text: str) -> list[int]:
        """The characters' ids."""
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            unknown = sorted(set(text) - set(self._ids))
            named = " ".join(f"{character!r} (U+{ord(character):04X})" for character in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise TokenizerError(
                f"text: the training text had no {named}{more}; leave out such characters, or train with the tokenizer `byte`"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        """The ids' characters."""
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
        if len(set(characters)) != len(characters):
            raise TokenizerError(f"{path}: lists a character twice")
        return cls(characters)
