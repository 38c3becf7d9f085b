"""Built-in samplers compared with the logits processors of transformers: the same tokens with the same probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from transformers.generation import logits_process as theirs

from gpt2demo import plugins
from gpt2demo.interfaces import SamplingContext

INF = float("inf")
ROUNDS = 500


@dataclass
class Case:
    """A sampler and the equivalent logits processor, both as functions of a random number u in (0, 1)."""

    name: str
    spec: Callable[[float], str]
    processor: Callable[[float], theirs.LogitsProcessor]


CASES = [
    Case("temperature", lambda u: f"temperature:value={4 * u}", lambda u: theirs.TemperatureLogitsWarper(4 * u)),
    Case("top-k", lambda u: f"top-k:k={1 + int(60 * u)}", lambda u: theirs.TopKLogitsWarper(1 + int(60 * u))),
    Case("top-p", lambda u: f"top-p:p={u}", theirs.TopPLogitsWarper),
    Case("min-p", lambda u: f"min-p:threshold={u**3}", lambda u: theirs.MinPLogitsWarper(u**3)),
    Case("typical", lambda u: f"typical:p={u}", theirs.TypicalLogitsWarper),
    Case("epsilon", lambda u: f"epsilon:cutoff={u**4}", lambda u: theirs.EpsilonLogitsWarper(u**4)),
    Case("eta", lambda u: f"eta:cutoff={u**4}", lambda u: theirs.EtaLogitsWarper(u**4, device="cpu")),
    Case(
        "repetition-penalty",
        lambda u: f"repetition-penalty:penalty={0.01 + 3 * u}",
        lambda u: theirs.RepetitionPenaltyLogitsProcessor(0.01 + 3 * u),
    ),
    Case(
        "no-repeat-ngram",
        lambda u: f"no-repeat-ngram:size={1 + int(4 * u)}",
        lambda u: theirs.NoRepeatNGramLogitsProcessor(1 + int(4 * u)),
    ),
]


def random_logits(generator: torch.Generator) -> torch.Tensor:
    """Return logits (B, V): flat, peaked or huge, with ties, with tokens ruled out, with equal or single tokens left."""

    def pick(*choices):
        return choices[torch.randint(len(choices), (), generator=generator)]

    shape = pick(1, 2, 4), pick(2, 3, 17, 256, 1000)
    logits = torch.randn(shape, generator=generator) * pick(0.0, 0.1, 1.0, 3.0, 30.0, 1e4, 1e30) + pick(0.0, 50.0, -1e3)
    if pick(True, False):
        logits = logits.round()  # ties
    ruled_out = torch.rand(shape, generator=generator) < pick(0.0, 0.0, 0.5, 0.98, 1.0)
    ruled_out.scatter_(-1, torch.randint(shape[1], (shape[0], 1), generator=generator), False)  # one token is left
    return logits.masked_fill(ruled_out, -INF)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_sampler_equals_that_of_transformers(case):
    generator = torch.Generator().manual_seed(0)
    compared = 0
    for _ in range(ROUNDS):
        logits = random_logits(generator)
        u = float(torch.rand((), generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6))
        ids = torch.randint(logits.shape[1], (logits.shape[0], 1 + int(u * 7919) % 40), generator=generator)
        expected = case.processor(u)(ids, logits.clone())
        if expected.isnan().any() or (expected == INF).any() or (expected == -INF).all(-1).any():
            continue  # cannot be drawn from
        result = plugins.create_sampler(case.spec(u))(logits, SamplingContext(ids, prompt_length=1))
        assert_equal_up_to_ties(case, result, expected)
        compared += 1
    assert compared > ROUNDS * 0.6


def test_a_penalty_after_a_temperature_equals_that_of_transformers() -> None:
    """The penalty depends on the sign of a logit, which earlier samplers must not change."""
    generator = torch.Generator().manual_seed(1)
    logits, ids = torch.randn(8, 50, generator=generator) * 3, torch.randint(50, (8, 20), generator=generator)
    expected = theirs.RepetitionPenaltyLogitsProcessor(1.3)(ids, theirs.TemperatureLogitsWarper(0.7)(ids, logits.clone()))
    for spec in ("temperature:value=0.7", "repetition-penalty:penalty=1.3"):
        logits = plugins.create_sampler(spec)(logits, SamplingContext(ids, prompt_length=1))
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=0)


def assert_equal_up_to_ties(case: Case, result: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert equal tokens and probabilities. At a cutoff among equal logits, other tokens with the same logits may be kept."""
    if case.name == "top-k":
        expected = without_border_ties(result, expected)
    if case.name in ("top-k", "top-p"):
        result, expected = result.sort().values, expected.sort().values
    assert torch.equal(result > -INF, expected > -INF)
    torch.testing.assert_close(result.softmax(-1), expected.softmax(-1).float(), rtol=0, atol=1e-6)


def without_border_ties(result: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return the result of transformers' top-k with exactly k tokens. The surplus tokens must be equal to the k-th."""
    surplus = (expected > -INF) & (result == -INF)
    kth = expected.masked_fill(expected == -INF, INF).amin(-1, keepdim=True).expand_as(expected)
    assert torch.equal(expected[surplus], kth[surplus])
    return expected.masked_fill(surplus, -INF)


def test_a_chain_equals_that_of_transformers() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(8, 1000, generator=generator) * 4
    ids = torch.randint(1000, (8, 300), generator=generator)
    specs = ["repetition-penalty:penalty=1.3", "temperature:value=0.7", "top-k:k=50", "top-p:p=0.9", "min-p:threshold=0.02"]
    processors = [
        theirs.RepetitionPenaltyLogitsProcessor(1.3),
        theirs.TemperatureLogitsWarper(0.7),
        theirs.TopKLogitsWarper(50),
        theirs.TopPLogitsWarper(0.9),
        theirs.MinPLogitsWarper(0.02),
    ]
    result = logits
    for spec in specs:
        result = plugins.create_sampler(spec)(result, SamplingContext(ids, prompt_length=1))
    expected = theirs.LogitsProcessorList(processors)(ids, logits)
    assert torch.equal(result > -INF, expected > -INF)
    torch.testing.assert_close(result.softmax(-1), expected.softmax(-1), rtol=0, atol=1e-6)


def test_top_k_keeps_exactly_k_tokens_unlike_transformers() -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0, 1.0, 3.0]])
    assert theirs.TopKLogitsWarper(3)(None, logits).isfinite().tolist() == [[True, True, True, True, True]]
    ours = plugins.create_sampler("top-k:k=3")(logits, SamplingContext(torch.zeros(1, 1, dtype=torch.int64), 1))
    assert ours.isfinite().tolist() == [[True, True, False, False, True]]


def test_no_repeat_ngram_changes_nothing_where_transformers_leaves_no_token() -> None:
    logits, ids = torch.tensor([[0.5, -1.0]]), torch.tensor([[0, 1, 0]])
    assert theirs.NoRepeatNGramLogitsProcessor(1)(ids, logits.clone()).tolist() == [[-INF, -INF]]
    ours = plugins.create_sampler("no-repeat-ngram:size=1")(logits, SamplingContext(ids, 1))
    assert torch.equal(ours, logits)
