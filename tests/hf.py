"""A tiny GPT-2 of transformers in a folder, and helpers to change it. `conftest.py` has the fixtures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SHAPE = {"vocab_size": 300, "n_positions": 40, "n_embd": 24, "n_head": 4, "n_layer": 2}
"""The vocabulary has more rows than the tokenizers of the tests have ids, as in many published models."""
TEXTS = ("plain words", "Zoë said: 🙂\n\ttab", " lead", "two  spaces  ", "it's 2024", "")

Weights = dict[str, torch.Tensor]


def save_model(folder: Path) -> None:
    """Save a model with random weights as transformers does, and a tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SHAPE, initializer_range=0.2, bos_token_id=None, eos_token_id=None)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # also biases and norms, which start at 0 and 1
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    save_tokenizer(folder)


def save_tokenizer(folder: Path) -> None:
    """Save a byte-level BPE of 280 tokens as OpenAI does."""
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    texts = ["the cat sat on the mat, it's said; the words are plain words\n"] * 30
    bpe.train_from_iterator(texts, vocab_size=280, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False)
    bpe.save_model(str(folder))


def change_config(folder: Path, **values: Any) -> Path:
    """Change values of config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")
    return folder


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> Path:
    """Replace the weights by what `change` returns for a copy of them."""
    file = folder / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file({name: tensor.contiguous() for name, tensor in change(weights).items()}, file, metadata={"format": "pt"})
    return folder


def without_prefix(weights: Weights) -> Weights:
    """Remove the prefix `transformer.` from the names."""
    return {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}


def with_head(weights: Weights) -> Weights:
    """Store the tied output head too."""
    return weights | {"lm_head.weight": weights["transformer.wte.weight"].clone()}


def greedy_ids(folder: Path, prompt: str, count: int) -> list[int]:
    """Generate greedily with transformers, without the rows of the vocabulary for which the tokenizer has no id."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")
    unused = [*range(len(tokenizer), model.config.vocab_size)] or None
    out = model.generate(
        **ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, suppress_tokens=unused
    )
    return out[0, ids["input_ids"].shape[1] :].tolist()
