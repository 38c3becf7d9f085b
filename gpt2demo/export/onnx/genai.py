"""Write genai_config.json, the configuration that onnxruntime-genai needs to run an export.

Checked with onnxruntime-genai 0.18. All search settings are written, because some defaults change the output (a missing top_k
means 50).
"""

from __future__ import annotations

from typing import Any

from gpt2demo.config import ModelConfig
from gpt2demo.engines.exported import head_dim

PAD = -1
"""genai silently treats ids equal to the pad id at the end of a prompt as padding, so this must not be a valid id."""


def genai_config(config: ModelConfig, eos_id: int | None) -> dict[str, Any]:
    """Return the content of genai_config.json.

    Args:
        config: the model's shape.
        eos_id: the tokenizer's end-of-text id, or None. genai requires one in the vocabulary. Without one the last id is used:
            byte 0xFF for the byte tokenizer, which UTF-8 never contains, and the rarest token or highest character elsewhere.
    """
    end = config.vocab_size - 1 if eos_id is None else eos_id
    return {
        "model": {
            "type": "decoder",  # genai's "gpt2" expects keys and values in one tensor
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": PAD,
            "vocab_size": config.vocab_size,
            "context_length": config.n_positions,
            "decoder": _decoder(config),
        },
        "search": _search(config),
    }


def _decoder(config: ModelConfig) -> dict[str, Any]:
    """Return the file name, sizes, and input and output names of the graph."""
    past = {f"past_{part}_names": f"past_key_values.%d.{part}" for part in ("key", "value")}
    present = {f"present_{part}_names": f"present.%d.{part}" for part in ("key", "value")}
    return {
        "filename": "model.onnx",
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_head,
        "head_size": head_dim(config),
        "session_options": {"provider_options": []},
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids", **past},
        "outputs": {"logits": "logits", **present},
    }


def _search(config: ModelConfig) -> dict[str, Any]:
    """Return the search settings: greedy, with every optional change of the distribution turned off."""
    return {
        "do_sample": False,
        "min_length": 0,
        "max_length": config.n_positions,
        "batch_size": 1,
        "num_beams": 1,
        "num_return_sequences": 1,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "diversity_penalty": 0.0,
        "no_repeat_ngram_size": 0,
        "early_stopping": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "random_seed": -1,
        "past_present_share_buffer": True,  # otherwise genai copies the cache for each token
    }
