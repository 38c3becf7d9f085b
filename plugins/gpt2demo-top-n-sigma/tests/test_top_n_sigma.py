"""The top-nσ plugin: conformance, and properties described in the paper."""

from __future__ import annotations

import pytest
import torch

from gpt2demo import plugins
from gpt2demo.errors import SettingError
from gpt2demo.interfaces import SamplingContext
from gpt2demo.testing import SamplerContract

plugin = pytest.importorskip("gpt2demo_top_n_sigma", reason="pip install -e plugins/gpt2demo-top-n-sigma")

CONTEXT = SamplingContext(torch.zeros(1, 1, dtype=torch.int64), prompt_length=1)
INF = float("inf")


class TestContract(SamplerContract):
    sampler = plugin.TopNSigma


def kept(logits: torch.Tensor, n: float = 1.0) -> torch.Tensor:
    """Return which tokens are kept, (B, V) bool."""
    return plugins.create_sampler(f"top-n-sigma:n={n}")(logits, CONTEXT).isfinite()


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(64, 300, generator=torch.Generator().manual_seed(0)) * 3


def test_the_entry_point_has_the_name_of_the_sampler() -> None:
    point = next(point for point in plugins.installed() if point.value == "gpt2demo_top_n_sigma")
    assert point.name == "top-n-sigma"
    assert plugins.registry().owner("samplers", point.name).distribution == "gpt2demo-top-n-sigma"


def test_a_worked_example() -> None:
    # mean 2, deviations -2 0 2, σ = sqrt(8/3) = 1.63: with n=1 the threshold is 2.37, with n=1.3 it is 1.88
    logits = torch.tensor([[0.0, 2.0, 4.0]])
    assert kept(logits, n=1.0).tolist() == [[False, False, True]]
    assert kept(logits, n=1.3).tolist() == [[False, True, True]]


@pytest.mark.parametrize("n", [0.5, 1.0, 2.0])
def test_the_definition_in_the_paper(logits: torch.Tensor, n: float) -> None:
    threshold = logits.amax(-1, keepdim=True) - n * logits.std(-1, keepdim=True, correction=0)
    assert torch.equal(kept(logits, n), logits >= threshold)
    assert 1 < kept(logits, n).sum(-1).float().mean() < 300


def test_kept_tokens_keep_their_logits(logits: torch.Tensor) -> None:
    result = plugins.create_sampler("top-n-sigma")(logits, CONTEXT)
    assert torch.equal(result[result.isfinite()], logits[kept(logits)])


@pytest.mark.parametrize("temperature", [0.25, 0.5, 2.0, 8.0])  # powers of two: no rounding
def test_the_kept_tokens_do_not_depend_on_temperature(logits: torch.Tensor, temperature: float) -> None:
    assert torch.equal(kept(logits), kept(logits / temperature))


def test_a_larger_n_keeps_more_tokens(logits: torch.Tensor) -> None:
    counts = [int(kept(logits, n).sum()) for n in (0, 0.5, 1, 2, 4, 100)]
    assert counts == sorted(set(counts))
    assert counts[0] == len(logits)
    assert counts[-1] == logits.numel()


def test_the_standard_deviation_is_that_of_the_finite_logits(logits: torch.Tensor) -> None:
    some = logits[:, :100]
    padded = torch.cat([some, torch.full((64, 200), -INF)], dim=-1)
    assert torch.equal(kept(padded)[:, :100], kept(some))
    assert not kept(padded)[:, 100:].any()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([7.0, 7.0, 7.0], [True, True, True]),  # σ = 0
        ([-INF, 5.0, -INF], [False, True, False]),
        ([3e38, -3e38, -3e38, 3e38], [True, False, False, True]),  # squares overflow in float32
        ([0.0, -3e38, 0.0, -INF], [True, False, True, False]),
        ([0.0, -1.0, -2000.0], [True, True, False]),  # an unlikely token is not ruled out and counts
    ],
)
def test_extreme_rows(row: list[float], expected: list[bool]) -> None:
    assert kept(torch.tensor([row])).tolist() == [expected]


@pytest.mark.parametrize("n", ["-1", "101", "nan", "inf", "true", "many"])
def test_an_invalid_option_is_named(n: str) -> None:
    with pytest.raises(SettingError, match=rf"sampler 'top-n-sigma': n='{n}'"):
        plugins.create_sampler(f"top-n-sigma:n={n}")
