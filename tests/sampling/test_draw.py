"""The draw: one uniform number per row, from a stream keyed by (seed, row, position), through the inverse of the distribution."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig
from gpt2demo.generation.generate import Generation
from gpt2demo.interfaces import SamplingContext
from gpt2demo.sampling.draw import draw, inverse, uniforms
from gpt2demo.tokenization.byte import ByteTokenizer

INF = float("inf")
DRAWS = 20_000
LAST = 1 - 2**-24  # the largest uniform number


def chi_square_p(observed: Tensor, expected: Tensor) -> float:
    """How likely counts at least as far from the expected ones are by chance."""
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2, dtype=torch.float64), statistic / 2))


@pytest.mark.parametrize("name", sorted(plugins.samplers()))
def test_draws_follow_every_samplers_distribution(name: str) -> None:
    """20,000 draws against the softmax of what the sampler left."""
    logits = torch.tensor([[1.0, 0.4, -0.3, 0.9, -1.2, 0.0, 0.7, -0.8, 0.2, -2.0]])
    context = SamplingContext(torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]]), prompt_length=4)
    left = plugins.create_sampler(name)(logits, context)
    counts = torch.bincount(draw(left.expand(DRAWS, -1), seed=1, position=10), minlength=10).double()
    expected = left[0].double().softmax(0) * DRAWS
    possible = left[0] > -INF
    assert counts[~possible].sum() == 0
    assert possible.sum() == 1 or chi_square_p(counts[possible], expected[possible]) > 1e-4


def test_the_chi_square_test_notices_a_wrong_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    counts = torch.bincount(draw(logits.expand(DRAWS, -1), seed=1, position=0)).double()
    assert chi_square_p(counts, logits[0].double().softmax(0) * DRAWS) > 1e-4
    assert chi_square_p(counts, (logits[0] * 1.1).double().softmax(0) * DRAWS) < 1e-4


ALONG = {
    "seeds": lambda: [uniforms(seed, 5, [0])[0] for seed in range(DRAWS)],
    "positions": lambda: [uniforms(5, position, [0])[0] for position in range(DRAWS)],
    "rows": lambda: uniforms(5, 5, range(DRAWS)),
}


@pytest.mark.parametrize("key", ALONG)
def test_the_numbers_are_uniform_along_each_key(key: str) -> None:
    numbers = torch.tensor(ALONG[key](), dtype=torch.float64)
    counts = torch.histc(numbers, 100, 0, 1)
    assert chi_square_p(counts, torch.full((100,), DRAWS / 100, dtype=torch.float64)) > 1e-4
    assert abs(torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1]) < 4 / DRAWS**0.5, "neighbours hang together"


def test_every_key_has_its_own_number() -> None:
    keys = itertools.product((0, 1, 2**32, 2**63 - 1), range(8), range(8))
    numbers = [uniforms(seed, position, [row])[0] for seed, position, row in keys]
    assert len(set(numbers)) == len(numbers)


def test_the_numbers_are_exact_in_float32_and_below_one() -> None:
    numbers = np.array(uniforms(0, 0, range(5000)))
    assert np.array_equal(numbers, numbers.astype(np.float32))
    assert 0 <= numbers.min() <= numbers.max() <= LAST
    assert np.float32(LAST) < 1


@pytest.mark.parametrize("width", [2, 256, 50257])
def test_it_is_the_inverse_of_the_cumulated_probabilities(width: int) -> None:
    logits = torch.randn(200, width, generator=torch.Generator().manual_seed(width)) * torch.linspace(0, 4, 200).unsqueeze(-1)
    cumulated = logits.double().softmax(-1).cumsum(-1).numpy()
    expected = [
        np.searchsorted(row, u * row[-1], side="right") for row, u in zip(cumulated, uniforms(3, 9, range(200)), strict=True)
    ]
    assert draw(logits, 3, 9).tolist() == expected


@pytest.mark.parametrize("sizes", [(1, 7), (3, 7), (7, 100)])
def test_a_rows_token_does_not_depend_on_the_batch(sizes: tuple[int, int]) -> None:
    logits = torch.randn(100, 500, generator=torch.Generator().manual_seed(0))
    few, more = sizes
    for position in range(20):
        assert torch.equal(draw(logits[:few], 5, position), draw(logits[:more], 5, position)[:few])


def test_rows_and_positions_are_drawn_apart() -> None:
    logits = torch.zeros(8, 1000)
    drawn = torch.stack([draw(logits, 5, position) for position in range(8)])
    assert len(drawn.unique()) > 50, "equal rows of 1000 tokens hardly ever give the same one"


@pytest.mark.parametrize(("number", "expected"), [(0.0, 1), (LAST, 4)])
def test_at_both_ends_of_the_numbers_only_possible_tokens_are_drawn(
    number: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2demo.sampling.draw.uniforms", lambda seed, position, rows: [number] * len(rows))
    logits = torch.tensor([[-INF, 0.0, -INF, 1.0, 0.5, -INF], [-1e30, 1.0, -1e30, 0.0, 1.0, -1e30]])
    assert draw(logits, 0, 0).tolist() == [expected, expected]


@pytest.mark.parametrize("number", [0.0, 0.25, 0.5, LAST])
@pytest.mark.parametrize("only", [0, 3, 9])
def test_a_single_possible_token_is_always_drawn(number: float, only: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2demo.sampling.draw.uniforms", lambda seed, position, rows: [number] * len(rows))
    logits = torch.full((1, 10), -INF)
    logits[0, only] = -3e38
    assert draw(logits, 0, 0).tolist() == [only]


def test_on_a_border_the_upper_token_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-open intervals: [0, ½) is the first of two equal tokens, [½, 1) the second."""
    for number, expected in ((0.5 - 2**-24, 0), (0.5, 1)):
        monkeypatch.setattr("gpt2demo.sampling.draw.uniforms", lambda seed, position, rows, u=number: [u] * len(rows))
        assert draw(torch.zeros(1, 2), 0, 0).tolist() == [expected]


def test_the_probabilities_are_added_up_in_float64() -> None:
    """A share of 2^-25 behind one of 1: in float32 the sum would stay 1, and nothing would be left for the second token."""
    logits = torch.tensor([[0.0, -25 * math.log(2)]])
    share = logits.softmax(-1).double()[0]
    edge = float(share[0] / share.sum())
    assert inverse(logits, torch.tensor([[edge * (1 - 1e-9)]], dtype=torch.float64)).item() == 0
    assert inverse(logits, torch.tensor([[edge * (1 + 1e-9)]], dtype=torch.float64)).item() == 1


class Wide:
    """An engine whose vocabulary is larger than any tokenizer's, and which likes its last tokens best."""

    name = provider = "wide"
    n_positions, vocab_size, length = 100, 300, 0

    def reset(self) -> None:
        self.length = 0

    def feed(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
        self.length += ids.shape[1]
        return np.arange(300, dtype=np.float32)[None] / 10


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn() -> None:
    """A model may have more rows than its tokenizer has ids, for speed or because somebody asked for them."""
    config = GenerateConfig(max_new_tokens=50, seed=0, temperature=1.0)
    generation = Generation(Wide(), ByteTokenizer(), [1], config)  # type: ignore[arg-type]
    list(generation)
    assert max(generation.ids) == 255
    assert len(set(generation.ids)) > 10
