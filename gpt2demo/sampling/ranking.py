"""Sorting a distribution: the part of a sampler that takes time, and where ties are decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 4096  # vocabularies up to here are sorted faster than searched
RANKING = "gpt2demo_ranking"
"""Name of the attribute by which logits remember their order: the next sampler of a chain need not sort again."""


class Ranking(NamedTuple):
    """The largest values of each row, in descending order.

    Attributes:
        values: (B, n) float32, perhaps with -inf at the end.
        ids: (B, n) int64; those of equal values ascend.
        size: n as a tensor (1,) while a graph is traced.
        nothing: (B, V) float32, all -inf, once somebody needed it.
    """

    values: Tensor
    ids: Tensor
    size: Tensor | None = None
    nothing: Tensor | None = None


def ranking(logits: Tensor) -> Ranking | None:
    """What logits remember of their order; None where they come from a sampler that does not sort."""
    known: Ranking | None = getattr(logits, RANKING, None)
    return known


def largest(values: Tensor, count: Any = None) -> Ranking:
    """The largest values of each row with their ids; among equal ones the lowest id comes first.

    Args:
        values: (B, V) float32, -inf for what is ruled out.
        count: how many, a number or a tensor of it; left out, at least all that are not -inf.
    """
    import torch

    if torch.compiler.is_compiling():
        return _traced(values, (values > float("-inf")).float().sum(dim=-1).amax(dim=0).long() if count is None else count)
    if known := ranking(values):
        return known._replace(values=known.values[:, :count], ids=known.ids[:, :count])
    if values.shape[-1] > SMALL:
        wanted = int((values > float("-inf")).sum(dim=-1).max()) if count is None else int(count)
        if wanted * 8 < values.shape[-1] and (searched := _search(values, wanted)):
            return searched
    ranked, ids = values.sort(dim=-1, descending=True, stable=True)  # (B, V)
    return Ranking(ranked[:, :count], ids[:, :count])


def only(logits: Tensor, kept: Ranking) -> Tensor:
    """Rule out all tokens but some.

    Args:
        logits: (B, V) float32.
        kept: those that stay with their logits, as `largest` gave them, perhaps with further ones set to -inf.

    Returns:
        (B, V) float32. They remember the order for `largest`.
    """
    nothing = logits.clamp(max=float("-inf")) if kept.nothing is None else kept.nothing
    rest = nothing.scatter(-1, kept.ids, kept.values)
    setattr(rest, RANKING, kept._replace(nothing=nothing))
    return rest


def by_id(known: Ranking) -> tuple[Tensor, Tensor]:
    """The values (B, n) and ids (B, n) of a ranking in the order of the ids."""
    import torch

    if torch.compiler.is_compiling():
        assert known.size is not None
        ids, order = _top_k(known.ids, known.size, known.ids.shape, largest=0)
    else:
        ids, order = known.ids.sort(dim=-1)
    return known.values.gather(-1, order), ids


def sums_before(probabilities: Tensor) -> Tensor:
    """Sums of what is before each entry of a row: (B, n) -> (B, n)."""
    import torch

    if torch.compiler.is_compiling():  # one operator of ONNX
        operands, like = (probabilities, torch.tensor(-1)), probabilities
        return torch.onnx.ops.symbolic("CumSum", operands, {"exclusive": 1}, dtype=like.dtype, shape=like.shape, version=14)
    return probabilities.cumsum(dim=-1) - probabilities


def _traced(values: Tensor, count: Any) -> Ranking:
    """ONNX's TopK takes lower ids first by definition, and a count that is found while it runs."""
    import torch

    wanted = torch.as_tensor(count)
    places = wanted.reshape(1)
    return Ranking(*_top_k(values, places, (values.shape[0], wanted.item()), largest=1), places)


def _top_k(values: Tensor, count: Tensor, shape: Any, *, largest: int) -> tuple[Tensor, Tensor]:
    """The operator, on (B, V): sorted values and their places, both of a shape (B, n)."""
    import torch

    ranked, places = torch.onnx.ops.symbolic_multi_out(
        "TopK",
        (values, count),
        {"axis": -1, "largest": largest},
        dtypes=(values.dtype, torch.int64),
        shapes=(shape, shape),
        version=18,
    )
    return ranked, places


def _search(values: Tensor, count: int) -> Ranking | None:
    """The same without sorting everything, or None where a tie at the border makes it ambiguous."""
    chosen, ids = values.topk(count + 1)
    apart = chosen[:, :-1] > chosen[:, 1:]  # (B, count)
    if apart.all():
        return Ranking(chosen[:, :count], ids[:, :count])
    if not apart[:, -1].all():
        return None
    ids = ids[:, :count].sort(dim=-1).values
    ranked, order = values.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return Ranking(ranked, ids.gather(-1, order))
