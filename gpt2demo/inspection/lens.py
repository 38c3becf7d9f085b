"""The logit lens: what the model would predict if it stopped after a layer (nostalgebraist 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gpt2demo.inspection.trace import Trace
from gpt2demo.layers import linear

TOP = 5


@dataclass(frozen=True)
class Guess:
    """A token and its probability."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class LensRow:
    """The prediction after one layer, for every position.

    Attributes:
        layer: number of layers that have been applied; 0 is the embeddings alone.
        top: for each position the most likely next tokens.
        ranks: for each position but the last, how many tokens are more likely than the one that follows in the text.
        norms: for each position the length of the residual stream's vector.
    """

    layer: int
    top: list[list[Guess]]
    ranks: list[int]
    norms: list[float]


@torch.no_grad()
def logit_lens(found: Trace, text_of: Callable[[int], str], positions: Sequence[int] | None = None) -> list[LensRow]:
    """Return the prediction after each layer. The last row is the model's own.

    Args:
        found: a trace.
        text_of: returns the text of a token.
        positions: the positions to compute; by default all.
    """
    chosen = list(range(len(found.ids)) if positions is None else positions)
    followed = [place for place, position in enumerate(chosen) if position + 1 < len(found.ids)]
    targets = found.ids[[chosen[place] + 1 for place in followed]]
    rows = []
    for layer, stream in enumerate(found.stream):
        logits = linear(found.model.ln_f(stream[chosen]), found.model.wte.weight).float()  # (P, V)
        values, ids = logits.softmax(-1).topk(min(TOP, logits.shape[-1]))
        top = [
            [Guess(i, text_of(i), value) for i, value in zip(*pair, strict=True)]
            for pair in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        scored = logits[followed]
        ranks = (scored > scored.gather(-1, targets[:, None])).sum(-1).tolist()
        rows.append(LensRow(layer, top, ranks, stream[chosen].norm(dim=-1).tolist()))
    return rows
