"""Score a model on a text: loss, perplexity and bits per byte. Works with every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo import metrics
from gpt2demo.config import DataConfig
from gpt2demo.data.corpus import load_corpus
from gpt2demo.data.tokens import encode, load_ids, load_sizes
from gpt2demo.errors import DataError, RunError, SettingError
from gpt2demo.generation.generate import Model
from gpt2demo.interfaces import Engine
from gpt2demo.runs.folder import Run


@dataclass(frozen=True)
class Score:
    """How well a text was predicted.

    Attributes:
        loss: mean negative log-likelihood, in nats per token.
        tokens: number of tokens that were predicted.
        bytes: size of their text in UTF-8 bytes.
    """

    loss: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """exp(loss), the number of equally likely tokens among which the model was choosing."""
        return metrics.perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """The loss in bits per byte of text, comparable between tokenizers."""
        return metrics.bits_per_byte(self.loss, self.tokens, self.bytes)

    def as_dict(self) -> dict[str, Any]:
        """Return all values, for JSON."""
        return {**asdict(self), "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


def evaluate(model: Model, places: Sequence[str | Path] = (), config: DataConfig | None = None) -> Score:
    """Score a model on text, or on the validation split of its own run.

    Args:
        model: a loaded model.
        places: files, folders, globs and URLs.
        config: how to read and clean them.

    Raises:
        DataError: a file cannot be used or is too short.
        RunError: no files are given, and the model does not belong to a run with a validation split.
        SettingError: settings for reading files are given, but no files.
    """
    if places:
        return score(model.engine, *encode(load_corpus(places, config=config).documents, model.tokenizer))
    if config and (given := config.model_dump(exclude_defaults=True)):
        words = ", ".join(f"{name}={value}" for name, value in given.items())
        raise SettingError(f"{words}: there is no text to read; name the text files too")
    run = Run.of_checkpoint(model.path)
    if not run or not (run.data / "data.json").is_file():
        raise RunError(f"{model.path}: belongs to no run with a validation split; name the text files to evaluate on")
    return score(model.engine, load_ids(run.data, "validation"), load_sizes(run.data)["validation"].bytes)


def score(engine: Engine, ids: npt.NDArray[Any], text_bytes: int, *, batch_size: int = 16) -> Score:
    """Score an engine on a text, in windows of the context length, side by side. Every token but the first is predicted once.

    Args:
        engine: its cache is emptied.
        ids: (N,) the text.
        text_bytes: its size in UTF-8 bytes.
        batch_size: windows per batch.

    Raises:
        DataError: N < 2.
    """
    if len(ids) < 2:
        raise DataError(f"the text has {len(ids)} tokens; at least 2 are needed to predict one")
    length = engine.n_positions
    whole = (len(ids) - 1) // length
    groups = [range(i * length, min(i + batch_size, whole) * length, length) for i in range(0, whole, batch_size)]
    groups.append(range(whole * length, len(ids) - 1, length))  # the remainder, shorter than a window
    total = 0.0
    for starts in filter(None, groups):
        windows = np.stack([ids[start : start + length + 1] for start in starts]).astype(np.int64)  # (B, T + 1)
        total += metrics.negative_log_likelihood(engine.logits(np.ascontiguousarray(windows[:, :-1])), windows[:, 1:])
    return Score(total / (len(ids) - 1), len(ids) - 1, text_bytes)
