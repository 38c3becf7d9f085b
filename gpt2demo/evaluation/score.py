"""Score a model on a text: loss, perplexity, bits per byte and accuracy. Works with every engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo import metrics
from gpt2demo.config import DataConfig
from gpt2demo.data.corpus import load_corpus
from gpt2demo.data.encoding import encode, ensure_newlines
from gpt2demo.data.tokens import load_ids, load_sizes
from gpt2demo.errors import DataError, RunError, SettingError
from gpt2demo.generation.generate import Model
from gpt2demo.interfaces import Decoder, Engine
from gpt2demo.progress import task
from gpt2demo.runs.folder import Run

LOGITS_BYTES = 2**28
"""Upper bound of the size of one batch's logits: those of 16 windows of GPT-2 are 3 GB."""

DECODED = 2**22  # ids that are decoded at once, to count characters


@dataclass(frozen=True)
class Score:
    """How well a text was predicted.

    Attributes:
        loss: mean negative log-likelihood, in nats per token.
        tokens: number of tokens that were predicted.
        bytes: size of the text in UTF-8 bytes.
        characters: size of the text in characters.
        stride: tokens between the starts of two windows.
        top1, top5: fraction of the tokens that were the most likely one, and among the five most likely ones.
    """

    loss: float
    tokens: int
    bytes: int
    characters: int
    stride: int
    top1: float
    top5: float

    @property
    def perplexity(self) -> float:
        """exp(loss), the number of equally likely tokens among which the model was choosing."""
        return metrics.perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """The loss in bits per byte of text, comparable between tokenizers."""
        return metrics.bits_per_byte(self.loss, self.tokens, self.bytes)

    @property
    def bits_per_character(self) -> float:
        """The loss in bits per character of text."""
        return metrics.bits_per_byte(self.loss, self.tokens, self.characters)

    def as_dict(self) -> dict[str, Any]:
        """Return all values, for JSON."""
        derived = ("perplexity", "bits_per_byte", "bits_per_character")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


@dataclass(frozen=True)
class Text:
    """An encoded text.

    Attributes:
        ids: (N,).
        bytes, characters: the size of the text; an end-of-text token has none.
    """

    ids: npt.NDArray[Any]
    bytes: int
    characters: int


def evaluate(
    model: Model, places: str | Path | Sequence[str | Path] = (), config: DataConfig | None = None, *, stride: int | None = None
) -> Score:
    """Score a model on text, or on the validation split of its own run.

    Args:
        model: a loaded model.
        places: files, folders, globs and URLs, one or several.
        config: how to read and clean them.
        stride: as in `score`.

    Raises:
        DataError: a file cannot be used or is too short.
        RunError: no files are given, and the model does not belong to a run with a validation split.
        SettingError: settings for reading files are given, but no files; or the stride is larger than the context.
    """
    text = read_text(model, [places] if isinstance(places, str | Path) else places, config)
    return score(model.engine, text.ids, text.bytes, text.characters, stride=stride)


def read_text(model: Model, places: Sequence[str | Path] = (), config: DataConfig | None = None) -> Text:
    """Return the text to evaluate on, encoded; arguments and errors as in `evaluate`."""
    if places:
        documents = list(load_corpus(places, config=config).documents)
        return encoded(documents, model)
    if config and (given := config.model_dump(exclude_defaults=True)):
        words = ", ".join(f"{name}={value}" for name, value in given.items())
        raise SettingError(f"{words}: there is no text to read; name the text files too")
    run = own_run(model)
    if not run:
        raise RunError(f"{model.path}: belongs to no run with a validation split; name the text files to evaluate on")
    return split_of(run, model, "validation")


def own_run(model: Model) -> Run | None:
    """Return the run that a model belongs to if it has the ids of its text, otherwise None."""
    run = Run.of_checkpoint(model.path)
    return run if run and (run.data / "data.json").is_file() else None


def encoded(documents: Sequence[str], model: Model) -> Text:
    """Encode documents with a model's tokenizer."""
    ids, size = encode(documents, model.tokenizer)
    return Text(ids, size, sum(map(len, ensure_newlines(documents))))


def plain_text(tokenizer: Decoder, ids: npt.NDArray[Any]) -> str:
    """Return the text of ids without the end-of-text tokens between its documents."""
    return tokenizer.decode(ids[ids != tokenizer.eos_id].tolist())


def split_of(run: Run, model: Model, split: str) -> Text:
    """Return a split of a run's own text."""
    ids = load_ids(run.data, split)
    parts = (plain_text(model.tokenizer, ids[start : start + DECODED]) for start in range(0, len(ids), DECODED))
    return Text(ids, load_sizes(run.data)[split].bytes, sum(map(len, parts)))


def score(
    engine: Engine,
    ids: npt.NDArray[Any],
    text_bytes: int,
    characters: int | None = None,
    *,
    stride: int | None = None,
    batch_size: int = 16,
) -> Score:
    """Score an engine on a text. Every token but the first is predicted once.

    The text is read in windows of the context length that start `stride` tokens apart. Each predicts only the tokens that no
    earlier one has predicted. These have a context of at least `n_positions - stride` tokens, except at the start of the text.

    Args:
        engine: its cache is emptied.
        ids: (N,) the text.
        text_bytes: its size in UTF-8 bytes.
        characters: its size in characters; by default as many as bytes.
        stride: from 1, the slowest, where each token has the longest context, to the context length, where no windows overlap; by
            default half the context.
        batch_size: maximum number of windows per batch; it does not change the result.

    Raises:
        DataError: N < 2.
        SettingError: the stride is larger than the context.
    """
    if len(ids) < 2:
        raise DataError(f"the text has {len(ids)} tokens; at least 2 are needed to predict one")
    stride = checked_stride(stride, engine.n_positions)
    batch_size = max(1, min(batch_size, LOGITS_BYTES // (4 * engine.vocab_size * engine.n_positions)))
    total, hits = 0.0, np.zeros(2, np.int64)
    with task("scoring the text", len(ids) - 1) as advance:
        for windows, known in batches(ids, engine.n_positions, stride, batch_size):
            logits = engine.logits(np.ascontiguousarray(windows[:, :-1]))[:, known:]  # (B, new, V)
            targets = windows[:, known + 1 :]  # (B, new)
            total += metrics.negative_log_likelihood(logits, targets)
            ranks = metrics.ranks(logits, targets)
            hits += [(ranks < 1).sum(), (ranks < 5).sum()]
            advance(targets.size)
    count = len(ids) - 1
    return Score(total / count, count, text_bytes, characters or text_bytes, stride, *(hits / count).tolist())


def checked_stride(stride: int | None, n_positions: int) -> int:
    """Return the stride, by default half the context; raise a SettingError if it is larger than the context."""
    if stride is None:
        return math.ceil(n_positions / 2)
    if stride > n_positions:
        raise SettingError(f"stride={stride}: larger than the model's context of {n_positions} tokens; use at most that")
    return stride


def batches(ids: npt.NDArray[Any], n_positions: int, stride: int, batch_size: int) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Cut a text into batches of windows.

    Yields:
        Windows (B, T + 1) int64 with T ≤ n_positions, and how many of their first targets an earlier window has predicted.
    """
    end = min(n_positions, len(ids) - 1)  # targets up to here are predicted by the first window
    yield _cut(ids, [0], end), 0
    known = n_positions - stride
    starts = range(stride, len(ids) - 1 - n_positions + 1, stride)
    for first in range(0, len(starts), batch_size):
        yield _cut(ids, starts[first : first + batch_size], n_positions), known
    done = (starts[-1] + n_positions) if starts else end
    if done < len(ids) - 1:  # the remainder, with as much context as there is
        start = max(0, len(ids) - 1 - n_positions)
        yield _cut(ids, [start], len(ids) - 1 - start), done - start


def _cut(ids: npt.NDArray[Any], starts: Any, length: int) -> npt.NDArray[np.int64]:
    return np.stack([ids[start : start + length + 1] for start in starts]).astype(np.int64)
