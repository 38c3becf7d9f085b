"""What tests of several packages share: small texts, settings, models and checkpoints, and the type of the `cli` fixture."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2demo.config import ModelConfig
from gpt2demo.data.sources import read_file
from gpt2demo.errors import DataError
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint, weights
from gpt2demo.tokenization.byte import ByteTokenizer

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

SMALL = {
    "tokenizer": "byte",
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "n_positions": 32,
    "batch_size": 8,
    "steps": 12,
    "eval_batches": 2,
}
"""Settings of a training that takes a second."""

SHAPE = ModelConfig(vocab_size=97, n_positions=24, n_embd=32, n_head=4, n_layer=2)
"""A shape in which no two sizes are equal."""

BYTES = ModelConfig(vocab_size=256, n_positions=48, n_embd=32, n_head=4, n_layer=2)
"""The shape of `save_checkpoint`, with the vocabulary of the byte tokenizer."""

TEXT = "".join(f"Line {n}: the quick brown fox jumps over {n % 7} lazy dogs, said Zoë.\n" for n in range(300))
"""Twenty thousand characters of text with some structure."""


def decided_model(n_positions: int) -> GPT2:
    """A model with random weights that are large enough for text that neither repeats one token nor is noise."""
    torch.manual_seed(3)
    gpt2 = GPT2(ModelConfig(n_positions=n_positions, n_embd=32, n_head=2, n_layer=2)).eval()
    with torch.no_grad():
        for parameter in gpt2.h.parameters():
            parameter.mul_(12)
        gpt2.wpe.weight.mul_(50)
    return gpt2


def save_checkpoint(run: Path, *, step: int = 1, shape: ModelConfig = BYTES) -> Path:
    """Save a checkpoint of a tiny model in a run's folder. Its weights are random, and large enough for distinct logits."""
    torch.manual_seed(step)
    model = GPT2(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    run.mkdir(exist_ok=True, parents=True)
    checkpoint.save_tokenizer(ByteTokenizer(), "byte", run / "tokenizer")
    optimizer = torch.optim.SGD(model.parameters())
    return weights.save(run / "checkpoints", model, run / "tokenizer", optimizer, {"step": step, "validation_loss": None}).path


def some_ids(*shape: int, seed: int = 0) -> np.ndarray:
    """Random ids of the byte tokenizer's vocabulary."""
    return np.random.default_rng(seed).integers(0, 256, shape)


def read_error(path: object, **options: str) -> str:
    """Read a file that is refused, and return the message: one line that starts with the path."""
    with pytest.raises(DataError) as error:
        read_file(str(path), **options)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message
