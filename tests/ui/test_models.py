"""The models that can be selected, and the pool of loaded models."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
from webpage import make_run

from gpt2demo.runs.folder import Run, runs_dir
from gpt2demo.ui import models
from gpt2demo.ui.models import ModelPool, choices


@pytest.fixture
def small() -> Run:
    """A run named `small` with a checkpoint."""
    return make_run(runs_dir() / "small")


def test_runs_without_a_checkpoint_are_not_listed(small: Run) -> None:
    (runs_dir() / "empty").mkdir()
    Run(runs_dir() / "empty").write_info({})
    assert choices() == [("small", "small")]
    assert models.runs() == ["small"]


def test_a_checkpoint_may_vanish_while_models_are_listed(small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer may remove an old checkpoint between its listing and reading its time."""
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter([folder / "gone"]))
    assert choices() == []


def test_two_answers_at_a_time_take_two_models(small: Run) -> None:
    pool = ModelPool()
    with pool.borrow("small", "auto") as one, pool.borrow("small", "auto") as other:
        assert one is not other


def test_an_idle_model_is_used_again_and_the_least_recently_used_is_dropped(small: Run) -> None:
    pool = ModelPool(size=1)
    with pool.borrow("small", "auto") as last, pool.borrow("small", "auto"):
        pass
    with pool.borrow("small", "auto") as again:
        assert again is last
        with pool.borrow("small", "auto") as loaded:
            assert loaded is not last


def test_a_newer_checkpoint_is_loaded_again(small: Run) -> None:
    pool = ModelPool()
    with pool.borrow("small", "auto") as old:
        pass
    manifest = next(small.checkpoints.glob("step-*/manifest.json"))
    os.utime(manifest, ns=(0, manifest.stat().st_mtime_ns + 1))
    with pool.borrow("small", "auto") as new:
        assert new is not old


def test_warnings_of_gpt2demo_are_passed_on_at_every_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, engine: str) -> object:
        warnings.warn_explicit("older than its run", UserWarning, "f.py", 1, module="gpt2demo.generation.load")
        warnings.warn_explicit("another package's", UserWarning, "f.py", 1, module="torch.nn")
        return object()

    monkeypatch.setattr(models, "load", load)
    received: list[str] = []
    for _ in range(2):
        with ModelPool().borrow("any", "onnx", received.append):
            pass
    assert received == ["older than its run"] * 2
