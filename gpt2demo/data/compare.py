"""Compare tokenizers on a text: vocabulary, number of tokens, compression and speed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpt2demo import plugins
from gpt2demo.config import parse_spec
from gpt2demo.data.tokens import encode, train_tokenizer
from gpt2demo.errors import PluginError, SettingError


@dataclass(frozen=True)
class Measured:
    """What a tokenizer makes of a text.

    Attributes:
        vocabulary: how many different tokens it has.
        tokens: how many it needs, ends of documents included.
        bytes_per_token: how much of the text's UTF-8 a token holds: its compression.
        training_seconds, encoding_seconds: how long it took.
        error: why it cannot be used for this text; then the numbers are None.
    """

    tokenizer: str
    vocabulary: int | None = None
    tokens: int | None = None
    bytes_per_token: float | None = None
    training_seconds: float | None = None
    encoding_seconds: float | None = None
    error: str | None = None


def compare(documents: Sequence[str], specs: Sequence[str] = ()) -> Iterator[Measured]:
    """Train tokenizers on documents and measure each.

    Args:
        documents: the text.
        specs: tokenizers as NAME or NAME:key=value,…; all that there are when left out. One that cannot be trained on this text
            says why.

    Raises:
        PluginError: there is no such tokenizer.
        SettingError: an option is unknown or has a value it cannot have.
    """
    for spec in specs or plugins.tokenizers():
        try:
            yield measure(documents, spec)
        except (PluginError, SettingError):
            raise
        except Exception as error:  # a plugin's code may raise anything; the others are still of interest
            yield Measured(spec, error=" ".join(str(error).split()) or type(error).__name__)


def measure(documents: Sequence[str], spec: str) -> Measured:
    """Train one tokenizer on documents and encode them. Raises as `compare` does, and what the tokenizer raises."""
    start = time.perf_counter()
    tokenizer = train_tokenizer(parse_spec(spec)[0], documents, parse_spec(spec)[1])
    trained = time.perf_counter()
    ids, size = encode(documents, tokenizer)
    seconds = (round(trained - start, 3), round(time.perf_counter() - trained, 3))
    return Measured(spec, tokenizer.vocab_size, len(ids), size / max(1, len(ids)), *seconds)
