"""The files of an ONNX export: graph, weights, certificate and configuration for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from samples import BYTES

from gpt2demo.engines.exported import cache_names, is_export
from gpt2demo.errors import ExportError
from gpt2demo.export.onnx import write
from gpt2demo.export.onnx.summary import summary
from gpt2demo.export.onnx.weights import convert_weights
from gpt2demo.model import GPT2
from gpt2demo.runs.weights import load_model
from gpt2demo.storage import sha256


@pytest.fixture(scope="module")
def model(tiny_export: Path) -> onnx.ModelProto:
    return onnx.load(tiny_export / "model.onnx")


def axes(values) -> dict[str, list[str | int]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_inputs_and_outputs_have_the_names_and_axes_that_other_runtimes_expect(model):
    total = "past_sequence_length + sequence_length"
    assert axes(model.graph.input) == {
        "num_logits_to_keep": [1],  # optional: it has a default value
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", total],
        "position_ids": ["batch_size", "sequence_length"],
        **{name: ["batch_size", 4, "past_sequence_length", 8] for name in cache_names("past_key_values", 2)},
    }
    assert axes(model.graph.output) == {
        "logits": ["batch_size", "sequence_length", 256],
        **{name: ["batch_size", 4, total, 8] for name in cache_names("present", 2)},
    }


def test_the_model_is_valid_onnx(model):
    onnx.checker.check_model(model)


def test_the_file_contains_no_paths_of_the_exporting_machine(tiny_export):
    content = (tiny_export / "model.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path.home()).encode() not in content


def test_weights_keep_their_names_and_values_and_the_tied_head_is_stored_once(model, tiny_checkpoint, tiny_export):
    weights = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    original = load_model(tiny_checkpoint)
    np.testing.assert_array_equal(weights["wte.weight"], original.wte.weight.detach())
    np.testing.assert_array_equal(weights["h.1.attn.c_attn.weight"], original.h[1].attn.c_attn.weight.detach().T)
    assert sum(256 in array.shape for array in weights.values()) == 1
    assert (tiny_export / "model.onnx").stat().st_size < 4 * BYTES.n_parameters + 40_000


def test_the_folder_is_complete(tiny_export):
    names = {path.name for path in tiny_export.iterdir()}
    configs = {"config.json", "generation_config.json", "genai_config.json", "gpt2demo.json"}
    assert names == {"model.onnx", "generate.onnx", "run.py", "tokenizer", "tokenizer.json", "tokenizer_config.json"} | configs
    assert is_export(tiny_export)


def test_the_certificate_contains_source_comparisons_and_checksums(tiny_export, tiny_checkpoint):
    written = json.loads((tiny_export / "gpt2demo.json").read_text())
    modes = {row["way"]: row for row in written["comparisons"]}
    assert {"prefill", "chunked prefill", "single steps", "3 padded rows, single steps"} <= modes.keys()
    assert modes["single steps"]["positions"] == BYTES.n_positions
    assert all(row["largest_difference"] < 1e-4 and row["argmax_agreement"] == 1.0 for row in modes.values())
    assert all(row["kl_divergence"] < 1e-8 for row in modes.values())
    assert written["greedy"]["equal_tokens"] == 200
    assert written["perplexity"]["text"] == "the run's validation text"
    assert written["perplexity"]["onnx"] == pytest.approx(written["perplexity"]["torch"], rel=1e-5)
    assert written["files"]["model.onnx"]["sha256"] == sha256(tiny_export / "model.onnx")
    assert written["tokenizer"] == {"special_tokens_in_text": {}}  # bytes have none
    assert written["source"]["run"] == "tiny"
    assert written["source"]["step"] == 1
    assert written["source"]["sha256"] == sha256(tiny_checkpoint / "model.safetensors")


def test_the_summary_has_a_line_for_each_comparison(tiny_export):
    lines = list(summary(json.loads((tiny_export / "gpt2demo.json").read_text())))
    assert any(line.startswith("prefill") and "100.00%" in line for line in lines)
    assert any(line.startswith("greedy tokens") and "200 of 200 equal" in line for line in lines)


def test_genai_config_sets_every_value_whose_default_would_change_the_text(tiny_export):
    config = json.loads((tiny_export / "genai_config.json").read_text())
    assert config["model"]["type"] == "decoder"  # "gpt2" expects another cache layout
    assert config["model"]["pad_token_id"] == -1  # a valid id at the end of a prompt would be treated as padding
    assert config["model"]["eos_token_id"] == 0xFF  # must be in the vocabulary; UTF-8 never contains this byte
    assert config["model"]["context_length"] == BYTES.n_positions
    assert config["search"]["past_present_share_buffer"] is True  # otherwise the cache is copied for each token
    assert config["search"]["top_k"] == 0  # the default is 50


def test_config_json_leads_transformers_js_to_model_onnx(tiny_export, tiny_checkpoint):
    """Its default file is model_quantized.onnx. The rest is the checkpoint's configuration."""
    config = json.loads((tiny_export / "config.json").read_text())
    assert config.pop("transformers.js_config") == {"dtype": "fp32"}
    assert config == json.loads((tiny_checkpoint / "config.json").read_text())


def test_a_model_too_large_for_one_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "FILE_LIMIT", 1000)
    with pytest.raises(ExportError, match="more than one ONNX file can hold"):
        write.write_model(BYTES, convert_weights(GPT2(BYTES), "fp32"), tmp_path / "model.onnx", "fp32")
    assert list(tmp_path.iterdir()) == []
