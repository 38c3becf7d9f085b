"""Helpers that several tests share: small texts, settings, models and checkpoints, and the type of the `cli` fixtures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

import gpt2demo
from gpt2demo.config import DataConfig, ModelConfig
from gpt2demo.data.corpus import load_corpus
from gpt2demo.errors import DataError
from gpt2demo.events import Event, Step
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
    "eval_every": 6,
    "sample_tokens": 8,
}
"""Settings of a training that takes a second."""

SMALL_OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
"""`SMALL` as options of `gpt2demo train`."""

SHAPE = ModelConfig(vocab_size=97, n_positions=24, n_embd=32, n_head=4, n_layer=2)
"""A model shape with pairwise different sizes."""

BYTES = ModelConfig(vocab_size=256, n_positions=48, n_embd=32, n_head=4, n_layer=2)
"""The default model shape of `save_checkpoint`, with the byte tokenizer's vocabulary."""

TEXT = "".join(f"Line {n}: the quick brown fox jumps over {n % 7} lazy dogs, said Zoë.\n" for n in range(300))
"""Twenty thousand characters of regular text."""


def decided_model(n_positions: int) -> GPT2:
    """Return a model with random weights, scaled so that its text neither repeats one token nor is noise."""
    torch.manual_seed(3)
    gpt2 = GPT2(ModelConfig(n_positions=n_positions, n_embd=32, n_head=2, n_layer=2)).eval()
    with torch.no_grad():
        for parameter in gpt2.h.parameters():
            parameter.mul_(12)
        gpt2.wpe.weight.mul_(50)
    return gpt2


def save_checkpoint(run: Path, *, step: int = 1, shape: ModelConfig = BYTES) -> Path:
    """Save a checkpoint of a tiny model in a run folder. The random weights are large enough for distinct logits."""
    torch.manual_seed(step)
    model = GPT2(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    run.mkdir(exist_ok=True, parents=True)
    checkpoint.save_tokenizer(ByteTokenizer(), "byte", run / "tokenizer")
    optimizer = torch.optim.SGD(model.parameters())
    return weights.save_checkpoint(
        run / "checkpoints", model, run / "tokenizer", optimizer, {"step": step, "validation_loss": None}
    ).path


def some_ids(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random ids of the byte tokenizer's vocabulary."""
    return np.random.default_rng(seed).integers(0, 256, shape)


def reference_tokenizer(stored: dict[str, Any]) -> tokenizers.Tokenizer:
    """Load a parsed tokenizer.json in the `tokenizers` library, without special tokens: it would find them in texts."""
    return tokenizers.Tokenizer.from_str(json.dumps({**stored, "added_tokens": []}))


def read_texts(*paths: object, **settings: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the documents of files, and their sources; the settings are fields of `DataConfig`."""
    corpus = load_corpus([str(path) for path in paths], config=DataConfig.create(**settings))
    return list(corpus.documents), corpus.survey().sources.as_list("")


def read_error(path: object, **settings: Any) -> str:
    """Read a file that is refused, and return the message: one line that starts with the path."""
    with pytest.raises(DataError) as error:
        read_texts(path, **settings)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def train_small(*args: Any, **settings: Any) -> list[Event]:
    """Train a model with the settings of `SMALL`, changed by `settings`, on one thread; return all events."""
    return list(gpt2demo.train(*args, **{**SMALL, "threads": 1, **settings}))


def step_values(events: Iterable[Event]) -> list[tuple[int, float, float, float]]:
    """Return what an equal training repeats exactly in each step: number, loss, learning rate and gradient norm."""
    return [(e.step, e.loss, e.learning_rate, e.grad_norm) for e in events if isinstance(e, Step)]


def take_until(events: Iterator[Event], last: int) -> list[Event]:
    """Take the events up to a step, then close the generator, which saves a checkpoint."""
    taken = []
    for event in events:
        taken.append(event)
        if isinstance(event, Step) and event.step >= last:
            break
    events.close()  # type: ignore[attr-defined]
    return taken


def assert_one_line_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Check that a command has failed with an exit code and a one-line error that contains some words."""
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("gpt2demo: error: ")]
    assert len(errors) == 1, done.stderr
    assert len(errors[0]) <= 500
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]
    assert done.stdout == ""
