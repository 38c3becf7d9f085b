"""The verification of an ONNX export: models that differ from the original fail it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from onnx_files import change_onnx, change_weight
from samples import some_ids

from gpt2demo.config import ModelConfig
from gpt2demo.engines.exported import FORMAT
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import ExportError
from gpt2demo.export.onnx import certificate, continuations, weights
from gpt2demo.export.onnx.weights import convert_weights
from gpt2demo.export.onnx.write import size_and_checksum, write_model
from gpt2demo.model import GPT2
from gpt2demo.runs.weights import load_model
from gpt2demo.storage import write_json
from gpt2demo.tokenization.byte import ByteTokenizer


def test_one_wrong_weight_is_found(export_copy, tiny_checkpoint):
    change_onnx(export_copy, change_weight)
    with pytest.raises(ExportError, match=r"a logit differs by .* the limit is 0\.000"):
        certificate.verify(export_copy, tiny_checkpoint, ByteTokenizer())


def test_a_different_greedy_token_is_reported_with_its_position(export_copy, tiny_checkpoint):
    change_onnx(export_copy, lambda model: change_weight(model, by=30.0))
    original = continuations.greedy(TorchEngine(load_model(tiny_checkpoint)), some_ids(20), 60)
    with pytest.raises(ExportError, match=r"greedy token \d+ is \d+ instead of \d+"):
        continuations.compare_greedy(original, OnnxEngine(export_copy, "cpu"), lambda: load_model(tiny_checkpoint), near_tie=1e-3)


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


def test_the_limit_of_a_logit_is_relative_to_the_largest_one_and_at_most_a_thousandth():
    comparison = certificate.Comparison("prefill")
    comparison.add(np.array([[1, 0.5]], np.float32), np.array([[1, 0.4998]], np.float32))
    assert comparison.violation == "prefill: a logit differs by 0.0002, the limit is 0.0001"
    comparison.add(np.array([[0, 500]], np.float32), np.array([[0, 500]], np.float32))
    assert comparison.limit == pytest.approx(1e-3)
    assert comparison.violation is None


@pytest.fixture(scope="module", params=["int8", "int4"])
def standard_export(request, tmp_path_factory):
    """Write an export of a model with GPT-2's initialization, in which rounding of activations differs between modes."""
    folder = tmp_path_factory.mktemp(request.param)
    shape = ModelConfig(vocab_size=256, n_positions=64, n_embd=256, n_head=4, n_layer=4)
    torch.manual_seed(0)
    model = GPT2(shape).eval()
    write_model(shape, convert_weights(model, request.param), folder / "model.onnx", request.param)
    files = {"model.onnx": size_and_checksum(folder / "model.onnx")}
    about = {"format": FORMAT, "dtype": request.param, "shape": shape.model_dump(), "files": files}
    write_json(folder / "gpt2demo.json", about)
    weights.round_weights(model, request.param)
    return OnnxEngine(folder, "cpu"), partial(certificate.reference_logits, model)


def test_modes_may_differ_by_the_rounding_of_activations(standard_export):
    engine, stored = standard_export
    row = some_ids(engine.n_positions)
    comparisons = certificate.compare_arithmetic(stored, stored, engine, row)
    assert max(comparison.mean_divergence for comparison in comparisons) > 1e-6


def test_a_mode_that_differs_by_more_than_rounding_is_found(standard_export, monkeypatch):
    """The limits for rounded weights would hide it; here, positions are wrong in a padded batch."""
    engine, stored = standard_export
    begin = engine._begin_batch

    def misplaced(rows, padding):
        begin(rows, padding)
        if rows > 1:
            engine._positions += 1

    monkeypatch.setattr(engine, "_begin_batch", misplaced)
    monkeypatch.setitem(certificate.ROUNDED, engine.exported.dtype, (9.0, 9.0))
    row = some_ids(engine.n_positions - 1)
    with pytest.raises(ExportError, match=r"the modes of model\.onnx disagree: 3 padded rows"):
        certificate.compare_arithmetic(stored, stored, engine, row)
