"""gpt2demo: train a small GPT-2 on your own text, look inside, talk to it, extend it and ship it.

    import gpt2demo

    for event in gpt2demo.train("my.txt", preset="nano", run="mine"):
        print(event)
    model = gpt2demo.load("mine")
    for piece in model.generate("Once upon", max_new_tokens=200, seed=1):
        print(piece, end="")

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
    RunError,
    SettingError,
    TokenizerError,
    TrainingError,
    UserError,
)
from gpt2demo.hookspecs import hookimpl

# The rooms `samplers/` and `tokenizers/` are imported first: importing one binds its name here, which the functions then take.
import gpt2demo.samplers, gpt2demo.tokenizers  # noqa: E401, F401  # isort: skip  # binds the names, see above
from gpt2demo.plugins import samplers, tokenizers  # isort: skip

if TYPE_CHECKING:
    from gpt2demo.generate import load
    from gpt2demo.trainer import train

# Threads that wait for each other spin for a moment and then sleep. Spinning on costs a factor of twenty as soon as something
# else (a browser, a chat beside a training) needs one of the cores; sleeping at once costs a tenth. OpenMP reads this once.
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
    "RunError",
    "SettingError",
    "TokenizerError",
    "TrainConfig",
    "TrainingError",
    "UserError",
    "hookimpl",
    "load",
    "samplers",
    "tokenizers",
    "train",
]

_LAZY = {
    "load": "gpt2demo.generate",
    "train": "gpt2demo.trainer",
}


def __getattr__(name: str) -> Any:
    """Import the heavy names at their first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'gpt2demo' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
