"""Loss, perplexity and bits per byte, each written once.

Losses are mean negative log-likelihoods in nats per token. torch is imported only where its tensors are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

LARGEST_LOSS = 700.0
"""Losses are cut off here before exp(): the perplexity of a larger one does not fit into a float64."""


def perplexity(loss: float) -> float:
    """Return exp(loss), the number of equally likely tokens among which the model was choosing."""
    return math.exp(min(loss, LARGEST_LOSS))


def bits_per_byte(loss: float, tokens: int, size: int) -> float:
    """Return the bits that the model needs for a byte of text; comparable between tokenizers.

    Args:
        loss: in nats per token.
        tokens: number of tokens that were predicted.
        size: their text's size in UTF-8 bytes.
    """
    return loss / math.log(2) * tokens / size


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return log-probabilities (..., V) in float64; a logit of -inf stays -inf."""
    shifted = logits.astype(np.float64)
    shifted -= logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def negative_log_likelihood(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> float:
    """Return the sum over all positions, in nats, added up in float64.

    Args:
        logits: (..., V).
        targets: (...), the ids that were to be predicted.
    """
    highest = logits.max(axis=-1, keepdims=True)
    normalizer = np.log(np.exp(logits - highest).sum(axis=-1, dtype=np.float64)) + highest[..., 0]
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return float((normalizer - chosen).sum())


def ranks(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many tokens are more likely than each target: (..., V) and (...) -> (...). Ties go to lower ids."""
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)
    first = (logits == chosen) & (np.arange(logits.shape[-1]) < targets[..., None])
    found: npt.NDArray[np.int64] = (logits > chosen).sum(-1) + first.sum(-1)
    return found


PADDING = -1
"""In windows of ids: no token. It follows the end of a document that is shorter than its window, and has no loss."""


def token_losses(model: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor) -> torch.Tensor:
    """Return the loss of each next token with gradients: windows (B, T + 1) int64 -> (B, T) float32; of PADDING, 0."""
    from torch.nn import functional as F

    ids, targets = windows[:, :-1].clamp(min=0), windows[:, 1:]  # (B, T)
    logits = model(ids).float()  # (B, T, V)
    # Flat logits: cross_entropy of transposed ones, (B, V, T), takes a third longer at a vocabulary of 1,000.
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=PADDING)
    return losses.view(targets.shape)
