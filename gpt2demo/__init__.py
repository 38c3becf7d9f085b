"""gpt2demo: train a small GPT-2 on your own text, look inside, talk to it, extend it and ship it.

    import gpt2demo

    for event in gpt2demo.train("my.txt", preset="nano", run="mine"):
        print(event)
    model = gpt2demo.load("mine")
    for piece in model.generate("Once upon", max_new_tokens=200, seed=1):
        print(piece, end="")
    gpt2demo.Run("mine").losses()

The import is light: torch comes with the first use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from gpt2demo.config import DataConfig, GenerateConfig, ModelConfig, TrainConfig
from gpt2demo.errors import (
    CheckpointError,
    DataError,
    Error,
    ExportError,
    PluginError,
    PluginFailure,
    RunError,
    SettingError,
    TokenizerError,
    TrainingError,
    UserError,
)
from gpt2demo.hookspecs import hookimpl
from gpt2demo.plugins import samplers, tokenizers

if TYPE_CHECKING:
    from gpt2demo import events  # noqa: F401  # an attribute that `__getattr__` imports
    from gpt2demo.api import Run, list_runs
    from gpt2demo.evaluation.score import evaluate
    from gpt2demo.generation.load import load
    from gpt2demo.training.train import train

# OpenMP's threads spin briefly and then sleep. Spinning on would cost a factor of twenty as soon as another process (a browser, a
# chat beside a training) needs a core; sleeping at once costs a tenth. OpenMP reads this once, so it is set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "DataConfig",
    "DataError",
    "Error",
    "ExportError",
    "GenerateConfig",
    "ModelConfig",
    "PluginError",
    "PluginFailure",
    "Run",
    "RunError",
    "SettingError",
    "TokenizerError",
    "TrainConfig",
    "TrainingError",
    "UserError",
    "evaluate",
    "hookimpl",
    "list_runs",
    "load",
    "samplers",
    "tokenizers",
    "train",
]

_LAZY = {
    "Run": "gpt2demo.api",
    "evaluate": "gpt2demo.evaluation.score",
    "list_runs": "gpt2demo.api",
    "load": "gpt2demo.generation.load",
    "train": "gpt2demo.training.train",
}


def __getattr__(name: str) -> Any:
    """Import the heavy names, and `events`, at their first use (PEP 562)."""
    if name == "events":
        return importlib.import_module("gpt2demo.events")
    if name not in _LAZY:
        raise AttributeError(f"module 'gpt2demo' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
