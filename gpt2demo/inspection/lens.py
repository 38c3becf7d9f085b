"""The logit lens: what the model would predict if it stopped after a layer (nostalgebraist 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gpt2demo.inspection.trace import Trace
from gpt2demo.layers import linear
from gpt2demo.sampling.explain import Share

TOP = 5


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
    top: list[list[Share]]
    ranks: list[int]
    norms: list[float]


@torch.no_grad()
def logit_lens(found: Trace, text_of: Callable[[int], str]) -> list[LensRow]:
    """Return the prediction after each layer. The last row is the model's own.

    Args:
        found: a trace.
        text_of: returns the text of a token.
    """
    targets = found.ids[1:, None]
    rows = []
    for layer, stream in enumerate(found.stream):
        logits = linear(found.model.ln_f(stream), found.model.wte.weight).float()  # (T, V)
        values, ids = logits.softmax(-1).topk(min(TOP, logits.shape[-1]))
        top = [
            [Share(i, text_of(i), value) for i, value in zip(*pair, strict=True)]
            for pair in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        followed = logits[:-1]
        ranks = (followed > followed.gather(-1, targets)).sum(-1).tolist()
        rows.append(LensRow(layer, top, ranks, stream.norm(dim=-1).tolist()))
    return rows
