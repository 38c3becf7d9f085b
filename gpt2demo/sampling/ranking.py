"""Sorted logits, passed from one sampler of a chain to the next: sorting takes most of a sampler's time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from gpt2demo.interfaces import Sampler, SamplingContext

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 4096  # up to this vocabulary size sorting is faster than a search for the largest


class Ranking(NamedTuple):
    """The largest values of each row in descending order.

    Attributes:
        values: (B, n) float32, may end with -inf.
        ids: (B, n) int64; ids of equal values ascend.
        size: n as a tensor (1,) while a graph is traced.
        empty: (B, V) float32, all -inf, once it has been made.
    """

    values: Tensor
    ids: Tensor
    size: Tensor | None = None
    empty: Tensor | None = None


class RankingSampler(Sampler):
    """Base class of samplers that sort the logits and keep a part of them.

    `run_sampler` passes the sorted logits on to the next sampler, which need not sort again. The ranking is never stored with a
    tensor or a context, so no other sampler can invalidate it.
    """

    def keep(self, logits: Tensor, ranking: Ranking | None) -> Ranking | None:
        """Return the tokens to keep, those to rule out being absent or -inf. Return None to keep all.

        Args:
            logits: (B, V) float32.
            ranking: the ranking of these logits, if an earlier sampler has sorted them.
        """
        raise NotImplementedError

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Rule out all tokens that are not kept."""
        return self.ranked(logits, None)[0]

    def ranked(self, logits: Tensor, ranking: Ranking | None) -> tuple[Tensor, Ranking | None]:
        """Return the new logits (B, V) and their ranking. Arguments as in `keep`."""
        kept = self.keep(logits, ranking)
        return (logits, ranking) if kept is None else scattered(logits, kept)


def run_sampler(
    sampler: Sampler, logits: Tensor, context: SamplingContext, ranking: Ranking | None
) -> tuple[Tensor, Ranking | None]:
    """Run one sampler of a chain.

    Args:
        sampler: the sampler.
        logits: (B, V) float32.
        context: as in `Sampler.__call__`.
        ranking: the ranking of these logits, as returned with them by the previous sampler of the chain.

    Returns:
        The new logits (B, V), and their ranking if this sampler sorts. Any other sampler may have changed the logits, also in
        place, so the ranking ends with it.
    """
    # Not isinstance: a subclass that overrides __call__ may change the result, so it is called like any other sampler.
    if type(sampler).__call__ is not RankingSampler.__call__:
        return sampler(logits, context), None
    return cast(RankingSampler, sampler).ranked(logits, ranking)


def largest(values: Tensor, count: Any = None, ranking: Ranking | None = None) -> Ranking:
    """Return the largest values of each row with their ids. Among equal values the lowest ids come first.

    Args:
        values: (B, V) float32, -inf for tokens that are ruled out.
        count: how many to return, an int or a tensor; by default at least all that are not -inf.
        ranking: the ranking of these values, if known.
    """
    import torch

    if torch.compiler.is_compiling():
        return _traced(values, (values > float("-inf")).float().sum(dim=-1).amax(dim=0).long() if count is None else count)
    if ranking is not None:
        return ranking._replace(values=ranking.values[:, :count], ids=ranking.ids[:, :count])
    if on_gpu(values):
        return _without_waiting(values, count)
    if values.shape[-1] > SMALL:
        wanted = int((values > float("-inf")).sum(dim=-1).max()) if count is None else int(count)
        if wanted * 8 < values.shape[-1] and (searched := _search(values, wanted)):
            return searched
    ranked, ids = values.sort(dim=-1, descending=True, stable=True)  # (B, V)
    return Ranking(ranked[:, :count], ids[:, :count])


def on_gpu(values: Tensor) -> bool:
    """Return whether reading a value would wait for a GPU. A chain that runs there is read once, at its end."""
    return not values.is_cpu


def scattered(logits: Tensor, kept: Ranking) -> tuple[Tensor, Ranking]:
    """Return logits (B, V) with -inf for all tokens that are not kept, and their ranking.

    Args:
        logits: (B, V) float32.
        kept: the tokens to keep with their logits.
    """
    empty = logits.clamp(max=float("-inf")) if kept.empty is None else kept.empty
    return empty.scatter(-1, kept.ids, kept.values), kept._replace(empty=empty)


def by_id(ranking: Ranking) -> tuple[Tensor, Tensor]:
    """Return the values (B, n) and ids (B, n) of a ranking, sorted by id."""
    import torch

    if torch.compiler.is_compiling():
        assert ranking.size is not None
        ids, order = _top_k(ranking.ids, ranking.size, ranking.ids.shape, largest=0)
    else:
        ids, order = ranking.ids.sort(dim=-1)
    return ranking.values.gather(-1, order), ids


def sums_before(probabilities: Tensor) -> Tensor:
    """Return the exclusive cumulative sums of each row: (B, n) -> (B, n)."""
    import torch

    if torch.compiler.is_compiling():  # a single ONNX operator
        operands, like = (probabilities, torch.tensor(-1)), probabilities
        return torch.onnx.ops.symbolic("CumSum", operands, {"exclusive": 1}, dtype=like.dtype, shape=like.shape, version=14)
    return probabilities.cumsum(dim=-1) - probabilities


def _traced(values: Tensor, count: Any) -> Ranking:
    """Return `largest` as ONNX's TopK, which takes the lower ids first and a count that is computed in the graph."""
    import torch

    wanted = torch.as_tensor(count)
    size = wanted.reshape(1)
    return Ranking(*_top_k(values, size, (values.shape[0], wanted.item()), largest=1), size)


def _top_k(values: Tensor, size: Tensor, shape: Any, *, largest: int) -> tuple[Tensor, Tensor]:
    """Return the sorted values and their indices, both of a shape (B, n), from ONNX's TopK over (B, V)."""
    import torch

    ranked, indices = torch.onnx.ops.symbolic_multi_out(
        "TopK",
        (values, size),
        {"axis": -1, "largest": largest},
        dtypes=(values.dtype, torch.int64),
        shapes=(shape, shape),
        version=18,
    )
    return ranked, indices


def _without_waiting(values: Tensor, count: Any) -> Ranking:
    """Return `largest` for a GPU: a count that only the GPU knows is replaced by all values."""
    import torch

    width = values.shape[-1]
    if not isinstance(count, int) or count * 8 >= width:
        ranked, ids = values.sort(dim=-1, descending=True, stable=True)
        return Ranking(ranked[:, :count], ids[:, :count]) if isinstance(count, int) else Ranking(ranked, ids)
    bits = (values + 0.0).view(torch.int32)  # + 0.0 makes -0.0, which equals 0.0, have its bits
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    later = torch.arange(width - 1, -1, -1, device=values.device)  # the lower id is the larger
    ids = width - 1 - ((ordered.long() << 32) | later).topk(count).values.bitwise_and(0xFFFFFFFF)  # no two keys are equal
    return Ranking(values.gather(-1, ids), ids)


def _search(values: Tensor, count: int) -> Ranking | None:
    """Return `largest` without sorting all values, or None if equal values at the cutoff make the choice ambiguous."""
    chosen, ids = values.topk(count + 1)
    distinct = chosen[:, :-1] > chosen[:, 1:]  # (B, count)
    if distinct.all():
        return Ranking(chosen[:, :count], ids[:, :count])
    if not distinct[:, -1].all():
        return None
    ids = ids[:, :count].sort(dim=-1).values
    ranked, order = values.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return Ranking(ranked, ids.gather(-1, order))
