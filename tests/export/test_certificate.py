"""The verification of an ONNX export: models that differ from the original fail it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_files import change_onnx, change_weight
from samples import some_ids

from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.errors import ExportError
from gpt2demo.export.onnx import certificate, continuations
from gpt2demo.runs.weights import load_model
from gpt2demo.tokenization.byte import ByteTokenizer


def test_one_wrong_weight_is_found(export_copy, tiny_checkpoint):
    change_onnx(export_copy, change_weight)
    with pytest.raises(ExportError, match=r"a logit differs by .* the limit is 0\.001"):
        certificate.verify(load_model(tiny_checkpoint), export_copy, tiny_checkpoint, ByteTokenizer())


def test_a_different_greedy_token_is_reported_with_its_position(export_copy, tiny_checkpoint):
    change_onnx(export_copy, lambda model: change_weight(model, by=30.0))
    with pytest.raises(ExportError, match=r"greedy token \d+ is \d+ instead of \d+"):
        continuations.compare_greedy(load_model(tiny_checkpoint), OnnxEngine(export_copy, "cpu"), some_ids(20), near_tie=1e-3)


def test_nan_exceeds_every_limit():
    comparison = certificate.Comparison("prefill")
    comparison.add(np.ones((2, 3), np.float32), np.array([[1, np.nan, 1], [1, 1, 1]], np.float32))
    comparison.add(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    assert "differs by nan" in (comparison.violation or "")


def test_the_loss_of_a_long_text_is_the_sum_over_its_positions():
    logits = np.random.default_rng(0).normal(size=(150, 7)).astype(np.float32)
    targets = np.arange(150) % 7
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[np.arange(150), targets]).sum()
    assert certificate.total_loss(logits, targets) == pytest.approx(expected, rel=1e-5)


def test_modes_that_disagree_are_found_in_a_graph_with_rounded_weights(export_copy, monkeypatch):
    """The limits for rounded weights would hide an error in one mode, here padding that is not masked."""
    engine = OnnxEngine(export_copy, "cpu")
    ids = np.arange(engine.n_positions) % engine.vocab_size
    certificate.check_consistency(engine, ids)
    begin = engine._begin_batch
    monkeypatch.setattr(engine, "_begin_batch", lambda rows, padding: begin(rows, None))
    with pytest.raises(ExportError, match=r"the modes of model\.onnx disagree: 3 padded rows"):
        certificate.check_consistency(engine, ids)
