"""Sorting a distribution: the part of a sampler that takes time, and where ties are decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 4096  # vocabularies up to here are sorted faster than searched


def largest(values: Tensor, count: Any = None) -> tuple[Tensor, Tensor]:
    """The largest values of each row with their ids, in descending order; among equal ones the lowest id comes first.

    Args:
        values: (B, V) float32, -inf for what is ruled out.
        count: how many, or a tensor of it in a traced graph; left out, at least all that are not -inf.

    Returns:
        (B, count) float32 and (B, count) int64.
    """
    import torch

    if torch.compiler.is_compiling():  # ONNX's TopK takes lower ids first by definition, and a count that is found while it runs
        found = (values > float("-inf")).float().sum(dim=-1).amax(dim=0).long() if count is None else count
        return values.topk(found)  # type: ignore[arg-type,unused-ignore]  # while it is traced a tensor will do
    if values.shape[-1] > SMALL:
        searched = _search(values, count or int((values > float("-inf")).sum(dim=-1).max()))
        if searched:
            return searched
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
