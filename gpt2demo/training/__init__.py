"""Training: prepare a run, train it as a generator of events, resume it, in this process or in the background."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpt2demo.training.events import Event, StopRequest

if TYPE_CHECKING:
    from gpt2demo.training.prepare import prepare_run
    from gpt2demo.training.train import resume, train_run
    from gpt2demo.training.verify_resume import check_resume

__all__ = ["Event", "StopRequest", "check_resume", "prepare_run", "resume", "train_run"]

_LAZY = {
    "check_resume": "gpt2demo.training.verify_resume",
    "prepare_run": "gpt2demo.training.prepare",
    "resume": "gpt2demo.training.train",
    "train_run": "gpt2demo.training.train",
}


def __getattr__(name: str) -> Any:
    """Import the names that need torch at their first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
