"""Sorting a distribution: the part of a sampler that takes time, and where ties are decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 4096  # vocabularies up to here are sorted faster than searched


def largest(values: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """The largest values of each row with their ids, in descending order; among equal ones the lowest id comes first.

    Args:
        values: (B, V) float32, -inf for what is ruled out.
        count: how many; left out, at least all that are not -inf.

    Returns:
        (B, count) float32 and (B, count) int64.
    """
    import torch

    if torch.compiler.is_compiling():  # ONNX has no stable sort; the TopK it has instead takes lower ids first by definition
        ranked, ids = values.sort(dim=-1, descending=True)
        return ranked[:, :count], ids[:, :count]
    if values.shape[-1] > SMALL:
        found = _search(values, count or int((values > float("-inf")).sum(dim=-1).max()))
        if found:
            return found
    ranked, ids = values.sort(dim=-1, descending=True, stable=True)  # (B, V)
    return ranked[:, :count], ids[:, :count]


def _search(values: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """The same without sorting everything, or None where a tie at the border makes it ambiguous."""
    chosen, ids = values.topk(count)
    if int((values >= chosen[:, -1:]).sum()) != chosen.numel():
        return None
    ids = ids.sort(dim=-1).values
    ranked, order = values.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return ranked, ids.gather(-1, order)
