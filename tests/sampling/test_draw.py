"""The draw: one uniform number per row, from a stream keyed by (seed, row, position), and the inverse of the distribution."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig
from gpt2demo.errors import PluginFailure, SettingError
from gpt2demo.generation.generate import Generation
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.basic import TopK, TopP
from gpt2demo.sampling.chains import NamedSampler, create_chain
from gpt2demo.sampling.draw import ChainRunner, Uniforms, inverse
from gpt2demo.tokenization.byte import ByteTokenizer

INF = float("inf")
DRAWS = 20_000
LAST = 1 - 2**-24  # the largest uniform number


def draw(logits: Tensor, seed: int, position: int) -> list[int]:
    """Draw from logits (B, V) without samplers, for rows 0 to B - 1."""
    rows = len(logits)
    runner = ChainRunner([], Uniforms(seed), prompt_length=1)
    return runner.draw(logits.numpy(), np.zeros((rows, position), np.int64), range(rows)).ids.tolist()


def inverse_at(logits: Tensor, number: float) -> list[int]:
    """Draw from logits (B, V) with the same uniform number for each row."""
    return inverse(logits, torch.full((len(logits), 1), number, dtype=torch.float64))[:, 0].tolist()


def chi_square_p(observed: Tensor, expected: Tensor) -> float:
    """Return the probability of counts at least as far from the expected ones."""
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2, dtype=torch.float64), statistic / 2))


# ---------------------------------------------------------------------------------------------- uniform numbers


ALONG = {
    "seeds": lambda: [Uniforms(seed).at(5, [0])[0] for seed in range(DRAWS)],
    "positions": lambda: [Uniforms(5).at(position, [0])[0] for position in range(DRAWS)],
    "rows": lambda: Uniforms(5).at(5, range(DRAWS)),
}


@pytest.mark.parametrize("key", ALONG)
def test_numbers_are_uniform_and_uncorrelated_along_each_key(key: str) -> None:
    numbers = torch.tensor(ALONG[key](), dtype=torch.float64)
    counts = torch.histc(numbers, 100, 0, 1)
    assert chi_square_p(counts, torch.full((100,), DRAWS / 100, dtype=torch.float64)) > 1e-4
    assert abs(torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1]) < 4 / DRAWS**0.5


def test_every_key_has_a_number_of_its_own() -> None:
    keys = itertools.product((0, 1, 2**32, 2**63 - 1), range(8), range(8))
    numbers = [Uniforms(seed).at(position, [row])[0] for seed, position, row in keys]
    assert len(set(numbers)) == len(numbers)


def test_numbers_are_exact_in_float32_and_below_one() -> None:
    numbers = np.array(Uniforms(0).at(0, range(5000)))
    assert np.array_equal(numbers, numbers.astype(np.float32))
    assert 0 <= numbers.min() <= numbers.max() <= LAST
    assert np.float32(LAST) < 1


# ---------------------------------------------------------------------------------------------- the distribution


@pytest.mark.parametrize("name", sorted(plugins.samplers()))
def test_draws_follow_the_distribution_of_every_sampler(name: str) -> None:
    """Compare 20,000 draws with the softmax of the sampler's result."""
    logits = torch.tensor([[1.0, 0.4, -0.3, 0.9, -1.2, 0.0, 0.7, -0.8, 0.2, -2.0]])
    context = SamplingContext(torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]]), prompt_length=4)
    result = plugins.create_sampler(name)(logits, context)
    counts = torch.bincount(torch.tensor(draw(result.expand(DRAWS, -1), seed=1, position=10)), minlength=10).double()
    expected = result[0].double().softmax(0) * DRAWS
    possible = result[0] > -INF
    assert counts[~possible].sum() == 0
    assert possible.sum() == 1 or chi_square_p(counts[possible], expected[possible]) > 1e-4


def test_the_chi_square_test_detects_a_wrong_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    counts = torch.bincount(torch.tensor(draw(logits.expand(DRAWS, -1), seed=1, position=0))).double()
    assert chi_square_p(counts, logits[0].double().softmax(0) * DRAWS) > 1e-4
    assert chi_square_p(counts, (logits[0] * 1.1).double().softmax(0) * DRAWS) < 1e-4


@pytest.mark.parametrize("width", [2, 256, 50257])
def test_a_draw_inverts_the_cumulative_distribution(width: int) -> None:
    logits = torch.randn(200, width, generator=torch.Generator().manual_seed(width)) * torch.linspace(0, 4, 200).unsqueeze(-1)
    cumulative = logits.double().softmax(-1).cumsum(-1).numpy()
    numbers = Uniforms(3).at(9, range(200))
    expected = [np.searchsorted(row, u * row[-1], side="right") for row, u in zip(cumulative, numbers, strict=True)]
    assert draw(logits, 3, 9) == expected


@pytest.mark.parametrize(("number", "expected"), [(0.0, 1), (LAST, 4)])
def test_only_possible_tokens_are_drawn_at_both_ends(number: float, expected: int) -> None:
    logits = torch.tensor([[-INF, 0.0, -INF, 1.0, 0.5, -INF], [-1e30, 1.0, -1e30, 0.0, 1.0, -1e30]])
    assert inverse_at(logits, number) == [expected, expected]


@pytest.mark.parametrize("number", [0.0, 0.25, 0.5, LAST])
@pytest.mark.parametrize("only", [0, 3, 9])
def test_a_single_possible_token_is_always_drawn(number: float, only: int) -> None:
    logits = torch.full((1, 10), -INF)
    logits[0, only] = -3e38
    assert inverse_at(logits, number) == [only]


@pytest.mark.parametrize("width", [10, 50257])
def test_the_last_token_is_drawn_by_the_largest_number(width: int) -> None:
    """The cumulative sum may end slightly below 1."""
    logits = torch.randn(50, width, generator=torch.Generator().manual_seed(0))
    logits[:, -1] = 20
    assert inverse_at(logits, LAST) == [width - 1] * 50


@pytest.mark.parametrize(("number", "expected"), [(0.5 - 2**-24, 0), (0.5, 1)])
def test_intervals_are_half_open(number: float, expected: int) -> None:
    """Of two equally likely tokens the first has [0, ½), and the second [½, 1)."""
    assert inverse_at(torch.zeros(1, 2), number) == [expected]


def test_probabilities_are_added_up_in_float64() -> None:
    """A probability of 2^-25 after one of nearly 1: in float32 the sum would not change, and the token could not be drawn."""
    logits = torch.tensor([[0.0, -25 * math.log(2)]])
    edge = float(logits.double().softmax(-1)[0, 0])
    assert inverse_at(logits, edge * (1 - 1e-9)) == [0]
    assert inverse_at(logits, edge * (1 + 1e-9)) == [1]


# ---------------------------------------------------------------------------------------------- rows and positions


@pytest.mark.parametrize("sizes", [(1, 7), (3, 7), (7, 100)])
def test_a_row_does_not_depend_on_the_batch_size(sizes: tuple[int, int]) -> None:
    logits = torch.randn(100, 500, generator=torch.Generator().manual_seed(0))
    few, more = sizes
    for position in range(20):
        assert draw(logits[:few], 5, position) == draw(logits[:more], 5, position)[:few]


def test_rows_and_positions_are_drawn_independently() -> None:
    drawn = [token for position in range(8) for token in draw(torch.zeros(8, 1000), 5, position)]
    assert len(set(drawn)) > 50, "64 draws from 1,000 tokens hardly ever give fewer different ones"


# ---------------------------------------------------------------------------------------------- invalid results


class Invalid(Sampler):
    """Returns NaN, or logits of another shape."""

    nan: bool

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits * float("nan") if self.nan else logits[:, :-1]


@pytest.mark.parametrize(("nan", "message"), [(False, r"returned .* shape \(1, 4\)"), (True, "returned NaN")])
def test_a_sampler_with_an_invalid_result_is_named(nan: bool, message: str) -> None:
    chain = [*create_chain(["top-k:k=4"]), NamedSampler("invalid", Invalid(nan=nan), "invalid"), *create_chain(["top-k:k=3"])]
    runner = ChainRunner(chain, Uniforms(0), prompt_length=1)
    with pytest.raises(PluginFailure, match=rf"sampler 'invalid': __call__\(\) {message}"):
        runner.draw(np.zeros((1, 5), np.float32), np.zeros((1, 1), np.int64), [0])


def test_nan_logits_are_attributed_to_the_model() -> None:
    runner = ChainRunner([NamedSampler("top-k", TopK(k=4), "top-k:k=4")], Uniforms(0), prompt_length=1)
    with pytest.raises(SettingError, match="the model's logits are NaN"):
        runner.draw(np.full((1, 5), np.nan, np.float32), np.zeros((1, 1), np.int64), [0])


class WideEngine:
    """An engine with a larger vocabulary than the tokenizer, and its largest logits at the end."""

    name = provider = "wide"
    n_positions, vocab_size, length = 100, 300, 0

    def reset(self) -> None:
        self.length = 0

    def feed(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
        self.length += ids.shape[1]
        return np.arange(300, dtype=np.float32)[None] / 10


def test_ids_beyond_the_tokenizers_vocabulary_are_never_drawn() -> None:
    config = GenerateConfig(max_new_tokens=50, seed=0, temperature=1.0)
    generation = Generation(WideEngine(), ByteTokenizer(), [1], config)  # type: ignore[arg-type]
    list(generation)
    assert max(generation.ids) == 255
    assert len(set(generation.ids)) > 10


def test_the_numbers_of_a_seed_are_the_same_in_every_version() -> None:
    """The same seed gives the same text, also with a later release. The numbers have 24 bits."""
    numbers = Uniforms(0)
    assert [numbers.at(position, [0, 1]) for position in range(2)] == [
        [0.011546730995178223, 0.3421827554702759],
        [0.6436367034912109, 0.45291227102279663],
    ]
    assert Uniforms(123456789012345).at(7, [3, 2**20]) == [0.13591879606246948, 0.7187623977661133]
    units = [number * 2**24 for position in range(20) for number in numbers.at(position, [0])]
    assert all(unit == int(unit) for unit in units)
    assert any(unit % 2 for unit in units)


def test_a_sampler_observes_each_drawn_token() -> None:
    class Recording(Sampler):
        seen: ClassVar[list[list[int]]] = []

        def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
            return logits

        def observe(self, ids: torch.Tensor, context: SamplingContext) -> None:
            self.seen.append(ids.tolist())

    chain = [NamedSampler("recording", Recording(), "recording")]
    runner = ChainRunner(chain, Uniforms(0), prompt_length=1)
    logits = np.array([[-INF, 0.0, -INF], [-INF, -INF, 0.0]], np.float32)
    drawn = runner.draw(logits, np.zeros((2, 1), np.int64), [0, 1])
    assert Recording.seen == [drawn.ids.tolist()] == [[1, 2]]


def test_top_p_of_one_keeps_every_possible_token() -> None:
    """Also those too unlikely to change a sum of probabilities."""
    logits = torch.tensor([[0.0, -1000.0, -INF]])
    kept = TopP(p=1.0)(logits, SamplingContext(torch.zeros(1, 1, dtype=torch.int64), 1))
    assert torch.equal(kept, logits)
