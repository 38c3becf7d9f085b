"""SentencePiece (Kudo and Richardson 2018): lossless unigram (Kudo 2018) or BPE tokenizers.

Normalization, whitespace merging and the leading space are off, and characters without a piece are encoded as bytes.
SentencePiece represents a space as `▁`, so a literal `▁` in a text is always encoded as bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from gpt2demo import hookimpl
from gpt2demo.errors import TokenizerError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.tokenization.byte import encode_utf8

FILE = "sentencepiece.model"
END, SPACE = "<|endoftext|>", "▁"
PROBE = " a  b\n\t ▁é🙂\0 "  # not restored by a model with other settings
MAX_SENTENCE = 1000  # characters; SentencePiece silently skips longer training sentences


class SentencePieceTokenizer:
    """SentencePiece model with byte fallback.

    Args:
        model: the content of a `.model` file.

    Raises:
        TokenizerError: the model is damaged, or its settings are not lossless.
    """

    lossless: ClassVar[bool] = True

    def __init__(self, model: bytes) -> None:
        with library_errors("not a SentencePiece model that this plugin trained"):
            self._pieces = SentencePieceProcessor(model_proto=model)
            self.vocab_size: int = self._pieces.vocab_size()
            self.eos_id: int | None = self._pieces.piece_to_id(END)
            self._space = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
            self._pieces.decode([[index] for index in range(self.vocab_size)])  # fails if a piece is not valid UTF-8
            if not self._pieces.is_control(self.eos_id) or self.decode(self.encode(PROBE)) != PROBE:
                raise ValueError("it is not lossless")

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: Annotated[int, Field(ge=260, le=200_000, description="number of different tokens")] = 1024,
        kind: Annotated[Literal["unigram", "bpe"], Field(description="training algorithm")] = "unigram",
    ) -> Self:
        """Train a tokenizer.

        The vocabulary must have room for each character of the texts. It is smaller than `vocab_size` if the texts have too few
        pieces.
        """
        with library_errors("text"):
            lines = list(sentences(texts))  # an error of the texts is raised here, not inside the library
        model = io.BytesIO()
        with library_errors(f"vocab_size={vocab_size}: cannot be trained on these texts; use more text, or a larger vocabulary"):
            SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type=kind,
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                byte_fallback=True,
                character_coverage=1.0,
                required_chars=SPACE,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                max_sentence_length=4 * MAX_SENTENCE,
                eos_id=0,
                eos_piece=END,
                unk_id=1,
                bos_id=-1,
                minloglevel=2,
            )
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        encode_utf8(text)
        with library_errors("text"):
            first, *rest = text.split(SPACE)
            ids: list[int] = self._pieces.encode(first)
            for part in rest:
                ids += self._space + self._pieces.encode(part)
            return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; the end-of-text id becomes no text, an incomplete character U+FFFD."""
        with library_errors(f"ids: not all in the vocabulary of {self.vocab_size}"):
            return str(self._pieces.decode(list(ids)))

    def save(self, folder: Path) -> None:
        """Write sentencepiece.model."""
        (folder / FILE).write_bytes(self._pieces.serialized_model_proto())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read sentencepiece.model."""
        with library_errors(str(folder / FILE)):
            return cls((folder / FILE).read_bytes())


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """Split texts into sentences of at most MAX_SENTENCE characters."""
    for text in texts:
        encode_utf8(text)  # refuse a lone surrogate before it reaches the library
        yield from (text[start : start + MAX_SENTENCE] for start in range(0, len(text), MAX_SENTENCE))


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Convert errors of the library to a TokenizerError of one line."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, OverflowError, TypeError, OSError) as error:
        raise TokenizerError(f"{what} ({' '.join(str(error).split())[:200]})") from None


@hookimpl
def gpt2demo_tokenizers() -> dict[str, type[Tokenizer]]:
    """Return this plugin's tokenizers by name."""
    return {"sentencepiece": SentencePieceTokenizer}
