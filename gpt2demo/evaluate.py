"""How well a model predicts a text: loss, perplexity, bits per byte. Works on every engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpt2demo.config import DataConfig
from gpt2demo.corpus import load
from gpt2demo.data import encode, load_ids, load_sizes
from gpt2demo.errors import DataError, RunError, SettingError
from gpt2demo.generate import Model
from gpt2demo.interfaces import Engine
from gpt2demo.run import Run

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Score:
    """How well a text was predicted.

    Attributes:
        loss: mean negative log-likelihood, in nats per token.
        tokens: how many tokens were predicted.
        bytes: how many bytes of text they stand for.
    """

    loss: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model was choosing."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return self.loss * self.tokens / math.log(2) / self.bytes

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


def evaluate(model: Model, places: Sequence[str | Path] = (), config: DataConfig | None = None) -> Score:
    """Score a model on text, or on its own run's validation split.

    Args:
        model: any that was loaded.
        places: files, folders, globs and URLs.
        config: how to read and clean them.

    Raises:
        DataError: a file cannot be used or is too short.
        RunError: there are no files, and the model does not come from a run.
        SettingError: there are no files, but settings for them.
    """
    if places:
        return score(model.engine, *encode(load(places, config=config).documents, model.tokenizer))
    if config and (given := config.model_dump(exclude_defaults=True)):
        words = ", ".join(f"{name}={value}" for name, value in given.items())
        raise SettingError(f"{words}: there is no text to read; name the text files too")
    run = Run(model.path.resolve().parent.parent)
    if not (run.data / "data.json").is_file():
        raise RunError(f"{model.path}: belongs to no run with a validation split; name the text files to evaluate on")
    return score(model.engine, load_ids(run.data, "validation"), load_sizes(run.data)["validation"].bytes)


def score(engine: Engine, ids: npt.NDArray[Any], text_bytes: int, *, batch_size: int = 16) -> Score:
    """Predict a whole text in windows of the context length, side by side; every token but the first is predicted once.

    Args:
        engine: its cache is emptied.
        ids: (N,) the text.
        text_bytes: its size in UTF-8.
        batch_size: windows at a time.

    Raises:
        DataError: N < 2.
    """
    if len(ids) < 2:
        raise DataError(f"the text has {len(ids)} tokens; at least 2 are needed to predict one")
    length = engine.n_positions
    whole = (len(ids) - 1) // length
    groups = [range(i * length, min(i + batch_size, whole) * length, length) for i in range(0, whole, batch_size)]
    groups.append(range(whole * length, len(ids) - 1, length))  # the rest, shorter than a window
    total = 0.0
    for starts in filter(None, groups):
        windows = np.stack([ids[start : start + length + 1] for start in starts]).astype(np.int64)  # (B, T + 1)
        total += negative_log_likelihood(engine.logits(np.ascontiguousarray(windows[:, :-1])), windows[:, 1:])
    return Score(total / (len(ids) - 1), len(ids) - 1, text_bytes)


def negative_log_likelihood(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> float:
    """Sum over all positions, in nats: logits (B, T, V), targets (B, T)."""
    highest = logits.max(axis=-1, keepdims=True)
    normalizer = np.log(np.exp(logits - highest).sum(axis=-1, dtype=np.float64)) + highest[..., 0]
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return float((normalizer - chosen).sum())


def token_losses(model: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each next token with gradients, in nats: windows (B, T + 1) int64 -> (B, T) float32."""
    from torch.nn import functional as F

    logits = model(windows[:, :-1])  # (B, T, V)
    return F.cross_entropy(logits.float().transpose(1, 2), windows[:, 1:], reduction="none")
