"""Compare tokenizers on a text: vocabulary size, number of tokens, compression and speed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpt2demo import plugins
from gpt2demo.config import parse_spec
from gpt2demo.data.encoding import encode, train_tokenizer
from gpt2demo.errors import PluginError, SettingError, message


@dataclass(frozen=True)
class TokenizerStats:
    """Statistics of a tokenizer on a text.

    Attributes:
        tokenizer: its specification, NAME or NAME:key=value,…
        vocabulary: vocabulary size.
        tokens: number of tokens, including end-of-text tokens.
        bytes_per_token: UTF-8 bytes of text per token, the compression.
        training_seconds, encoding_seconds: wall-clock times.
        error: why the tokenizer cannot be used on this text; all other values are None then.
    """

    tokenizer: str
    vocabulary: int | None = None
    tokens: int | None = None
    bytes_per_token: float | None = None
    training_seconds: float | None = None
    encoding_seconds: float | None = None
    error: str | None = None


def compare_tokenizers(documents: Sequence[str], specs: Sequence[str] = ()) -> Iterator[TokenizerStats]:
    """Train each tokenizer on the documents and yield its statistics.

    Args:
        documents: the text.
        specs: tokenizers as NAME or NAME:key=value,…; all available ones by default.

    Raises:
        PluginError: a tokenizer does not exist.
        SettingError: an option is unknown or has an invalid value.
    """
    for spec in specs or plugins.tokenizers():
        try:
            yield measure_tokenizer(documents, spec)
        except (PluginError, SettingError):
            raise
        except Exception as error:  # a plugin may raise anything; the comparison continues with the others
            yield TokenizerStats(spec, error=message(error) or type(error).__name__)


def measure_tokenizer(documents: Sequence[str], spec: str) -> TokenizerStats:
    """Train one tokenizer and encode the documents. Raises as `compare_tokenizers` does, and any error of the tokenizer."""
    start = time.perf_counter()
    name, options = parse_spec(spec)
    tokenizer = train_tokenizer(name, documents, options, sum(map(len, documents)))
    trained = time.perf_counter()
    ids, size = encode(documents, tokenizer)
    seconds = (round(trained - start, 3), round(time.perf_counter() - trained, 3))
    return TokenizerStats(spec, tokenizer.vocab_size, len(ids), size / max(1, len(ids)), *seconds)
