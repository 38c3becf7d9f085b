"""Steps of the PyTorch engine with fixed shapes, on the CPU, where they are not captured. `tests/gpu` has them on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import some_ids

from gpt2demo.config import GenerateConfig
from gpt2demo.engines import steps
from gpt2demo.engines.steps import FixedStep, columns_for
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.generation.batch import Batch
from gpt2demo.generation.continuation import Continuation
from gpt2demo.generation.streaming import NoText
from gpt2demo.model import GPT2
from gpt2demo.runs.weights import load_model
from gpt2demo.sampling.chains import create_chain

CLOSE = {"rtol": 0, "atol": 1e-4}  # logits up to 10; attention over more columns adds zeros, which changes the order of sums


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the context of 48 positions need steps of 16, 32 and 48 columns."""
    monkeypatch.setattr(steps, "SHORTEST", 16)


@pytest.fixture
def model(tiny_checkpoint) -> GPT2:
    return load_model(tiny_checkpoint)


def test_a_step_has_the_columns_of_the_next_power_of_two_up_to_the_context() -> None:
    assert [columns_for(length, 48) for length in (1, 16, 17, 32, 33, 48)] == [16, 16, 32, 32, 48, 48]
    assert columns_for(5, 10) == 10


@pytest.mark.parametrize("padding", [None, [0, 7, 11]])
def test_fixed_steps_have_the_logits_of_growing_ones_up_to_the_end_of_the_context(model: GPT2, padding) -> None:
    fixed, growing = TorchEngine(model, fixed_steps=True), TorchEngine(model)
    starts = None if padding is None else np.array(padding)
    ids = some_ids(3, 48)
    for engine in (fixed, growing):
        engine.feed(ids[:, :12], starts)
    for column in ids.T[12:]:
        np.testing.assert_allclose(fixed.feed(column[:, None]), growing.feed(column[:, None]), **CLOSE)
    assert fixed.length == growing.length == 48


def test_memory_of_an_earlier_text_and_of_other_rows_does_not_change_the_logits(model: GPT2) -> None:
    engine = TorchEngine(model, fixed_steps=True)
    for seed, (rows, width) in enumerate([(2, 40), (2, 6), (1, 20), (2, 9)]):
        ids = some_ids(rows, width + 3, seed=seed)
        engine.reset()
        engine.feed(ids[:, :width], np.arange(rows))
        engine.feed(ids[:, width:-1])  # two ids at once after the first
        last = engine.feed(ids[:, -1:])
        reference = TorchEngine(model)
        np.testing.assert_allclose(last, reference.feed(ids, np.arange(rows)), **CLOSE)


def test_a_step_returns_what_the_capture_would_replay(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay repeats the operations on the same memory: each step must read its inputs from there, not from Python."""
    addresses = set()
    forward = GPT2.forward

    def recorded(self, ids, cache, *, positions, mask, **rest):
        if ids.shape[1] == 1:
            addresses.add((ids.data_ptr(), cache._index.data_ptr(), mask.shape))
        return forward(self, ids, cache, positions=positions, mask=mask, **rest)

    engine = TorchEngine(model, fixed_steps=True)
    engine.feed(some_ids(1, 3))
    monkeypatch.setattr(GPT2, "forward", recorded)
    for column in some_ids(1, 10).T:
        engine.feed(column[None])
    assert len(addresses) == 1


def test_a_step_that_cannot_be_captured_grows(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")

    engine, ids = TorchEngine(model, fixed_steps=True), some_ids(2, 9)
    engine.feed(ids[:, :5])
    monkeypatch.setattr(FixedStep, "__call__", refuse)
    for column in ids.T[5:]:
        last = engine.feed(column[:, None])
    np.testing.assert_allclose(last, TorchEngine(model).feed(ids), **CLOSE)
    reason = "the step could not be captured (CUDA error: operation not permitted when stream is capturing)"
    assert engine.eager_reason == reason
    monkeypatch.undo()
    engine.reset()
    np.testing.assert_allclose(engine.feed(ids), TorchEngine(model).feed(ids), **CLOSE)


@pytest.mark.parametrize("chain", [{"temperature": 0}, {"samplers": ["temperature:value=0.9", "top-p:p=0.9"]}])
def test_texts_of_a_batch_are_equal_also_when_the_context_is_full(model: GPT2, chain) -> None:
    config = GenerateConfig.create(max_new_tokens=70, **chain)
    texts = []
    for fixed in (True, False):
        engine = TorchEngine(model, fixed_steps=fixed)
        rows = [
            Continuation(NoText(), ids.tolist(), config, seed=1, row=row, n_positions=48, ends={})
            for row, ids in enumerate([some_ids(5), some_ids(20, seed=1)])
        ]
        batch = Batch(engine, NoText(), rows, config, create_chain(config.chain))
        while batch.running:
            batch.step()
        texts.append([row.ids for row in rows])
        assert any(row.rereads for row in rows)
    assert texts[0] == texts[1]


@torch.no_grad()
def test_a_fixed_step_writes_one_column_of_the_cache(model: GPT2) -> None:
    engine = TorchEngine(model, fixed_steps=True)
    engine.feed(some_ids(1, 4))
    before = [layer.clone() for layer in engine._cache.layers]
    engine.feed(some_ids(1, 1))
    for old, new in zip(before, engine._cache.layers, strict=True):
        changed = (old != new).any(dim=-1)  # (2, B, H, S)
        assert changed[..., 4].all()
        assert not changed[..., [*range(4), *range(5, 48)]].any()
