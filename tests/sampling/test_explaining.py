"""Log-probabilities and explanations of each token."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from samples import Cli

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig
from gpt2demo.generation.generate import Generation, Model
from gpt2demo.interfaces import SamplingContext
from gpt2demo.metrics import log_softmax
from gpt2demo.runs.folder import Run
from gpt2demo.sampling.draw import Uniforms, inverse
from gpt2demo.sampling.explain import SHOWN, likeliest
from gpt2demo.tokenization.byte import ByteTokenizer


class ConstantEngine:
    """An engine with the same logits at every step, and a vocabulary larger than the tokenizer's."""

    name = provider = "constant"
    n_positions, vocab_size, length = 1000, 300, 0
    constant = np.random.default_rng(0).normal(scale=3, size=(1, 300)).astype(np.float32)

    def reset(self) -> None:
        self.length = 0

    def feed(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
        self.length += ids.shape[1]
        return self.constant


LOGITS = torch.from_numpy(ConstantEngine.constant[0, :256]).double()


def generate(**settings: object) -> Generation:
    """Return a finished generation."""
    model = Model(ConstantEngine(), ByteTokenizer(), "constant", Path())  # type: ignore[arg-type]
    generation = model.generate("ab", **{"max_new_tokens": 20, "seed": 3, **settings})
    list(generation)
    return generation


def test_nothing_is_reported_unless_requested() -> None:
    generation = generate()
    assert (generation.logprobs, generation.explanations) == ([], [])


@pytest.mark.parametrize("settings", [{"temperature": 0}, {}, {"top_k": 3}])
def test_reports_do_not_change_the_text(settings: dict[str, object]) -> None:
    assert generate(**settings).ids == generate(**settings, logprobs=2, explain=True).ids


def test_log_probabilities_are_those_of_the_model_and_of_the_draw() -> None:
    """The model's distribution is over the tokenizer's ids, before any sampler; the draw's is after the chain."""
    chain = ("temperature:value=0.5", "top-k:k=4")
    model = LOGITS.log_softmax(-1)
    kept = LOGITS.topk(4).indices
    drawn = (LOGITS[kept] / 0.5).log_softmax(-1)
    generation = generate(samplers=chain, logprobs=3)
    assert [token.id for token in generation.logprobs] == generation.ids
    for token in generation.logprobs:
        assert token.text == ByteTokenizer().decode([token.id])
        assert token.logprob == pytest.approx(float(model[token.id]), abs=1e-6)
        assert token.drawn_logprob == pytest.approx(float(drawn[kept == token.id]), abs=1e-5)
        assert [(a.id, pytest.approx(a.logprob, abs=1e-6)) for a in token.alternatives] == [
            (int(i), float(model[i])) for i in model.topk(3).indices
        ]
    assert len({token.id for token in generation.logprobs}) > 1


def test_the_random_number_is_in_the_interval_of_the_drawn_token() -> None:
    for explanation in generate(explain=True, samplers=["temperature:value=1.5", "top-k:k=40"]).explanations:
        ids = [interval.id for interval in explanation.intervals]
        assert ids == sorted({explanation.id, *(share.id for share in explanation.stages[-1].top)})
        shares = {share.id: share.probability for share in explanation.stages[-1].top}
        for interval in explanation.intervals:
            assert 0 <= interval.low < interval.high <= 1 + 1e-12
            assert interval.high - interval.low == pytest.approx(shares.get(interval.id, interval.high - interval.low), abs=1e-9)
        assert all(a.high <= b.low for a, b in itertools.pairwise(explanation.intervals))
        drawn = explanation.intervals[ids.index(explanation.id)]
        assert drawn.low <= explanation.uniform < drawn.high


def test_a_greedy_choice_has_the_whole_interval() -> None:
    for explanation in generate(explain=True, temperature=0).explanations:
        assert explanation.uniform is None
        [only] = [interval for interval in explanation.intervals if interval.high > interval.low]
        assert (only.id, only.low, only.high) == (explanation.id, 0.0, 1.0)


def test_the_number_of_alternatives_may_be_zero() -> None:
    assert {len(token.alternatives) for token in generate(logprobs=0).logprobs} == {0}


def test_an_explanation_has_the_distribution_after_every_sampler() -> None:
    chain = ("temperature:value=0.5", "top-k:k=20", "top-p:p=0.6")
    generation = generate(samplers=chain, explain=True)
    logits = LOGITS.float()[None]
    expected = [logits]
    for spec in chain:
        context = SamplingContext(torch.tensor([list(b"ab")]), 2)
        expected.append(plugins.create_sampler(spec)(expected[-1], context))
    for step, token in enumerate(generation.explanations):
        assert [stage.sampler for stage in token.stages] == ["model", *chain]
        for stage, logits in zip(token.stages, expected, strict=True):
            probabilities = logits[0].double().softmax(-1)
            assert stage.remaining == int((probabilities > 0).sum())
            assert len(stage.top) == min(SHOWN, stage.remaining)
            assert [share.id for share in stage.top] == probabilities.topk(len(stage.top)).indices.tolist()
            assert [share.probability for share in stage.top] == pytest.approx(
                probabilities.topk(len(stage.top)).values.tolist(), abs=1e-6
            )
        assert token.uniform == Uniforms(3).at(2 + step, [0])[0]
        uniform = torch.tensor([[token.uniform]], dtype=torch.float64)
        assert token.id == generation.ids[step] == inverse(expected[-1], uniform).item()
    assert [stage.remaining for stage in generation.explanations[0].stages[:3]] == [256, 256, 20]


def test_a_greedy_choice_is_explained_without_a_uniform_number() -> None:
    """No sampler is called after a temperature of 0: one token is left at every stage."""
    best = int(LOGITS.argmax())
    token = generate(samplers=("temperature:value=0", "top-k:k=5"), explain=True, logprobs=0).explanations[0]
    assert (token.id, token.uniform) == (best, None)
    assert [(stage.sampler, stage.remaining) for stage in token.stages] == [
        ("model", 256),
        ("temperature:value=0", 1),
        ("top-k:k=5", 1),
    ]
    assert [(share.id, share.probability) for share in token.stages[2].top] == [(best, 1.0)]


def test_rows_of_a_batch_have_the_reports_of_their_texts_alone() -> None:
    """The logits depend on a row's last id, so that mixed-up rows would be detected."""

    class TableEngine(ConstantEngine):
        table = np.random.default_rng(1).normal(scale=2, size=(256, 256)).astype(np.float32)

        def feed(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
            self.length += ids.shape[1]
            return self.table[ids[:, -1]]

    model = Model(TableEngine(), ByteTokenizer(), "table", Path())  # type: ignore[arg-type]
    texts = model.generate_batch(["a", "xyz", "b"], samples=2, max_new_tokens=6, seed=0, logprobs=2, explain=True)
    for text in texts:
        prompt = bytes(text.prompt).decode()
        alone = model.generate(prompt, row=text.row, max_new_tokens=6, seed=0, logprobs=2, explain=True)
        list(alone)
        assert (text.logprobs, text.explanations) == (alone.logprobs, alone.explanations)
    assert len({text.logprobs[1].logprob for text in texts}) == len(texts)


def test_tokens_that_are_ruled_out_are_not_among_the_likeliest() -> None:
    logprobs = log_softmax(np.array([0.0, -np.inf, 1.0, 0.0], np.float32))
    assert likeliest(logprobs, 10) == [2, 0, 3]
    assert math.fsum(np.exp(logprobs)) == pytest.approx(1)


def test_log_probabilities_on_the_command_line(run_copy: Run, invoke: Cli) -> None:
    command = ["generate", "mine", "--max-new-tokens", 4, "--seed", 0, "--prompt", "The", "--logprobs", 2]
    readable = invoke(*command)
    assert readable.returncode == 0
    assert readable.stdout.count("among") == 4
    printed = json.loads(invoke(*command, "--json").stdout)
    assert [set(token) for token in printed["logprobs"]] == [{"id", "text", "logprob", "drawn_logprob", "alternatives"}] * 4
    assert "explanations" not in printed


def test_explanations_on_the_command_line(run_copy: Run, invoke: Cli) -> None:
    printed = json.loads(invoke("generate", "mine", "--max-new-tokens", 4, "--seed", 0, "--explain").stdout)
    assert [stage["sampler"] for stage in printed["explanations"][3]["stages"]] == ["model", *GenerateConfig().chain]
    assert "logprobs" not in printed
