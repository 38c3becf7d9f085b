"""Cuts a training, resumes it, and compares it with one that was not cut: `gpt2demo train --verify-resume`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from gpt2demo.config import TrainConfig
from gpt2demo.errors import TrainingError
from gpt2demo.runs import checkpoint
from gpt2demo.runs.folder import Run
from gpt2demo.storage import sha256
from gpt2demo.training.events import Step
from gpt2demo.training.train import train_run

STEPS = 12
FILES = ("model.safetensors", "trainer.safetensors")


@dataclass(frozen=True)
class Outcome:
    """What must be the same: every step's loss and gradient norm, and the checksums of weights and optimizer state."""

    losses: list[tuple[int, float, float]]
    checksums: list[str]


def check_resume(run: Run, report: Callable[[str], None], steps: int = STEPS) -> None:
    """Train copies of a prepared run for a few steps: one straight, one cut at a step that the seed chooses and resumed.

    Args:
        run: prepared, not trained yet; it is not changed.
        report: called with the result in one line.
        steps: how many.

    Raises:
        TrainingError: the two differ; says where first.
    """
    seed = TrainConfig.create(**run.info()["train"]).seed
    cut = int(np.random.default_rng(seed).integers(1, steps))
    with TemporaryDirectory(prefix=".tmp-verify-", dir=run.path.parent) as folder:
        straight = _train_copy(run, Path(folder) / "straight", [steps])
        resumed = _train_copy(run, Path(folder) / "resumed", [cut, steps])
    for left, right in zip(straight.losses, resumed.losses, strict=False):
        if left != right:
            raise TrainingError(f"resume is not exact: cut after step {cut}, step {left[0]} differs: {left[1:]} and {right[1:]}")
    if straight != resumed:
        raise TrainingError(f"resume is not exact: cut after step {cut}, the weights or the optimizer's state differ at the end")
    report(f"resume is exact: cut after step {cut} of {steps}, all losses, weights and optimizer state are the same to the bit")


def _train_copy(run: Run, folder: Path, stops: list[int]) -> Outcome:
    """Train a copy of a run from stop to stop, each time from what lies on the disk."""
    copy = Run(Path(shutil.copytree(run.path, folder)))
    losses = []
    for last in stops:
        done = 0
        for event in train_run(copy, lambda: "stopped" if done >= last else None):  # noqa: B023  # used within this pass alone
            if isinstance(event, Step):
                done = event.step
                losses.append((event.step, event.loss, event.grad_norm))
    newest = checkpoint.newest(copy.checkpoints).path
    return Outcome(losses, [sha256(newest / name) for name in FILES])
