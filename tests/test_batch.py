"""Batches: a row of a batch is the text that it would be alone, whatever its neighbours are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt2demo.config import ModelConfig
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import SettingError
from gpt2demo.model import GPT2

CONTEXT = 16


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    torch.manual_seed(3)
    gpt2 = GPT2(ModelConfig(n_positions=CONTEXT, n_embd=32, n_head=2, n_layer=2)).eval()
    with torch.no_grad():
        for parameter in gpt2.h.parameters():
            parameter.mul_(12)  # decided enough that a text neither repeats one token nor is mere noise
        gpt2.wpe.weight.mul_(50)
    return TorchEngine(gpt2)


@pytest.mark.parametrize("filler", [0, 255])
def test_a_padded_row_has_the_logits_of_its_text_alone(engine: TorchEngine, filler: int) -> None:
    """In the first pass, in one of several positions and in single steps; whatever the padding holds."""
    ids = np.random.default_rng(0).integers(0, 256, (3, 9))
    padding = np.array([0, 2, 4])
    for row, count in enumerate(padding):
        ids[row, :count] = filler
    engine.reset()
    found = [engine.feed(ids[:, :5], padding), *(engine.feed(ids[:, a:b]) for a, b in ((5, 7), (7, 8), (8, 9)))]
    for row, count in enumerate(padding):
        alone = engine.logits(ids[row : row + 1, count:])[0]
        for logits, end in zip(found, (5, 7, 8, 9), strict=True):
            np.testing.assert_allclose(logits[row], alone[end - count - 1], atol=2e-5)


def test_padding_is_forgotten_with_the_cache(engine: TorchEngine) -> None:
    ids = np.arange(8).reshape(2, 4)
    engine.reset()
    plain = engine.feed(ids)
    engine.reset()
    assert not np.allclose(engine.feed(ids, np.array([1, 2])), plain)
    engine.reset()
    np.testing.assert_array_equal(engine.feed(ids), plain)


@pytest.mark.parametrize("padding", [[0], [-1, 0], [0, 4], [[0], [0]]])
def test_padding_that_leaves_no_text_or_has_no_row_is_refused(engine: TorchEngine, padding: list[int]) -> None:
    engine.reset()
    with pytest.raises(SettingError, match="each of 2 rows, from 0 to 3"):
        engine.feed(np.zeros((2, 4), np.int64), np.array(padding))


def test_padding_comes_first(engine: TorchEngine) -> None:
    engine.reset()
    engine.feed(np.zeros((1, 4), np.int64))
    with pytest.raises(SettingError, match="behind 4 positions"):
        engine.feed(np.zeros((1, 4), np.int64), np.array([1]))
