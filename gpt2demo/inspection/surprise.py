"""Surprise: how unexpected each token of a text was. Works with every engine, and with texts longer than the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2demo.errors import SettingError
from gpt2demo.evaluation.score import batches, checked_stride
from gpt2demo.generation.generate import Model
from gpt2demo.metrics import log_softmax, ranks
from gpt2demo.sampling.explain import Share, likeliest

TOP = 10


@dataclass(frozen=True)
class TokenSurprise:
    """A token of a text.

    Attributes:
        id: the token.
        text: its text when decoded alone.
        bits: -log2 of its probability after the text before it; None for the first token.
        rank: number of tokens that were more likely; None for the first token.
        top: the most likely tokens in its place, in descending order; empty for the first token.
    """

    id: int
    text: str
    bits: float | None
    rank: int | None
    top: list[Share]


def surprise(model: Model, ids: Sequence[int], *, top: int = TOP) -> list[TokenSurprise]:
    """Return how unexpected each token of a text was. A text longer than the context is read as in `gpt2demo.evaluation.score`.

    Args:
        model: a loaded model; its engine's cache is emptied.
        ids: the text, at least one token.
        top: number of likely tokens to report.

    Raises:
        SettingError: there are no tokens.
    """
    if not len(ids):
        raise SettingError("the text is empty: there is no token to look at")
    engine, text_of = model.engine, model.tokenizer.decode
    text = np.asarray(ids, np.int64)
    found = [TokenSurprise(int(text[0]), text_of([int(text[0])]), None, None, [])]
    if len(text) == 1:
        return found
    for windows, known in batches(text, engine.n_positions, checked_stride(None, engine.n_positions), 1):
        logits = engine.logits(np.ascontiguousarray(windows[:, :-1]))[0, known:]  # (new, V)
        targets = windows[0, known + 1 :]
        logprobs = log_softmax(logits)
        for target, row, rank in zip(targets.tolist(), logprobs, ranks(logits, targets).tolist(), strict=True):
            likely = [Share(i, text_of([i]), float(np.exp(row[i]))) for i in likeliest(row, top)]
            found.append(TokenSurprise(target, text_of([target]), float(-row[target] / np.log(2)), rank, likely))
    return found
