"""The mirostat plugin: conformance, a worked example, and control of the mean surprise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpt2demo import plugins
from gpt2demo.errors import SettingError
from gpt2demo.interfaces import SamplingContext
from gpt2demo.sampling.chains import create_chain
from gpt2demo.sampling.draw import ChainRunner, Uniforms
from gpt2demo.testing import SamplerContract

plugin = pytest.importorskip("gpt2demo_mirostat", reason="pip install -e plugins/gpt2demo-mirostat")


class TestContract(SamplerContract):
    sampler = plugin.Mirostat


def new_context(rows: int = 1) -> SamplingContext:
    """Return the context of a new generation."""
    return SamplingContext(torch.zeros(rows, 1, dtype=torch.int64), prompt_length=1)


def mean_surprise(tau: float, logits: torch.Tensor, tokens: int = 800) -> float:
    """Return the mean surprise in bits under the full distribution, over the second half of a text."""
    runner, total = ChainRunner(create_chain([f"mirostat:tau={tau}"]), Uniforms(1), prompt_length=0), 0.0
    surprise = plugin.bits(logits)[0]
    for position in range(tokens):
        drawn = runner.draw(logits.numpy(), np.zeros((1, position), np.int64), rows=[0])
        total += float(surprise[drawn.ids[0]]) * (position >= tokens // 2)
    return total / (tokens - tokens // 2)


def test_the_entry_point_has_the_name_of_the_sampler() -> None:
    point = next(point for point in plugins.installed() if point.value == "gpt2demo_mirostat")
    assert point.name == "mirostat"
    assert plugins.registry().owner("samplers", point.name).distribution == "gpt2demo-mirostat"


def test_a_worked_example() -> None:
    """Probabilities ½ ¼ ⅛ ⅛ have surprises of 1, 2, 3, 3 bits. With τ = 1.25 the first limit is 2.5."""
    sampler, context = plugins.create_sampler("mirostat:tau=1.25,eta=1"), new_context()
    logits = torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8]]).log()
    assert sampler(logits, context).isfinite().tolist() == [[True, True, False, False]]

    sampler.observe(torch.tensor([1]), context)  # ⅓ of the tokens left: log2 3 = 1.58 bits, the limit falls to 2.5 - 0.335
    assert context.state["limit"].item() == pytest.approx(2.5 - (math.log2(3) - 1.25))
    assert sampler(logits, context).isfinite().tolist() == [[True, True, False, False]]

    sampler.observe(torch.tensor([1]), context)  # the limit falls to 1.83 bits, which rules out the second token
    assert sampler(logits, context).isfinite().tolist() == [[True, False, False, False]]

    sampler.observe(torch.tensor([0]), context)  # a surprise of 0: the limit rises by 1.25 to 3.08
    assert sampler(logits, context).isfinite().tolist() == [[True, True, True, True]]


@pytest.mark.parametrize("tau", [2.0, 4.0, 6.0])
def test_the_mean_surprise_converges_to_the_target(tau: float) -> None:
    """The entropy of the distribution itself is far higher."""
    logits = -torch.arange(1, 2001, dtype=torch.float32).log().unsqueeze(0)  # as in Zipf's law, p(n) ~ 1/n
    entropy = float((-logits.log_softmax(-1).exp() * logits.log_softmax(-1)).sum() / math.log(2))
    assert entropy > 7.5
    mean = mean_surprise(tau, logits)
    assert mean < entropy - 1
    assert mean == pytest.approx(expected_surprise(tau, logits), abs=0.35)


def expected_surprise(tau: float, logits: torch.Tensor) -> float:
    """Return the surprise under the full distribution of the smallest set of most likely tokens with an entropy of τ bits."""
    probabilities = logits.softmax(-1)[0].double()
    for size in range(1, len(probabilities)):
        kept = probabilities[:size] / probabilities[:size].sum()
        if float(-(kept * kept.log2()).sum()) >= tau:
            return float(-(kept * probabilities[:size].log2()).sum())
    raise AssertionError("the entropy of the distribution is below τ")


def test_a_higher_target_keeps_more_tokens() -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(1)) * 2
    kept = [
        int(plugins.create_sampler(f"mirostat:tau={tau}")(logits, new_context()).isfinite().sum()) for tau in (0, 1, 3, 5, 30)
    ]
    assert kept == sorted(kept)
    assert kept[0] == 1
    assert kept[-1] == 500


def test_each_row_has_its_own_limit() -> None:
    sampler, context = plugins.create_sampler("mirostat"), new_context(rows=2)
    sampler(torch.tensor([[0.0, -1.0, -5.0]] * 2), context)
    sampler.observe(torch.tensor([0, 2]), context)
    likely, unlikely = context.state["limit"].ravel().tolist()
    assert likely > unlikely


@pytest.mark.parametrize("option", ["tau=-1", "tau=31", "eta=0", "eta=1.5", "tau=nan", "eta=true", "mu=1"])
def test_an_invalid_option_is_named(option: str) -> None:
    with pytest.raises(SettingError, match=f"sampler 'mirostat': {option.partition('=')[0]}"):
        plugins.create_sampler(f"mirostat:{option}")
