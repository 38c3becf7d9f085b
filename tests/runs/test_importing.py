"""Importing GPT-2 from Hugging Face: logits equal those of transformers, and unsupported models are refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf import SHAPE, Weights, change_config, change_weights, with_head, without_prefix
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

import gpt2demo
from gpt2demo.errors import CheckpointError, Error, RunError
from gpt2demo.runs.find import PICKLES, list_runs
from gpt2demo.runs.importing import import_model, read_config, read_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def theirs(saved_hf_folder: Path) -> GPT2LMHeadModel:
    return AutoModelForCausalLM.from_pretrained(saved_hf_folder)


def with_masks(weights: Weights) -> Weights:
    """Store the causal masks too, as older files do."""
    for layer in range(2):
        weights[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 40, 40).tril().bool()
        weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return weights


def assert_same_logits(theirs: torch.nn.Module, ours: torch.nn.Module) -> None:
    ids = torch.randint(SHAPE["vocab_size"], (2, SHAPE["n_positions"]), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: folder,
        lambda folder: change_weights(folder, without_prefix),
        lambda folder: change_weights(folder, lambda weights: with_masks(without_prefix(weights))),
        lambda folder: change_weights(folder, with_head),
        lambda folder: change_config(change_weights(folder, with_head), tie_word_embeddings=False),
        lambda folder: change_config(folder, n_inner=96, activation_function="gelu_pytorch_tanh"),
        lambda folder: change_config(folder, reorder_and_upcast_attn=True, activation_function="gelu_fast"),
    ],
    ids=["prefix", "no prefix", "mask buffers", "stored head", "equal head", "synonyms", "upcast attention"],
)
def test_logits_equal_those_of_transformers(theirs: GPT2LMHeadModel, hf_folder: Path, change: Callable[[Path], Path]) -> None:
    import_model(str(change(hf_folder)), run="in", report=lambda line: None)
    assert_same_logits(theirs, gpt2demo.load("in").engine.model)


def test_a_model_in_several_files_is_read(theirs: GPT2LMHeadModel, hf_folder: Path) -> None:
    (hf_folder / "model.safetensors").unlink()
    theirs.save_pretrained(hf_folder, max_shard_size="20KB")
    assert len(list(hf_folder.glob("model-*-of-*.safetensors"))) > 2
    assert_same_logits(theirs, read_model(hf_folder))
    next(hf_folder.glob("model-00002-*")).unlink()
    with pytest.raises(CheckpointError, match="names the part 'model-00002-of-"):
        read_model(hf_folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_converted_exactly(theirs: GPT2LMHeadModel, hf_folder: Path, dtype: torch.dtype) -> None:
    change_weights(hf_folder, lambda weights: {name: tensor.to(dtype) for name, tensor in weights.items()})
    rounded = GPT2LMHeadModel(theirs.config).eval()
    rounded.load_state_dict({name: tensor.to(dtype).float() for name, tensor in theirs.state_dict().items()})
    import_model(str(hf_folder), run="in", report=lambda line: None)
    assert_same_logits(rounded, gpt2demo.load("in").engine.model)


# ---------------------------------------------------------------------------------------------- config.json

PUBLISHED = {  # the published config.json of gpt2; task_specific_params and the summary_ fields have no effect here
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
DISTILLED = {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "n_layer": 6}  # distilgpt2


@pytest.mark.parametrize(("config", "layers"), [(PUBLISHED, 12), (PUBLISHED | DISTILLED, 6)], ids=["gpt2", "distilgpt2"])
def test_published_configs_are_understood(config: dict[str, Any], layers: int) -> None:
    expected = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_head": 12, "n_layer": layers}
    assert read_config(config).model_dump() == {**expected, "dropout": 0.1, "initializer_range": 0.02}


def test_a_config_may_use_other_names_and_omit_defaults() -> None:
    shape = read_config({"model_type": "gpt2", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1})
    assert (shape.n_embd, shape.n_head, shape.n_layer, shape.n_positions, shape.vocab_size) == (32, 2, 1, 1024, 50257)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "gpt_neo"),
        ("scale_attn_by_inverse_layer_idx", True),
        ("scale_attn_weights", False),
        ("n_inner", 100),
        ("activation_function", "gelu"),
        ("activation_function", "relu"),
        ("add_cross_attention", True),
        ("layer_norm_epsilon", 1e-6),
        ("pruned_heads", {"0": [1]}),
        ("quantization_config", {"bits": 4}),
        ("tie_word_embeddings", False),
    ],
)
def test_an_unsupported_variant_is_refused_with_its_option_and_value(hf_folder: Path, name: str, value: Any) -> None:
    with pytest.raises(RunError, match=re.escape(f"{name}={value!r}")) as caught:
        import_model(str(change_config(hf_folder, **{name: value})), report=lambda line: None)
    assert "\n" not in str(caught.value)
    assert not list_runs()


# ---------------------------------------------------------------------------------------------- invalid files


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != f"transformer.{name}"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda weights: with_head(weights) | {"lm_head.weight": torch.zeros(300, 24)}, RunError, "lm_head.weight differs"),
        (lambda weights: weights | {"transformer.wte.weight": torch.zeros(300, 24, dtype=torch.int8)}, RunError, "stored as I8"),
        (lambda weights: weights | {"transformer.ln_f.bias": torch.zeros(25)}, CheckpointError, r"shape \(25,\).*\(24,\)"),
        (lambda weights: weights | {"score.weight": torch.zeros(2, 24)}, CheckpointError, "score.weight is not a weight"),
        (lambda weights: weights | {"ln_f.bias": torch.zeros(24)}, CheckpointError, "stored twice"),
        (without("h.1.attn.c_proj.weight"), CheckpointError, "h.1.attn.c_proj.weight is missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(hf_folder: Path, change: Any, error: type[Error], message: str) -> None:
    with pytest.raises(error, match=message):
        import_model(str(change_weights(hf_folder, change)), report=lambda line: None)
    assert not list_runs()


def test_malicious_files_are_refused_before_memory_is_allocated(hf_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="n_embd"):
        read_model(change_config(hf_folder, n_embd=10**9))
    with pytest.raises(CheckpointError, match="vocab_size"):
        read_model(change_config(hf_folder, n_embd=24, vocab_size="many"))
    (hf_folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_model(change_config(hf_folder, vocab_size=300))
    (hf_folder / "model.safetensors").unlink()
    index = hf_folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"wte.weight": "../secret.safetensors"}}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="names the part"):
        read_model(hf_folder)


@pytest.mark.parametrize("suffix", PICKLES)
def test_a_pickle_is_never_loaded(hf_folder: Path, suffix: str) -> None:
    (hf_folder / "model.safetensors").unlink()
    pickle = hf_folder / f"pytorch_model{suffix}"
    pickle.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    for source in (hf_folder, pickle):
        with pytest.raises(RunError, match=f"pytorch_model{suffix}: is a pickle.*save_pretrained"):
            import_model(str(source), report=lambda line: None)
