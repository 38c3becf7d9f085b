"""Read the vocabulary of a `tokenizer.json`, and check that tiktoken encodes with it exactly as `tokenizers` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, StrictInt, ValidationError

from gpt2demo.config import describe
from gpt2demo.errors import Error, TokenizerError
from gpt2demo.tokenization.byte import byte_symbols


@contextmanager
def rust_errors(what: str) -> Iterator[None]:
    """Convert any exception of a Rust library to a TokenizerError; its panics derive from BaseException."""
    try:
        yield
    except (Error, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200]
        raise TokenizerError(f"{what}: cannot be used ({type(error).__name__}: {reason})") from None


def split_merge(merge: Any) -> Any:
    """Convert a merge of older files, "a b", to the form of newer ones, ("a", "b")."""
    return tuple(merge.split(" ")) if isinstance(merge, str) else merge


class ByteLevel(BaseModel):
    """The `post_processor` of GPT-2's file; it does not change ids."""

    type: Literal["ByteLevel"]


class PreTokenizer(ByteLevel):
    """The `pre_tokenizer`: split with GPT-2's pattern."""

    add_prefix_space: Literal[False]
    use_regex: Literal[True] = True


class BpeModel(BaseModel):
    """The `model`: byte-level BPE without any of the variants that `tokenizers` supports."""

    type: Literal["BPE"] = "BPE"
    dropout: None = None
    continuing_subword_prefix: Literal[""] | None = None
    end_of_word_suffix: Literal[""] | None = None
    ignore_merges: Literal[False] = False
    vocab: dict[str, StrictInt]
    merges: list[Annotated[tuple[str, str], BeforeValidator(split_merge)]]


class AddedToken(BaseModel):
    """One of the `added_tokens`."""

    id: StrictInt
    content: str
    special: bool = True


class TokenizerFile(BaseModel):
    """The parts of a `tokenizer.json` that affect ids, restricted to the values of GPT-2's file."""

    normalizer: None = None
    pre_tokenizer: PreTokenizer
    post_processor: ByteLevel | None = None
    added_tokens: list[AddedToken] = []
    model: BpeModel


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary in the form of tiktoken.

    Attributes:
        ranks: bytes -> id of every ordinary token; of two possible merges the one with the lower id is applied first.
        specials: name -> id of the special tokens, which encoding a text never returns.
    """

    ranks: dict[bytes, int]
    specials: dict[str, int]

    @classmethod
    def read(cls, stored: dict[str, Any]) -> Self:
        """Return the vocabulary of a parsed tokenizer.json.

        Raises:
            TokenizerError: the file is damaged, of another kind, or tiktoken would encode differently.
        """
        try:
            file = TokenizerFile.model_validate(stored)
        except ValidationError as error:
            raise TokenizerError(f"not a byte-level BPE like GPT-2's: {describe(error)}") from None
        if ordinary := next((token.content for token in file.added_tokens if not token.special), None):
            raise TokenizerError(f"added_tokens: {ordinary[:80]!r} is not special; only special tokens are supported")
        specials = {token.content: token.id for token in file.added_tokens}
        ids = {token: index for token, index in file.model.vocab.items() if specials.get(token) != index}
        if sorted([*ids.values(), *specials.values()]) != list(range(len(ids) + len(specials))):
            raise TokenizerError("the ids are not consecutive numbers from 0")
        check_merges(ids, file.model.merges)
        byte_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        return cls({bytes([byte_of[symbol] for symbol in token]): index for token, index in ids.items()}, specials)


def check_merges(ids: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Check that tiktoken returns the ids of `tokenizers`.

    `tokenizers` merges two adjacent tokens that are listed as a merge, in the order of the list. tiktoken merges any two adjacent
    tokens whose concatenation is a token, the lowest id first. The results are equal if

    - the tokens are the 256 bytes and one concatenation for each merge,
    - the ids are in the order of the merges, and
    - each token, encoded alone with the merges, is a single token: then two other tokens with the same concatenation are never
      adjacent.

    Training gives such merges; a crafted file may not.

    Raises:
        TokenizerError: one of these conditions does not hold.
    """
    from tokenizers import models

    known = dict.fromkeys(byte_symbols())
    for left, right in merges:
        if left not in known or right not in known or left + right in known:
            raise TokenizerError(f"model.merges: {left} {right} does not join two earlier tokens into a new one")
        known[left + right] = None
    if known.keys() != ids.keys():
        token = sorted(known.keys() ^ ids.keys())[0]
        raise TokenizerError(f"model.vocab: {token!r} is missing, or neither a byte nor a merge")
    merged = [ids[left + right] for left, right in merges]
    if merged != sorted(merged):
        raise TokenizerError("model.merges: not in the order of the ids")
    with rust_errors("model.merges"):
        model = models.BPE(vocab=ids, merges=merges)
        if other := next((token for token in ids if len(model.tokenize(token)) != 1), None):
            raise TokenizerError(f"model.merges: do not produce the token {other[:80]!r}")
