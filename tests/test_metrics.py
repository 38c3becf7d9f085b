"""Losses, perplexity and bits per byte against float64 references and values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from samples import SHAPE

from gpt2demo import metrics
from gpt2demo.model import GPT2


def test_perplexity_of_a_uniform_distribution_is_the_number_of_tokens() -> None:
    assert metrics.perplexity(math.log(256)) == pytest.approx(256)


def test_a_loss_too_large_for_a_float_still_has_a_perplexity() -> None:
    assert math.isfinite(metrics.perplexity(1e6))
    assert metrics.perplexity(1e6) == metrics.perplexity(700)


def test_bits_per_byte_of_a_fair_coin() -> None:
    """Half a nat of ln 2 per token, two tokens per byte: one bit per token, two per byte."""
    assert metrics.bits_per_byte(math.log(2), tokens=200, size=100) == pytest.approx(2.0)


def test_log_softmax_keeps_what_is_ruled_out_and_adds_up_to_one() -> None:
    logits = np.array([[1e4, 1e4, -np.inf], [-3.0, 2.0, 0.5]], np.float32)
    result = metrics.log_softmax(logits)
    assert result.dtype == np.float64
    assert result[0].tolist() == [pytest.approx(-math.log(2)), pytest.approx(-math.log(2)), -np.inf]
    np.testing.assert_allclose(np.exp(result).sum(-1), 1, atol=1e-15)
    expected = torch.from_numpy(logits).double().log_softmax(-1).numpy()
    np.testing.assert_allclose(result[1], expected[1], atol=1e-14)


def test_negative_log_likelihood_equals_a_float64_reference() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 20, (2, 7, 50)).astype(np.float32)
    targets = random.integers(0, 50, (2, 7))
    expected = -np.take_along_axis(metrics.log_softmax(logits), targets[..., None], -1).sum()
    assert metrics.negative_log_likelihood(logits, targets) == pytest.approx(expected, rel=1e-6)


def test_token_losses_are_those_of_each_next_token() -> None:
    """The loss at position t is that of token t + 1, given the tokens up to t."""
    torch.manual_seed(0)
    model = GPT2(SHAPE).eval()
    windows = torch.randint(SHAPE.vocab_size, (3, 9))
    losses = metrics.token_losses(model, windows)
    assert losses.shape == (3, 8)
    for row in range(3):
        for t in range(8):
            logits = model(windows[row : row + 1, : t + 1])[0, -1].double()
            assert losses[row, t].item() == pytest.approx(-logits.log_softmax(-1)[windows[row, t + 1]].item(), abs=1e-5)


def test_padding_has_no_loss() -> None:
    windows = torch.tensor([[1, 2, 3, metrics.PADDING, metrics.PADDING]])
    model = torch.nn.Embedding(5, 5)
    losses = metrics.token_losses(model, windows)
    assert torch.equal(losses[:, :2], metrics.token_losses(model, windows[:, :3]))
    assert losses[:, 2:].tolist() == [[0.0, 0.0]]
    losses.sum().backward()
    assert not model.weight.grad[[0, 3, 4]].any()


def test_token_losses_have_the_gradients_of_the_mean_log_likelihood() -> None:
    logits = torch.randn(2, 5, 11, dtype=torch.float64, requires_grad=True)
    windows = torch.randint(11, (2, 6))
    metrics.token_losses(lambda ids: logits, windows).mean().backward()
    expected = logits.detach().softmax(-1)
    expected.scatter_add_(-1, windows[:, 1:, None], torch.full((2, 5, 1), -1.0, dtype=torch.float64))
    torch.testing.assert_close(logits.grad, expected / 10, atol=1e-6, rtol=1e-5)
