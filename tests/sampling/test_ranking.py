"""Sorted logits that are passed from one sampler of a chain to the next."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling import ranking
from gpt2demo.sampling.basic import TopK, TopP
from gpt2demo.sampling.chains import Chain, NamedSampler, create_chain
from gpt2demo.sampling.draw import ChainRunner, Drawn, Uniforms, inverse
from gpt2demo.sampling.ranking import Ranking, largest, run_sampler

INF = float("inf")
WIDE = ranking.SMALL + 1000  # a vocabulary that is searched, not sorted
CONTEXT = SamplingContext(torch.zeros(1, 4, dtype=torch.int64), prompt_length=2)


# ---------------------------------------------------------------------------------------------- the largest values


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [None, 1, 40, WIDE])
def test_a_search_and_a_sort_find_the_same_values(count: int | None, ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, WIDE, generator=torch.Generator().manual_seed(4))
    logits = logits.mul(5).round() if ties else logits
    logits[:, ::3] = -INF
    found = largest(logits, count)
    monkeypatch.setattr(ranking, "SMALL", WIDE)
    expected = largest(logits, count)
    width = min(found.ids.shape[1], expected.ids.shape[1])
    assert (expected.values[:, width:] == -INF).all()
    finite = expected.values[:, :width] > -INF
    assert torch.equal(found.values[:, :width], expected.values[:, :width])
    assert torch.equal(found.ids[:, :width][finite], expected.ids[:, :width][finite])


# ---------------------------------------------------------------------------------------------- from sampler to sampler


def logits_with_ties(width: int) -> Tensor:
    """Return logits (6, V) with equal values, and one row with few tokens left."""
    logits = torch.randn(6, width, generator=torch.Generator().manual_seed(0)).mul(4).round() / 2
    logits[0, 3:] = -INF
    return logits


@pytest.mark.parametrize("width", [40, WIDE])
@pytest.mark.parametrize(
    "specs",
    [
        ("top-k:k=20", "top-p:p=0.7"),
        ("top-p:p=0.9", "top-k:k=5"),
        ("top-p:p=0.9", "top-p:p=0.5"),
        ("top-k:k=9", "top-k:k=3"),
        ("top-k:k=9", "top-p:p=1", "top-p:p=0.5"),
    ],
)
def test_samplers_give_the_same_result_with_and_without_a_ranking(specs: tuple[str, ...], width: int) -> None:
    passed, known = logits_with_ties(width), None
    alone = passed
    for item in create_chain(specs):
        passed, known = run_sampler(item.sampler, passed, CONTEXT, known)
        alone = item.sampler(alone, CONTEXT)
        assert known is not None, "these samplers sort"
        assert torch.equal(passed, alone)


@pytest.mark.parametrize("sampler", [TopK(k=40), TopP(p=0.8)])
def test_a_draw_is_the_same_with_and_without_a_ranking(sampler: Sampler) -> None:
    logits = torch.randn(400, WIDE, generator=torch.Generator().manual_seed(6)) * 3
    uniform = torch.rand(400, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    result, known = run_sampler(sampler, logits, CONTEXT, None)
    assert known is not None
    assert torch.equal(inverse(result, uniform, known), inverse(result, uniform))


# ---------------------------------------------------------------------------------------------- samplers of plugins


class Ban(Sampler):
    """Rule out a token in a copy of the logits."""

    token: int = 0

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.index_fill(-1, torch.tensor([self.token]), -INF)


class BanInPlace(Ban):
    """Rule out a token in place, against the contract of samplers."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        logits[:, self.token] = -INF
        return logits


class BanAfterTopK(Ban):
    """Call a built-in sampler, and rule out a token of its result in place."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        result = TopK(k=5)(logits, context)
        result[:, self.token] = -INF
        return result


class BanBeforeTopK(Ban):
    """Rule out a token in place, and call a built-in sampler."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        logits[:, self.token] = -INF
        return TopK(k=5)(logits, context)


class TopKWithBan(TopK):
    """Rule out a token of the inherited result in place."""

    token: int = 0

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        result = super().__call__(logits, context)
        result[:, self.token] = -INF
        return result


PLUGIN_SAMPLERS = [Ban, BanInPlace, BanAfterTopK, BanBeforeTopK, TopKWithBan]


def drawn(chain: Chain, logits: Tensor, number: float) -> Drawn:
    """Draw one token with a fixed uniform number."""

    class Fixed(Uniforms):
        def at(self, position: int, rows: object) -> list[float]:
            return [number]

    runner = ChainRunner(chain, Fixed(0), prompt_length=1, keep_stages=True)
    return runner.draw(logits.numpy().copy(), np.zeros((1, 1), np.int64), [0])


@pytest.mark.parametrize("width", [40, WIDE])
@pytest.mark.parametrize("last", [[], ["top-p:p=0.999"], ["top-k:k=3"]])
@pytest.mark.parametrize("cls", PLUGIN_SAMPLERS)
def test_logits_that_a_plugin_changes_after_top_k_are_the_ones_drawn_from(
    cls: type[Ban] | type[TopKWithBan], last: list[str], width: int
) -> None:
    """The most likely token is ruled out: a stale ranking would still contain it."""
    logits = torch.arange(width, dtype=torch.float32)[None]
    chain = [
        *create_chain(["top-k:k=5"]),
        NamedSampler("plugin", cls(token=width - 1), "plugin"),
        *create_chain(last),
    ]
    for number in (0.0, 0.5, 0.9, 1 - 2**-24):
        result = drawn(chain, logits, number)
        assert result.ids[0] in range(width - 5, width - 1)
        assert np.isneginf(result.stages[-1][0, width - 1])


@pytest.mark.parametrize("cls", PLUGIN_SAMPLERS)
def test_the_ranking_ends_with_a_sampler_that_does_not_sort(cls: type[Ban] | type[TopKWithBan]) -> None:
    logits, known = run_sampler(TopK(k=5), torch.randn(1, WIDE), CONTEXT, None)
    assert isinstance(known, Ranking)
    assert run_sampler(cls(token=1), logits, CONTEXT, known)[1] is None
