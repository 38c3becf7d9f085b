"""The built-in samplers: the conformance tests of `gpt2demo.testing` for every registered sampler, and further properties."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.interfaces import SamplingContext
from gpt2demo.sampling.ranking import SMALL
from gpt2demo.testing import sampler_tests
from gpt2demo.testing.samplers import onnx_graph, same_distribution

globals().update(sampler_tests())

INF = float("inf")
WIDE = SMALL + 1000  # a vocabulary that is searched, not sorted


def apply(spec: str, logits: Tensor, ids: Tensor | None = None, prompt_length: int = 1) -> Tensor:
    """Return the result of one sampler."""
    ids = torch.zeros(len(logits), 1, dtype=torch.int64) if ids is None else ids
    return plugins.create_sampler(spec)(logits, SamplingContext(ids, prompt_length))


def test_the_built_in_samplers_have_their_documented_names() -> None:
    builtin = {name for name in plugins.samplers() if plugins.registry().owner("samplers", name).distribution == "gpt2demo"}
    assert builtin == {
        *("temperature", "top-k", "top-p", "min-p", "typical", "epsilon", "eta"),
        *("repetition-penalty", "frequency-penalty", "presence-penalty", "no-repeat-ngram"),
    }


@pytest.mark.parametrize("value", [0.0, 5e-324, 1e-45, 1e-39, 1e-20, 1e-9])
def test_a_temperature_near_zero_is_greedy(value: float) -> None:
    result = apply(f"temperature:value={value}", torch.tensor([[1.0, 3.0, -2.0, 2.999]])).softmax(-1)
    assert result.tolist() == [[0, 1, 0, 0]]


def test_temperature_zero_takes_the_first_of_equal_tokens() -> None:
    assert apply("temperature:value=0", torch.tensor([[1.0, 3.0, 3.0]])).softmax(-1).tolist() == [[0, 1, 0]]


def test_presence_counts_once_and_frequency_each_time_without_the_prompt() -> None:
    logits, ids = torch.zeros(1, 4), torch.tensor([[3, 3, 0, 1, 1, 1]])
    assert apply("frequency-penalty:penalty=0.5", logits, ids, prompt_length=2).tolist() == [[-0.5, -1.5, 0, 0]]
    assert apply("presence-penalty:penalty=0.5", logits, ids, prompt_length=2).tolist() == [[-0.5, -0.5, 0, 0]]
    assert apply("frequency-penalty:penalty=-1", logits, ids, prompt_length=2).tolist() == [[1, 3, 0, 0]]
    assert torch.equal(apply("frequency-penalty", logits, ids, prompt_length=6), logits)


def test_repetition_penalty_applies_once_and_includes_the_prompt() -> None:
    logits, ids = torch.tensor([[2.0, -2.0, 2.0, -INF]]), torch.tensor([[0, 0, 0, 1, 3]])
    assert apply("repetition-penalty:penalty=2", logits, ids, prompt_length=3).tolist() == [[1, -4, 2, -INF]]


def test_no_repeat_ngram_rules_out_tokens_that_would_repeat_one() -> None:
    """After `1 2 3 … 1 2`, 3 would repeat a trigram; 3 and 4 would repeat a bigram."""
    logits, ids = torch.zeros(1, 5), torch.tensor([[1, 2, 3, 2, 4, 1, 2]])
    assert apply("no-repeat-ngram:size=3", logits, ids).tolist() == [[0, 0, 0, -INF, 0]]
    assert apply("no-repeat-ngram:size=2", logits, ids).tolist() == [[0, 0, 0, -INF, -INF]]
    assert apply("no-repeat-ngram:size=8", logits, ids).tolist() == [[0, 0, 0, 0, 0]]


def test_of_equal_tokens_those_with_the_lowest_ids_are_kept() -> None:
    for width in (8, WIDE):
        assert apply("top-k:k=3", torch.zeros(1, width)).isfinite().nonzero()[:, 1].tolist() == [0, 1, 2]
    assert apply("top-p:p=0.5", torch.zeros(1, 8)).isfinite().tolist() == [[True] * 4 + [False] * 4]


@pytest.mark.parametrize("spec", ["top-k:k=50", "top-p:p=0.9", "typical:p=0.9"])
def test_a_large_vocabulary_can_be_traced(spec: str, tmp_path: Path) -> None:
    """The graph sorts; the search in Python branches on values."""
    run = onnx_graph(plugins.create_sampler(spec), tmp_path / "sampler.onnx", width=WIDE)
    logits = torch.randn(2, WIDE, generator=torch.Generator().manual_seed(5)) * 3
    assert same_distribution(run(logits, torch.zeros(2, 9, dtype=torch.int64)), apply(spec, logits))


@pytest.mark.parametrize("p", [1e-7, 0.1, 0.9, 0.999, 1.0])
def test_top_p_rules_out_what_a_full_sort_would(p: float) -> None:
    """Compared with the method of transformers in float64: sharp and flat rows in one batch, ties, and few tokens left."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, WIDE, generator=generator) * torch.tensor([[8.0], [2.0], [0.01], [3.0], [1.0]])
    logits[3] = logits[3].round()
    logits[4, 7:] = -INF
    ranked, ids = logits.double().sort(dim=-1, descending=True, stable=True)
    tail = ranked.softmax(dim=-1).flip(-1).cumsum(dim=-1).flip(-1)  # (B, V), of each token and all less likely ones
    kept = tail > 1 - p
    kept[:, 0] = True
    at_cutoff = torch.zeros_like(kept).scatter(-1, ids, (tail - (1 - p)).abs() < 1e-5)  # rounding decides
    expected = torch.zeros_like(kept).scatter(-1, ids, kept) & logits.isfinite()
    found = apply(f"top-p:p={p}", logits)
    assert torch.equal(found.isfinite() | at_cutoff, expected | at_cutoff)
    assert torch.equal(found[found.isfinite()], logits[found.isfinite()])
