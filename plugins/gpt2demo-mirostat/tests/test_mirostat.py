"""The mirostat plugin: the kit, the algorithm by hand, and that it does what it is for."""

from __future__ import annotations

import math

import pytest
import torch

from gpt2demo import plugins
from gpt2demo.errors import SettingError
from gpt2demo.interfaces import SamplingContext
from gpt2demo.sampling.draw import draw
from gpt2demo.testing import SamplerContract

plugin = pytest.importorskip("gpt2demo_mirostat", reason="pip install -e plugins/gpt2demo-mirostat")

INF = float("inf")


class TestContract(SamplerContract):
    sampler = plugin.Mirostat


def context(rows: int = 1) -> SamplingContext:
    return SamplingContext(torch.zeros(rows, 1, dtype=torch.int64), prompt_length=1)


def mean_surprise(tau: float, logits: torch.Tensor, tokens: int = 800) -> float:
    """In bits under the full distribution, over the second half of a text; the logits are shuffled for each token."""
    sampler, state, total = plugins.create_sampler(f"mirostat:tau={tau}"), context(), 0.0
    generator = torch.Generator().manual_seed(0)
    for position in range(tokens):
        shuffled = logits[:, torch.randperm(logits.shape[1], generator=generator)]
        drawn = draw(sampler(shuffled, state), seed=1, position=position)
        sampler.observe(drawn, state)
        total += float(plugin.bits(shuffled)[0, drawn]) * (position >= tokens // 2)
    return total / (tokens - tokens // 2)


def test_the_entry_point_is_named_as_the_sampler() -> None:
    point = next(point for point in plugins.installed() if point.value == "gpt2demo_mirostat")
    assert point.name == "mirostat"
    assert plugins.registry().owner("samplers", point.name).distribution == "gpt2demo-mirostat"


def test_two_tokens_by_hand() -> None:
    """Probabilities ½ ¼ ⅛ ⅛ have surprises of 1, 2, 3, 3 bits; τ = 1.25 sets the first limit at 2.5."""
    sampler, state = plugins.create_sampler("mirostat:tau=1.25,eta=1"), context()
    logits = torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8]]).log()
    assert sampler(logits, state).isfinite().tolist() == [[True, True, False, False]]

    sampler.observe(torch.tensor([1]), state)  # ⅓ of what is left: log2 3 = 1.58 bits, the limit sinks to 2.5 - 0.335
    assert state.state["limit"].item() == pytest.approx(2.5 - (math.log2(3) - 1.25))
    assert sampler(logits, state).isfinite().tolist() == [[True, True, False, False]]

    sampler.observe(torch.tensor([1]), state)  # once more: 1.83 bits rule the second token out
    assert sampler(logits, state).isfinite().tolist() == [[True, False, False, False]]

    sampler.observe(torch.tensor([0]), state)  # a token without surprise: the limit rises by 1.25 to 3.08
    assert sampler(logits, state).isfinite().tolist() == [[True, True, True, True]]


@pytest.mark.parametrize("tau", [2.0, 4.0, 6.0])
def test_the_mean_surprise_settles_at_the_target(tau: float) -> None:
    """Of a distribution whose own entropy is far above it."""
    logits = -torch.arange(1, 2001, dtype=torch.float32).log().unsqueeze(0)  # as words: the n-th has probability ~ 1/n
    own = float((-logits.log_softmax(-1).exp() * logits.log_softmax(-1)).sum() / math.log(2))
    assert own > 7.5
    limited = mean_surprise(tau, logits)
    assert limited < own - 1
    assert limited == pytest.approx(expected_surprise(tau, logits), abs=0.35)


def expected_surprise(tau: float, logits: torch.Tensor) -> float:
    """The surprise under the full distribution of the smallest set of likeliest tokens whose entropy is τ bits."""
    chances = logits.softmax(-1)[0].double()
    for size in range(1, len(chances)):
        kept = chances[:size] / chances[:size].sum()
        if float(-(kept * kept.log2()).sum()) >= tau:
            return float(-(kept * chances[:size].log2()).sum())
    raise AssertionError("the distribution is surer than τ")


def test_a_higher_target_lets_more_in() -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(1)) * 2
    kept = [int(plugins.create_sampler(f"mirostat:tau={tau}")(logits, context()).isfinite().sum()) for tau in (0, 1, 3, 5, 30)]
    assert kept == sorted(kept)
    assert kept[0] == 1
    assert kept[-1] == 500


def test_each_row_has_its_own_limit() -> None:
    sampler, state = plugins.create_sampler("mirostat"), context(rows=2)
    sampler(torch.tensor([[0.0, -1.0, -5.0]] * 2), state)
    sampler.observe(torch.tensor([0, 2]), state)
    dull, surprising = state.state["limit"].ravel().tolist()
    assert dull > surprising


@pytest.mark.parametrize("option", ["tau=-1", "tau=31", "eta=0", "eta=1.5", "tau=nan", "eta=true", "mu=1"])
def test_a_value_out_of_range_is_refused_by_name(option: str) -> None:
    with pytest.raises(SettingError, match=f"sampler 'mirostat': {option.partition('=')[0]}"):
        plugins.create_sampler(f"mirostat:{option}")
