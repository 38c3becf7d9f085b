"""What both engines guarantee: logits of the model, batches, chunks, limits, and equal text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import BYTES, some_ids

from gpt2demo.config import GenerateConfig
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import SettingError
from gpt2demo.generation.generate import Generation
from gpt2demo.generation.load import load
from gpt2demo.interfaces import Engine
from gpt2demo.runs.weights import load_model
from gpt2demo.tokenization.byte import ByteTokenizer


@pytest.fixture(params=["torch", "onnx"])
def engine(request, tiny_checkpoint, tiny_export) -> Engine:
    return TorchEngine(load_model(tiny_checkpoint)) if request.param == "torch" else OnnxEngine(tiny_export, "cpu")


# ---------------------------------------------------------------------------------------------- each engine


def test_an_engine_reports_its_name_provider_and_sizes(engine):
    assert (engine.name, engine.provider) in {("torch", "cpu"), ("onnx", "CPUExecutionProvider")}
    assert (engine.n_positions, engine.vocab_size) == (48, 256)


def test_logits_are_those_of_the_model(engine, tiny_checkpoint):
    ids = some_ids(1, 30)
    with torch.inference_mode():
        expected = load_model(tiny_checkpoint)(torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(engine.feed(ids), expected[:, -1], atol=1e-3)
    np.testing.assert_allclose(engine.logits(ids), expected, atol=1e-3)
    assert engine.length == 0


def test_chunks_have_the_logits_of_one_pass(engine):
    ids = some_ids(1, BYTES.n_positions)
    whole = engine.feed(ids).copy()
    assert whole.shape == (1, BYTES.vocab_size)
    assert whole.dtype == np.float32
    engine.reset()
    for start, end in [(0, 1), (1, 20), (20, 47), (47, 48)]:
        last = engine.feed(ids[:, start:end])
        assert engine.length == end
    np.testing.assert_allclose(last, whole, atol=1e-4)


def test_reset_empties_the_cache(engine):
    first = engine.feed(some_ids(1, 10)).copy()
    engine.feed(some_ids(1, 3, seed=1))
    engine.reset()
    assert engine.length == 0
    np.testing.assert_array_equal(engine.feed(some_ids(1, 10)), first)


def test_rows_of_a_batch_are_independent(engine):
    ids = some_ids(3, 12)
    engine.feed(ids[:, :11])
    together = engine.feed(ids[:, 11:]).copy()
    for row in range(3):
        engine.reset()
        np.testing.assert_allclose(together[row], engine.feed(ids[row : row + 1])[0], atol=1e-4)


@pytest.mark.parametrize("bad", [-1, 256, 2**40])
def test_ids_outside_the_vocabulary_are_refused(engine, bad):
    with pytest.raises(SettingError, match=f"id {bad} is outside the vocabulary of 256"):
        engine.feed(np.array([[1, bad]]))
    assert engine.length == 0


def test_more_positions_than_the_context_are_refused(engine):
    engine.feed(some_ids(1, 40))
    with pytest.raises(SettingError, match="49 positions"):
        engine.feed(some_ids(1, 9))
    engine.feed(some_ids(1, 8))
    assert engine.length == BYTES.n_positions


@pytest.mark.parametrize("padding", [[0], [-1, 0], [0, 4], [[0], [0]]])
def test_padding_that_does_not_match_the_rows_or_leaves_no_text_is_refused(engine, padding):
    with pytest.raises(SettingError, match="one value for each of 2 rows, from 0 to 3"):
        engine.feed(np.zeros((2, 4), np.int64), np.array(padding))


# ---------------------------------------------------------------------------------------------- both engines


@pytest.mark.parametrize("prompt_length", [1, 40, 47, 48, 60])
def test_greedy_tokens_are_equal_past_the_end_of_the_context(tiny_checkpoint, tiny_export, prompt_length):
    prompt = some_ids(prompt_length).tolist()
    config = GenerateConfig(max_new_tokens=100, temperature=0)
    generated = []
    for engine in (TorchEngine(load_model(tiny_checkpoint)), OnnxEngine(tiny_export, "cpu")):
        generation = Generation(engine, ByteTokenizer(), prompt, config)
        list(generation)
        generated.append(generation.ids)
    assert generated[0] == generated[1]
    assert len(set(generated[0])) > 1


def test_the_same_seed_generates_the_same_text(tiny_checkpoint, tiny_export):
    paths = (tiny_checkpoint, tiny_export)
    texts = ["".join(load(path, device="cpu").generate("Once", max_new_tokens=100, seed=3)) for path in paths]
    assert texts[0] == texts[1]
