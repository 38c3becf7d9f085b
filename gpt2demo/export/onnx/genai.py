"""genai_config.json: what onnxruntime-genai wants to know of an exported model.

The names and traps come from reading and running onnxruntime-genai 0.18: every value is written out, because the defaults of
the search are not neutral (top_k is 50 when it is left out).
"""

from __future__ import annotations

from typing import Any

from gpt2demo.config import ModelConfig
from gpt2demo.engines.exported import head_dim

PAD = -1
"""genai takes an id that equals the pad id at a prompt's end for padding, without a word; so it must be no id of the text."""


def genai_config(config: ModelConfig, eos_id: int | None) -> dict[str, Any]:
    """The content of genai_config.json.

    Args:
        config: the model's shape.
        eos_id: the tokenizer's end-of-text id. genai insists on one in the vocabulary; where the tokenizer has none it is
            told the last id: 0xFF for bytes, which UTF-8 never has, and the rarest piece or highest character elsewhere.
    """
    end = config.vocab_size - 1 if eos_id is None else eos_id
    return {
        "model": {
            "type": "decoder",  # its "gpt2" wants keys and values in one tensor
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
    """The graph's file, sizes and names."""
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
    """Greedy unless the caller asks for more; all values stand here."""
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
        "past_present_share_buffer": True,  # the graph writes into the past that it is given; else it is copied for each token
    }
