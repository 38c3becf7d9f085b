"""SentencePiece (Kudo and Richardson 2018): unigram (Kudo 2018) or BPE pieces of raw text, set up so that nothing is lost.

No normalisation, no space put before the text, no blanks merged; characters without a piece are spelled in bytes. What
SentencePiece would still lose is its own sign for a space, `▁`, when a text has it: that one is always spelled in bytes.
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
from gpt2demo.tokenization.byte import utf8

FILE = "sentencepiece.model"
END, SPACE = "<|endoftext|>", "▁"
PROBE = " a  b\n\t ▁é🙂\0 "  # loses something under any other set-up than ours
LONGEST = 1000  # characters of a training sentence; longer ones would be skipped without a word


class SentencePieceTokenizer:
    """A SentencePiece model with byte fallback.

    Args:
        model: the content of a `.model` file.

    Raises:
        TokenizerError: it is damaged, or set up so that texts do not come back as they were.
    """

    lossless: ClassVar[bool] = True

    def __init__(self, model: bytes) -> None:
        with one_line("not a SentencePiece model that this plugin trained"):
            self._pieces = SentencePieceProcessor(model_proto=model)
            self.vocab_size: int = self._pieces.vocab_size()
            self.eos_id: int | None = self._pieces.piece_to_id(END)
            self._space = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
            self._pieces.decode([[index] for index in range(self.vocab_size)])  # every piece is text
            if not self._pieces.is_control(self.eos_id) or self.decode(self.encode(PROBE)) != PROBE:
                raise ValueError("texts would not survive it")

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: Annotated[int, Field(ge=260, le=200_000, description="number of different tokens")] = 1024,
        kind: Annotated[Literal["unigram", "bpe"], Field(description="how pieces are chosen")] = "unigram",
    ) -> Self:
        """Learn pieces.

        Each character of the texts needs a place in the vocabulary. It stays smaller where the texts have no more pieces.
        """
        with one_line("text"):
            lines = list(sentences(texts))  # what goes wrong in there comes through as it is, not as the library's
        model = io.BytesIO()
        with one_line(f"vocab_size={vocab_size}: cannot be trained on these texts; give more text, or a larger vocabulary"):
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
                max_sentence_length=4 * LONGEST,
                eos_id=0,
                eos_piece=END,
                unk_id=1,
                bos_id=-1,
                minloglevel=2,
            )
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        """The pieces' ids."""
        utf8(text)
        with one_line("text"):
            first, *rest = text.split(SPACE)
            ids: list[int] = self._pieces.encode(first)
            for part in rest:
                ids += self._space + self._pieces.encode(part)
            return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text; the end-of-text id gives none, incomplete characters become U+FFFD."""
        with one_line(f"ids: are not all in the vocabulary of {self.vocab_size}"):
            return str(self._pieces.decode(list(ids)))

    def save(self, folder: Path) -> None:
        """Write sentencepiece.model."""
        (folder / FILE).write_bytes(self._pieces.serialized_model_proto())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read sentencepiece.model."""
        with one_line(str(folder / FILE)):
            return cls((folder / FILE).read_bytes())


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """Texts in pieces that SentencePiece takes."""
    for text in texts:
        utf8(text)  # refuses half a surrogate pair here rather than somewhere in the library
        yield from (text[start : start + LONGEST] for start in range(0, len(text), LONGEST))


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn what the library raises into one line that begins with `what`."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, OverflowError, TypeError, OSError) as error:
        raise TokenizerError(f"{what} ({' '.join(str(error).split())[:200]})") from None


@hookimpl
def gpt2demo_tokenizers() -> dict[str, type[Tokenizer]]:
    """What this plugin gives."""
    return {"sentencepiece": SentencePieceTokenizer}
