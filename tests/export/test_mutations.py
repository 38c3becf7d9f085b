"""An export whose graph or weights have a plausible error fails its verification, whatever the dtype of the weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_files import change_onnx
from samples import BYTES

from gpt2demo.engines.exported import CERTIFICATE
from gpt2demo.errors import ExportError
from gpt2demo.export.onnx import certificate
from gpt2demo.export.onnx.certificate import verify
from gpt2demo.export.onnx.weights import convert_weights
from gpt2demo.export.onnx.write import origin_and_files, write_model
from gpt2demo.runs.weights import load_model
from gpt2demo.storage import write_json
from gpt2demo.tokenization.byte import ByteTokenizer

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8", "int4"])
def export(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an export of `tiny_checkpoint` in each dtype, with model.onnx but without generate.onnx."""
    folder = tmp_path_factory.mktemp(request.param)
    write_model(BYTES, convert_weights(load_model(tiny_checkpoint), request.param), folder / "model.onnx", request.param)
    write_json(folder / CERTIFICATE, origin_and_files(tiny_checkpoint, folder, BYTES, request.param, []))
    return folder


def inserted(model: onnx.ModelProto, name: str, operator: str, constant: np.ndarray, **attributes: int) -> None:
    """Replace an input of the graph, wherever it is used, by `operator(input, constant)`."""
    for node in model.graph.node:
        node.input[:] = [f"{name}.changed" if used == name else used for used in node.input]
    model.graph.initializer.append(numpy_helper.from_array(constant, f"{name}.constant"))
    node = helper.make_node(operator, [name, f"{name}.constant"], [f"{name}.changed"], **attributes)
    model.graph.node.insert(0, node)


def ignore_the_mask(model: onnx.ModelProto) -> None:
    """Treat padding as tokens."""
    inserted(model, "attention_mask", "Max", np.array(1, np.int64))


def shift_the_positions(model: onnx.ModelProto) -> None:
    """Use the embedding of the previous position, and that of the first position twice."""
    inserted(model, "position_ids", "Sub", np.array(1, np.int64))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "zero"))
    model.graph.node[0].output[0] = "shifted"
    model.graph.node.insert(1, helper.make_node("Max", ["shifted", "zero"], ["position_ids.changed"]))


def swap_two_heads_in_the_cache(model: onnx.ModelProto) -> None:
    """Read the keys of the first layer's first head for the second one and vice versa."""
    inserted(model, "past_key_values.0.key", "Gather", np.array([1, 0, 2, 3]), axis=1)


def scale_a_matrix(model: onnx.ModelProto) -> None:
    """Make a weight matrix 5 % larger; that of attention's result changes the logits least."""
    names = ("h.0.attn.c_proj.weight", "h.0.attn.c_proj.weight.scales")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name in names)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * 1.05).astype(values.dtype), tensor.name))


def omit_a_bias(model: onnx.ModelProto) -> None:
    """Replace a bias by zeros."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "h.1.mlp.c_fc.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))


def change_an_epsilon(model: onnx.ModelProto) -> None:
    """Use 1e-3 instead of 1e-5 in the last layer norm."""
    node = [node for node in model.graph.node if node.op_type == "SkipLayerNormalization"][-1]
    next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = 1e-3


MUTATIONS = [ignore_the_mask, shift_the_positions, swap_two_heads_in_the_cache, scale_a_matrix, omit_a_bias, change_an_epsilon]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_an_error_in_the_graph_or_the_weights_is_found(
    export: Path, tmp_path: Path, tiny_checkpoint: Path, mutation: Change
) -> None:
    copy = Path(shutil.copytree(export, tmp_path / "copy"))
    change_onnx(copy, mutation)
    with pytest.raises(ExportError, match=r"^model\.onnx"):
        verify(copy, tiny_checkpoint, ByteTokenizer())


def test_the_unchanged_export_passes(export: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "compare_sampled", lambda *args: {})  # there is no generate.onnx
    verify(export, tiny_checkpoint, ByteTokenizer())
