"""The samplers: the kit over everything registered, then what is special about the built-in ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.interfaces import SamplingContext
from gpt2demo.sampling import ranking
from gpt2demo.sampling.draw import inverse
from gpt2demo.sampling.ranking import largest
from gpt2demo.testing import sampler_tests
from gpt2demo.testing.samplers import onnx_graph, same_choice

globals().update(sampler_tests())

INF = float("inf")
WIDE = ranking.SMALL + 1000  # a vocabulary that is searched, not sorted


def apply(spec: str, logits: Tensor, ids: Tensor | None = None, prompt_length: int = 1) -> Tensor:
    ids = torch.zeros(len(logits), 1, dtype=torch.int64) if ids is None else ids
    return plugins.create_sampler(spec)(logits, SamplingContext(ids, prompt_length))


def test_the_names_are_those_of_the_contract() -> None:
    ours = {name for name in plugins.samplers() if plugins.registry().owner("samplers", name).distribution == "gpt2demo"}
    assert ours == {
        *("temperature", "top-k", "top-p", "min-p", "typical", "epsilon", "eta"),
        *("repetition-penalty", "frequency-penalty", "presence-penalty", "no-repeat-ngram"),
    }


@pytest.mark.parametrize("value", [0.0, 5e-324, 1e-45, 1e-39, 1e-20, 1e-9])
def test_a_temperature_near_zero_is_greedy(value: float) -> None:
    left = apply(f"temperature:value={value}", torch.tensor([[1.0, 3.0, -2.0, 2.999]])).softmax(-1)
    assert left.tolist() == [[0, 1, 0, 0]]


def test_at_temperature_zero_the_first_of_equal_tokens_is_taken() -> None:
    assert apply("temperature:value=0", torch.tensor([[1.0, 3.0, 3.0]])).softmax(-1).tolist() == [[0, 1, 0]]


def test_presence_counts_once_frequency_each_time_and_neither_the_prompt() -> None:
    logits, ids = torch.zeros(1, 4), torch.tensor([[3, 3, 0, 1, 1, 1]])
    assert apply("frequency-penalty:penalty=0.5", logits, ids, prompt_length=2).tolist() == [[-0.5, -1.5, 0, 0]]
    assert apply("presence-penalty:penalty=0.5", logits, ids, prompt_length=2).tolist() == [[-0.5, -0.5, 0, 0]]
    assert apply("frequency-penalty:penalty=-1", logits, ids, prompt_length=2).tolist() == [[1, 3, 0, 0]]
    assert torch.equal(apply("frequency-penalty", logits, ids, prompt_length=6), logits)


def test_repetition_penalty_counts_the_prompt_too_and_no_matter_how_often() -> None:
    logits, ids = torch.tensor([[2.0, -2.0, 2.0, -INF]]), torch.tensor([[0, 0, 0, 1, 3]])
    assert apply("repetition-penalty:penalty=2", logits, ids, prompt_length=3).tolist() == [[1, -4, 2, -INF]]


def test_no_repeat_ngram_rules_out_what_would_complete_one() -> None:
    """After `1 2 3 … 1 2` the trigram rule forbids 3; the bigram rule forbids all that ever followed 2."""
    logits, ids = torch.zeros(1, 5), torch.tensor([[1, 2, 3, 2, 4, 1, 2]])
    assert apply("no-repeat-ngram:size=3", logits, ids).tolist() == [[0, 0, 0, -INF, 0]]
    assert apply("no-repeat-ngram:size=2", logits, ids).tolist() == [[0, 0, 0, -INF, -INF]]
    assert apply("no-repeat-ngram:size=8", logits, ids).tolist() == [[0, 0, 0, 0, 0]]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [None, 1, 40, WIDE])
def test_searching_a_large_vocabulary_gives_what_sorting_gives(
    count: int | None, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(3, WIDE, generator=torch.Generator().manual_seed(4))
    logits = logits.mul(5).round() if ties else logits
    logits[:, ::3] = -INF
    found = largest(logits, count)
    monkeypatch.setattr(ranking, "SMALL", WIDE)
    values, ids, *_ = largest(logits, count)
    width = min(found[0].shape[1], values.shape[1])
    assert (values[:, width:] == -INF).all()
    finite = values[:, :width] > -INF
    assert torch.equal(found[0][:, :width], values[:, :width])
    assert torch.equal(found[1][:, :width][finite], ids[:, :width][finite])


def test_of_equal_tokens_the_lowest_ids_survive() -> None:
    for width in (8, WIDE):
        assert apply("top-k:k=3", torch.zeros(1, width)).isfinite().nonzero()[:, 1].tolist() == [0, 1, 2]
    assert apply("top-p:p=0.5", torch.zeros(1, 8)).isfinite().tolist() == [[True] * 4 + [False] * 4]


@pytest.mark.parametrize("spec", ["top-k:k=50", "top-p:p=0.9", "typical:p=0.9"])
def test_a_large_vocabulary_can_be_traced_too(spec: str, tmp_path: Path) -> None:
    """In the graph there is no search with its look at the values: it sorts."""
    run = onnx_graph(plugins.create_sampler(spec), tmp_path / "sampler.onnx", width=WIDE)
    logits = torch.randn(2, WIDE, generator=torch.Generator().manual_seed(5)) * 3
    assert same_choice(run(logits, torch.zeros(2, 9, dtype=torch.int64)), apply(spec, logits))


@pytest.mark.parametrize("width", [40, 5000])
def test_what_logits_remember_of_their_order_changes_nothing(width: int) -> None:
    """top-k leaves the order behind for top-p; a copy of its result has forgotten it. With ties, and with less left than k."""
    logits = torch.randn(6, width, generator=torch.Generator().manual_seed(0)).mul(4).round() / 2
    logits[0, 3:] = -torch.inf
    context = SamplingContext(torch.zeros(6, 4, dtype=torch.int64), 2)
    pairs = [
        ("top-k:k=20", "top-p:p=0.7"),
        ("top-p:p=0.9", "top-k:k=5"),
        ("top-p:p=0.9", "top-p:p=0.5"),
        ("top-k:k=9", "top-k:k=3"),
    ]
    for first, then in (map(plugins.create_sampler, pair) for pair in pairs):
        chosen = first(logits, context)
        assert torch.equal(then(chosen, context), then(chosen.clone(), context))


@pytest.mark.parametrize("p", [1e-7, 0.1, 0.9, 0.999, 1.0])
def test_what_top_p_need_not_sort_it_would_have_ruled_out(p: float) -> None:
    """Against transformers' way, in float64: sharp and flat rows of a large vocabulary in one batch, ties, little left."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, WIDE, generator=generator) * torch.tensor([[8.0], [2.0], [0.01], [3.0], [1.0]])
    logits[3] = logits[3].round()
    logits[4, 7:] = -INF
    ranked, ids = logits.double().sort(dim=-1, descending=True, stable=True)
    not_above = ranked.softmax(dim=-1).flip(-1).cumsum(dim=-1).flip(-1)
    gone = not_above <= 1 - p
    gone[:, 0] = False
    near = ((not_above - (1 - p)).abs() < 1e-5).scatter(-1, ids, (not_above - (1 - p)).abs() < 1e-5)
    expected = torch.zeros_like(gone).scatter(-1, ids, ~gone) & logits.isfinite()
    found = apply(f"top-p:p={p}", logits)
    assert torch.equal(found.isfinite() | near, expected | near)
    assert torch.equal(found[found.isfinite()], logits[found.isfinite()])


@pytest.mark.parametrize("spec", ["top-k:k=40", "top-p:p=0.8"])
def test_of_a_large_vocabulary_only_what_is_left_is_added_up(spec: str) -> None:
    """The same tokens are drawn when the logits have forgotten their order, and all are added up."""
    logits = apply(spec, torch.randn(400, WIDE, generator=torch.Generator().manual_seed(6)) * 3)
    uniform = torch.rand(400, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    assert ranking.ranking(logits) is not None
    assert torch.equal(inverse(logits, uniform), inverse(logits.clone(), uniform))
