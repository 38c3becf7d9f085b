"""Sorting a distribution: the part of a sampler that takes time, and where ties are decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 4096  # vocabularies up to here are sorted faster than searched
RANKING = "gpt2demo_ranking"
"""Name of the attribute by which logits remember their order: the next sampler of a chain need not sort again."""


class Ranking(NamedTuple):
    """The tokens that are not ruled out, in descending order of their logits.

    Attributes:
        values: (B, n) float32, perhaps with -inf at the end.
        ids: (B, n) int64; those of equal values ascend.
        nothing: (B, V) float32, all -inf.
    """

    values: Tensor
    ids: Tensor
    nothing: Tensor


def ranking(logits: Tensor) -> Ranking | None:
    """What logits remember of their order; None where they come from a sampler that does not sort."""
    known: Ranking | None = getattr(logits, RANKING, None)
    return known


def largest(values: Tensor, count: Any = None) -> tuple[Tensor, Tensor]:
    """The largest values of each row with their ids, in descending order; among equal ones the lowest id comes first.

    Args:
        values: (B, V) float32, -inf for what is ruled out.
        count: how many, a number or a tensor of it; left out, at least all that are not -inf.

    Returns:
        (B, count) float32 and (B, count) int64.
    """
    import torch

    if torch.compiler.is_compiling():
        return _traced(values, (values > float("-inf")).float().sum(dim=-1).amax(dim=0).long() if count is None else count)
    if known := ranking(values):
        return known.values[:, :count], known.ids[:, :count]
    if values.shape[-1] > SMALL:
        wanted = int((values > float("-inf")).sum(dim=-1).max()) if count is None else int(count)
        if wanted * 8 < values.shape[-1] and (searched := _search(values, wanted)):
            return searched
    ranked, ids = values.sort(dim=-1, descending=True, stable=True)  # (B, V)
    return ranked[:, :count], ids[:, :count]


def only(logits: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    """Rule out all tokens but some.

    Args:
        logits: (B, V) float32.
        values: (B, n) float32, in descending order: the logits of those that stay, perhaps with -inf at the end.
        ids: (B, n) int64, as `largest` gave them.

    Returns:
        (B, V) float32. They remember the order for `largest`.
    """
    known = ranking(logits)
    nothing = known.nothing if known else logits.clamp(max=float("-inf"))
    rest = nothing.scatter(-1, ids, values)
    setattr(rest, RANKING, Ranking(values, ids, nothing))
    return rest


def backwards(probabilities: Tensor) -> Tensor:
    """Sums from each entry to the row's end, (B, n) -> (B, n): the smallest, which come last, are added first."""
    import torch

    if torch.compiler.is_compiling():  # one operator of ONNX, where flipping takes two more
        axis, shape = torch.tensor(-1), probabilities.shape
        return torch.onnx.ops.symbolic(
            "CumSum", (probabilities, axis), {"reverse": 1}, dtype=probabilities.dtype, shape=shape, version=14
        )
    return probabilities.flip(-1).cumsum(dim=-1).flip(-1)


def _traced(values: Tensor, count: Any) -> tuple[Tensor, Tensor]:
    """ONNX's TopK takes lower ids first by definition, and a count that is found while it runs."""
    import torch

    wanted = torch.as_tensor(count)
    shape: Any = (values.shape[0], wanted.item())
    operands = (values, wanted.reshape(1))
    ranked, ids = torch.onnx.ops.symbolic_multi_out(
        "TopK", operands, {"axis": -1}, dtypes=(values.dtype, torch.int64), shapes=(shape, shape), version=18
    )
    return ranked, ids


def _search(values: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """The same without sorting everything, or None where a tie at the border makes it ambiguous."""
    chosen, ids = values.topk(count)
    if int((values >= chosen[:, -1:]).sum()) != chosen.numel():
        return None
    ids = ids.sort(dim=-1).values
    ranked, order = values.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return ranked, ids.gather(-1, order)
