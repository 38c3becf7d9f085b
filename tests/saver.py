"""Helpers for tests that interrupt saving: a model to save, and faults in calls of the os module.

A module of its own, because the tests with strace import it in a child process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint, weights
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.training.optimizers import adamw

CALLS = ("fsync", "rename", "unlink", "mkdir", "open", "rmdir", "replace")
"""Functions of the os module in which faults are injected."""


class Saver:
    """A model with optimizer state, and the folder to save it in.

    Args:
        folder: the run folder; created if it does not exist.
        width: of the model.
    """

    def __init__(self, folder: Path, width: int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.tokenizer = folder / "checkpoints", folder / "tokenizer"
        self.model = GPT2(ModelConfig(n_embd=width, n_layer=1))
        self.optimizer = adamw(self.model, TrainConfig(steps=1))
        self.model(torch.arange(8)[None]).sum().backward()
        self.optimizer.step()
        checkpoint.save_tokenizer(ByteTokenizer(), "byte", self.tokenizer)

    def save(self, step: int) -> None:
        """Write a checkpoint and prune the others."""
        progress = {"step": step, "validation_loss": float(step)}
        weights.save_checkpoint(self.folder, self.model, self.tokenizer, self.optimizer, progress)
        checkpoint.prune(self.folder, 1)

    def newest(self) -> int:
        """Clean up like the next start does, load the newest checkpoint, and return its step."""
        checkpoint.clean(self.folder)
        assert not [path.name for path in self.folder.iterdir() if path.name.startswith(".tmp-")]
        found = checkpoint.newest(self.folder)
        weights.load_model(found.path)
        weights.load_trainer(found.path)
        return found.step


class Fault:
    """Run an action at the n-th of some calls of the os module, and count them all.

    Args:
        at: number of the call, from 1; 0 for none.
        action: kills the process or raises.
    """

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self.count, self.at, self.action = 0, at, action

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Wrap the functions of the os module until the patch is undone."""
        for name in CALLS:
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if original.__name__ == "open" and args[1] & getattr(os, "O_NONBLOCK", 0):  # `storage.open_regular`, a read
                return original(*args, **kwargs)
            self.count += 1
            if self.count == self.at:
                self.action()
            return original(*args, **kwargs)

        return call
