"""Byte-level BPE as in GPT-2 (Radford et al. 2019, section 2.2): frequent byte sequences are ids, and any text has an encoding.

Two libraries, one tokenizer: `tokenizers` trains it and `tokenizer.json` is its form on disk; tiktoken encodes, several times
faster. That both give the same ids is not hoped but checked: `Vocabulary` refuses a file for which it would not hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, Field, StrictInt, ValidationError

from gpt2demo.config import describe
from gpt2demo.errors import CheckpointError, Error, TokenizerError
from gpt2demo.progress import count_characters
from gpt2demo.storage import read_json
from gpt2demo.tokenization.byte import byte_symbols, check_ids, utf8

FILE = "tokenizer.json"
END = "<|endoftext|>"
MAX_TOKEN_LENGTH = 128  # bytes: a megabyte of one character would otherwise become a token

# GPT-2's pattern: what is never merged across. The most frequent case stands first, and `\s+$` keeps a long end of blanks
# away from the look-ahead, which needs stack for each of them. Neither changes what matches.
PATTERN = r" ?\p{L}+|'(?:[sdmt]|ll|ve|re)| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$|\s+(?!\S)|\s"

PART = 2**18  # characters that are encoded at a time: long runs of blanks inside a part must fit the look-ahead's stack
_BLANK = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # what `\s` means in PATTERN
_CUT = re.compile(rf"(?<=[^{_BLANK}])(?=[{_BLANK}])|(?<=[{_BLANK}])(?=[{_BLANK}][^{_BLANK}])")


class BpeTokenizer:
    """Byte-level BPE with GPT-2's pre-tokenizer and an end-of-text id.

    Args:
        stored: the content of a `tokenizer.json`.

    Raises:
        TokenizerError: it is no byte-level BPE in GPT-2's form, or it is damaged.
    """

    lossless: ClassVar[bool] = True

    def __init__(self, stored: dict[str, Any]) -> None:
        import tiktoken

        vocabulary = Vocabulary.read(stored)
        # These two are no part of a tokenizer: transformers leaves there how it made a batch.
        self._stored: dict[str, Any] = {**stored, **dict.fromkeys({"padding", "truncation"} & stored.keys())}
        self.vocab_size = len(vocabulary.ranks) + len(vocabulary.specials)
        self.eos_id: int | None = vocabulary.specials.get(END)
        with rust("tokenizer"):
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
        """Learn merges from texts: 256 bytes, then the most frequent pairs, then the end-of-text id.

        The vocabulary stays smaller where the texts have no more pairs that come twice.
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
        with rust("training the tokenizer"):
            tokenizer.train_from_iterator(count_characters(training_parts(texts)), trainer)
            tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
            return cls(json.loads(tokenizer.to_str()))

    def encode(self, text: str) -> list[int]:
        """The ids; a literal `<|endoftext|>` in the text is text like any other."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> npt.NDArray[np.uint32]:
        """The ids as an array (n,); long texts on all cores."""
        cut = list(parts(text))
        if len(cut) == 1:
            return self._encode_part(text)
        with ThreadPoolExecutor() as pool:
            return np.concatenate(list(pool.map(self._encode_part, cut)))

    def _encode_part(self, text: str) -> npt.NDArray[np.uint32]:
        with rust("text"):
            return self._encoding.encode_to_numpy(text, disallowed_special=())

    def decode(self, ids: Sequence[int]) -> str:
        """The text; the end-of-text id gives `<|endoftext|>`, incomplete characters become U+FFFD."""
        check_ids(ids, self.vocab_size)
        return self._encoding.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        (folder / FILE).write_text(self.tokenizer_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read tokenizer.json: ours, or OpenAI's as Hugging Face publishes it."""
        try:
            return cls(read_json(folder / FILE))
        except CheckpointError as error:
            raise TokenizerError(str(error)) from None
        except TokenizerError as error:
            raise TokenizerError(f"{folder / FILE}: {error}") from None

    def tokenizer_json(self) -> str:
        """The file itself."""
        return json.dumps(self._stored, ensure_ascii=False)


def parts(text: str, size: int = PART) -> Iterator[str]:
    """Cut a text where PATTERN has a border whatever stands around it, so that the parts' ids are the whole's.

    Such borders are before blanks that follow something else, and before the last of several blanks that something else
    follows. A part has `size` characters, and more only as far as it has no border there.

    Raises:
        TokenizerError: the text holds half a surrogate pair.
    """
    utf8(text)
    start = 0
    while cut := _CUT.search(text, start + size):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def training_parts(texts: Iterable[str]) -> Iterator[str]:
    """Short parts of texts. Words of more than 4096 characters are broken: training takes the square of a word's length."""
    for text in texts:
        for part in parts(text, 1024):
            yield from (part[start : start + 4096] for start in range(0, len(part), 4096))


@contextmanager
def rust(what: str) -> Iterator[None]:
    """Turn whatever a Rust library raises into a TokenizerError; its panics are no `Exception`."""
    try:
        yield
    except (Error, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200]
        raise TokenizerError(f"{what}: cannot be used ({type(error).__name__}: {reason})") from None


def split_pair(pair: Any) -> Any:
    """Older files write a merge as "a b", newer ones as ["a", "b"]."""
    return tuple(pair.split(" ")) if isinstance(pair, str) else pair


class ByteLevelPart(BaseModel):
    """The `post_processor` that GPT-2's file has; it changes no ids."""

    type: Literal["ByteLevel"]


class PreTokenizerPart(ByteLevelPart):
    """The `pre_tokenizer`: PATTERN."""

    add_prefix_space: Literal[False]
    use_regex: Literal[True] = True


class ModelPart(BaseModel):
    """The `model`: byte-level BPE without any of the variations that `tokenizers` knows."""

    type: Literal["BPE"] = "BPE"
    dropout: None = None
    continuing_subword_prefix: Literal[""] | None = None
    end_of_word_suffix: Literal[""] | None = None
    ignore_merges: Literal[False] = False
    vocab: dict[str, StrictInt]
    merges: list[Annotated[tuple[str, str], BeforeValidator(split_pair)]]


class SpecialPart(BaseModel):
    """One of the `added_tokens`."""

    id: StrictInt
    content: str
    special: bool = True


class TokenizerFile(BaseModel):
    """The parts of a `tokenizer.json` that decide about ids, each in the one form that GPT-2's has."""

    normalizer: None = None
    pre_tokenizer: PreTokenizerPart
    post_processor: ByteLevelPart | None = None
    added_tokens: list[SpecialPart] = []
    model: ModelPart


@dataclass(frozen=True)
class Vocabulary:
    """What tiktoken needs of a tokenizer.json.

    Attributes:
        ranks: bytes -> id of every token that text can produce; of two possible merges the lower id goes first.
        specials: name -> id of the tokens that text can never produce.
    """

    ranks: dict[bytes, int]
    specials: dict[str, int]

    @classmethod
    def read(cls, stored: dict[str, Any]) -> Self:
        """Take a tokenizer.json apart.

        Raises:
            TokenizerError: it is damaged, of another kind, or one that tiktoken would encode differently.
        """
        try:
            file = TokenizerFile.model_validate(stored)
        except ValidationError as error:
            raise TokenizerError(f"is no BPE like GPT-2's: {describe(error)}") from None
        if ordinary := next((token.content for token in file.added_tokens if not token.special), None):
            raise TokenizerError(f"added_tokens: {ordinary[:80]!r} is not special, so text has it; such tokens are not supported")
        specials = {token.content: token.id for token in file.added_tokens}
        ids = {token: number for token, number in file.model.vocab.items() if specials.get(token) != number}
        if sorted([*ids.values(), *specials.values()]) != list(range(len(ids) + len(specials))):
            raise TokenizerError("the ids are not 0, 1, 2 … without gaps")
        check_merges(ids, file.model.merges)
        byte_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        return cls({bytes([byte_of[symbol] for symbol in token]): number for token, number in ids.items()}, specials)


def check_merges(ids: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Make sure that tiktoken gives the ids of `tokenizers`.

    `tokenizers` joins two neighbours that are listed as a merge, the first merge of the list first. tiktoken joins any two
    whose union is a token, the lowest id first. Both do the same when the tokens are the 256 bytes and one union for each merge,
    with ids in the merges' order, and when each token, encoded alone by the merges, is itself: then no other two tokens with
    the same union ever come to stand side by side. Training gives such merges by itself.

    Raises:
        TokenizerError: it is not so.
    """
    from tokenizers import models

    known = dict.fromkeys(byte_symbols())
    for left, right in merges:
        if left not in known or right not in known or left + right in known:
            raise TokenizerError(f"model.merges: {left} {right} does not join two earlier tokens to a new one")
        known[left + right] = None
    if known.keys() != ids.keys():
        raise TokenizerError(f"model.vocab: {sorted(known.keys() ^ ids.keys())[0]!r} is no byte and no merge, or is missing")
    unions = [ids[left + right] for left, right in merges]
    if unions != sorted(unions):
        raise TokenizerError("model.merges: are in another order than the ids")
    with rust("model.merges"):
        model = models.BPE(vocab=ids, merges=merges)
        if other := next((token for token in ids if len(model.tokenize(token)) != 1), None):
            raise TokenizerError(f"model.merges: the token {other[:80]!r} cannot be made by them")
