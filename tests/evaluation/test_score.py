"""Scoring a text: every token but the first is predicted exactly once, with as much context as the stride allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from samples import SHAPE

from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import DataError, SettingError
from gpt2demo.evaluation import score as module
from gpt2demo.evaluation.score import batches, score
from gpt2demo.metrics import ranks
from gpt2demo.model import GPT2

LENGTH = SHAPE.n_positions
COUNTS = [2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 41]


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    torch.manual_seed(0)
    return TorchEngine(GPT2(SHAPE.with_changes(initializer_range=0.2)).eval())


def some_ids(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, SHAPE.vocab_size, count)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_every_token_but_the_first_is_predicted_once(count: int, batch_size: int, stride: int) -> None:
    """The text is 0, 1, 2 …, so that the target after input i is i + 1."""
    predicted = []
    for windows, known in batches(np.arange(count), 4, stride, batch_size):
        assert len(windows) <= batch_size
        assert (np.diff(windows) == 1).all()
        predicted += windows[:, known + 1 :].flatten().tolist()
    assert predicted == list(range(1, count))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_every_prediction_has_the_context_that_the_stride_promises(count: int, stride: int) -> None:
    for windows, known in batches(np.arange(count), 4, stride, 2):
        for window in windows:
            first_target, context = window[known + 1], known + 1
            assert context >= min(first_target, 4 - stride + 1)


@pytest.mark.parametrize("count", [2, LENGTH, LENGTH + 1, LENGTH + 2, 3 * LENGTH, 3 * LENGTH + 5])
@pytest.mark.parametrize("stride", [1, 5, LENGTH])
def test_the_loss_equals_a_float64_reference(engine: TorchEngine, count: int, stride: int) -> None:
    ids = some_ids(count)
    model = GPT2(SHAPE).double().eval()
    model.load_state_dict(engine.model.state_dict())
    losses = np.zeros(count)
    with torch.no_grad():
        for start in [*range(0, max(1, count - LENGTH), stride), max(0, count - 1 - LENGTH)]:
            window = torch.from_numpy(ids[start : start + LENGTH + 1])
            bits = -model(window[None, :-1])[0].log_softmax(-1).gather(-1, window[1:, None])[:, 0].numpy()
            new = losses[start + 1 : start + len(window)] == 0
            losses[start + 1 : start + len(window)][new] = bits[new]
    result = score(engine, ids, 100, 80, stride=stride)
    assert result.loss == pytest.approx(losses.sum() / (count - 1), abs=1e-6)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(losses.sum() / math.log(2) / 100, rel=1e-5)
    assert result.bits_per_character == pytest.approx(losses.sum() / math.log(2) / 80, rel=1e-5)
    assert (result.tokens, result.stride) == (count - 1, stride)


def test_accuracy_counts_targets_among_the_most_likely_tokens(engine: TorchEngine) -> None:
    ids = some_ids(LENGTH + 1)
    logits = engine.logits(ids[None, :-1])[0]
    order = np.argsort(-logits, axis=-1, kind="stable")
    result = score(engine, ids, 1)
    assert result.top1 == np.mean(order[:, 0] == ids[1:])
    assert result.top5 == np.mean((order[:, :5] == ids[1:, None]).any(-1))
    likely = np.concatenate([ids[:1], order[:1, 0]])
    assert (score(engine, likely, 1).top1, score(engine, likely, 1).top5) == (1.0, 1.0)


def test_ranks_count_the_more_likely_tokens() -> None:
    logits = np.array([[0.0, 3.0, 1.0, 3.0]], np.float32)
    found = [int(ranks(logits, np.array([target]))[0]) for target in range(4)]
    assert found == [3, 0, 2, 1]


def test_the_batch_size_does_not_change_the_result(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = some_ids(7 * LENGTH + 3)
    losses = [score(engine, ids, 1, batch_size=size).loss for size in (1, 2, 5, 16)]
    monkeypatch.setattr(module, "LOGITS_BYTES", 1)  # one window per batch
    losses.append(score(engine, ids, 1).loss)
    assert losses == pytest.approx([losses[0]] * 5, abs=1e-6)


def test_the_default_stride_is_half_the_context(engine: TorchEngine) -> None:
    ids = some_ids(5 * LENGTH)
    assert score(engine, ids, 1) == score(engine, ids, 1, stride=LENGTH // 2)


@pytest.mark.parametrize("count", [0, 1])
def test_a_text_of_one_token_cannot_be_scored(engine: TorchEngine, count: int) -> None:
    with pytest.raises(DataError, match=f"the text has {count} tokens; at least 2 are needed"):
        score(engine, np.zeros(count, np.int64), 1)


def test_a_stride_longer_than_the_context_is_refused(engine: TorchEngine) -> None:
    with pytest.raises(SettingError, match=f"stride={LENGTH + 1}: larger than the model's context of {LENGTH} tokens"):
        score(engine, some_ids(10), 1, stride=LENGTH + 1)
