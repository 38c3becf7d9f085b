"""Scoring a text: every token but the first is predicted exactly once, with the context that its window has."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from samples import SHAPE

from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import DataError
from gpt2demo.evaluation.score import Score, score
from gpt2demo.model import GPT2

LENGTH = SHAPE.n_positions


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    torch.manual_seed(0)
    return TorchEngine(GPT2(SHAPE.with_changes(initializer_range=0.2)).eval())


class Recorder:
    """An engine that predicts uniformly and records which positions of the text it was asked for."""

    n_positions = 4
    vocab_size = 1000

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        self.seen += ids.tolist()
        return np.zeros((*ids.shape, self.vocab_size), np.float32)


@pytest.mark.parametrize("count", [2, 4, 5, 6, 8, 9, 10, 12, 13, 41])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_token_but_the_first_is_predicted_once(count: int, batch_size: int) -> None:
    """The text is 0, 1, 2 …, so that the window after input i predicts i + 1."""
    recorder = Recorder()
    result = score(recorder, np.arange(count), 7, batch_size=batch_size)  # type: ignore[arg-type]
    assert sorted(i for window in recorder.seen for i in window) == list(range(count - 1))
    assert all(window == list(range(window[0], window[0] + len(window))) for window in recorder.seen)
    assert result == Score(pytest.approx(math.log(1000)), count - 1, 7)


@pytest.mark.parametrize("count", [2, LENGTH, LENGTH + 1, LENGTH + 2, 3 * LENGTH, 3 * LENGTH + 1, 3 * LENGTH + 5])
def test_the_loss_equals_a_float64_reference_at_any_length(engine: TorchEngine, count: int) -> None:
    """The last window may be shorter: its tokens count like all others."""
    ids = np.random.default_rng(count).integers(0, SHAPE.vocab_size, count)
    model = GPT2(SHAPE).double().eval()
    model.load_state_dict(engine.model.state_dict())
    total = 0.0
    with torch.no_grad():
        for start in range(0, count - 1, LENGTH):
            window = torch.from_numpy(ids[start : start + LENGTH + 1])
            logarithms = model(window[None, :-1])[0].log_softmax(-1)
            total -= logarithms.gather(-1, window[1:, None]).sum().item()
    result = score(engine, ids, 100)
    assert result.loss == pytest.approx(total / (count - 1), abs=1e-6)
    assert result.perplexity == pytest.approx(math.exp(total / (count - 1)), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(total / math.log(2) / 100, rel=1e-5)


def test_the_batch_size_changes_nothing(engine: TorchEngine) -> None:
    ids = np.random.default_rng(0).integers(0, SHAPE.vocab_size, 7 * LENGTH + 3)
    losses = [score(engine, ids, 1, batch_size=size).loss for size in (1, 2, 5, 16)]
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_a_text_of_one_token_cannot_be_scored(engine: TorchEngine, count: int) -> None:
    with pytest.raises(DataError, match=f"the text has {count} tokens; at least 2 are needed"):
        score(engine, np.zeros(count, np.int64), 1)
