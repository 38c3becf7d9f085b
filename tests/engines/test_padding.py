"""model.onnx with rows of different lengths, as any program may run it in onnxruntime: padded on the left or on the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from samples import BYTES, some_ids

from gpt2demo.engines.exported import cache_names
from gpt2demo.export.onnx.weights import convert_weights
from gpt2demo.export.onnx.write import write_model
from gpt2demo.model import GPT2
from gpt2demo.runs.weights import load_model

Array = npt.NDArray[Any]
ROWS = [some_ids(20), some_ids(7, seed=1), some_ids(1, seed=2)]
WIDTH = 20
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}  # of logits up to 10; the distance of fp16 values at this size
TYPES = {"fp32": np.float32, "fp16": np.float16}


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> GPT2:
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def graph(model: GPT2, dtype: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp(dtype) / "model.onnx"
    write_model(model.config, convert_weights(model, dtype), file, dtype)
    return file


class Program:
    """Runs a graph with a cache that grows by concatenation."""

    def __init__(self, graph: Path, dtype: str) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        empty = np.zeros((len(ROWS), BYTES.n_head, 0, 8), TYPES[dtype])
        self.past = dict.fromkeys(cache_names("past_key_values", BYTES.n_layer), empty)
        self.mask = np.zeros((len(ROWS), 0), np.int64)

    def read(self, ids: Array, mask: Array, positions: Array) -> Array:
        self.mask = np.concatenate([self.mask, mask], axis=1)
        names = ["logits", *cache_names("present", BYTES.n_layer)]
        fed = {"input_ids": ids, "attention_mask": self.mask, "position_ids": positions, **self.past}
        logits, *present = self.session.run(names, fed)
        self.past = dict(zip(self.past, present, strict=True))
        return np.asarray(logits)


def alone(model: GPT2, row: Array) -> Array:
    """Return the PyTorch model's logits of one text."""
    return model(torch.from_numpy(row)[None]).detach().numpy()[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_has_the_logits_of_its_text_alone(model: GPT2, graph: Path, dtype: str, side: str) -> None:
    program, close = Program(graph, dtype), {"rtol": 0, "atol": TOLERANCE[dtype]}
    spans = [slice(WIDTH - len(row), WIDTH) if side == "left" else slice(0, len(row)) for row in ROWS]
    ids, mask, positions = (np.zeros((len(ROWS), WIDTH), np.int64) for _ in range(3))
    for number, (row, span) in enumerate(zip(ROWS, spans, strict=True)):
        ids[number, span], mask[number, span], positions[number, span] = row, 1, np.arange(len(row))
    logits_of_rows = program.read(ids, mask, positions)
    for row, span, logits in zip(ROWS, spans, logits_of_rows, strict=True):
        np.testing.assert_allclose(logits[span], alone(model, row), **close)
    texts = list(ROWS)
    for new in some_ids(4, len(ROWS), seed=9):
        texts = [np.append(text, index) for text, index in zip(texts, new, strict=True)]
        positions = np.array([[len(text) - 1] for text in texts])
        logits_of_rows = program.read(new[:, None], np.ones((len(ROWS), 1), np.int64), positions)
        for text, logits in zip(texts, logits_of_rows, strict=True):
            np.testing.assert_allclose(logits[0], alone(model, text)[-1], **close)


def test_attention_has_a_bias_in_fp32_but_not_in_fp16(graph: Path, dtype: str) -> None:
    """The kernel for NVIDIA GPUs supports only fp16, without an attention bias, which is the eleventh input."""
    nodes = [node for node in onnx.load(graph).graph.node if node.op_type == "GroupQueryAttention"]
    assert len(nodes) == BYTES.n_layer
    assert all((len(node.input) > 10) == (dtype == "fp32") for node in nodes)
