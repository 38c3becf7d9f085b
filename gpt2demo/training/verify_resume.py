"""Check that an interrupted and resumed training equals an uninterrupted one: `gpt2demo train --verify-resume`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.data.windows import open_windows
from gpt2demo.errors import TrainingError
from gpt2demo.runs import checkpoint
from gpt2demo.runs.folder import Run
from gpt2demo.storage import sha256, temporary_folder
from gpt2demo.training.events import Step
from gpt2demo.training.schedule import total_steps
from gpt2demo.training.train import train_run

STEPS = 12
FILES = ("model.safetensors", "trainer.safetensors")


@dataclass(frozen=True)
class Outcome:
    """Result of a training: step, loss and gradient norm of every step, and the checksums of weights and optimizer state."""

    losses: list[tuple[int, float, float]]
    checksums: list[str]


def check_resume(run: Run, report: Callable[[str], None], steps: int = STEPS) -> None:
    """Train two copies of a prepared run for a few steps, one of them interrupted and resumed, and compare them.

    The seed determines the step of the interruption. The run itself is not changed. The copies of a shorter run have more steps.

    Args:
        run: prepared, not trained yet.
        report: called with the result in one line.
        steps: number of steps.

    Raises:
        TrainingError: the copies differ; the message names the first difference.
    """
    info = run.info()
    config, model = TrainConfig.create(**info["train"]), ModelConfig.create(**info["model"])
    seed = config.seed
    windows = open_windows(run.data, "train", model, config)
    length: dict[str, Any] = {"steps": steps} if total_steps(config, windows.per_epoch) < steps else {}
    cut = int(np.random.default_rng(seed).integers(1, steps))
    different = f"resume is not exact: interrupted after step {cut}"
    with temporary_folder(run.path) as folder:
        uninterrupted = _train_copy(run, folder / "uninterrupted", [steps], length)
        resumed = _train_copy(run, folder / "resumed", [cut, steps], length)
    for left, right in zip(uninterrupted.losses, resumed.losses, strict=False):
        if left != right:
            raise TrainingError(f"{different}, step {left[0]} differs: {left[1:]} and {right[1:]}")
    if uninterrupted != resumed:
        raise TrainingError(f"{different}, the final weights or optimizer states differ")
    report(f"resume is exact: interrupted after step {cut} of {steps}, losses, weights and optimizer state are identical")


def _train_copy(run: Run, folder: Path, stops: list[int], length: dict[str, Any]) -> Outcome:
    """Train a copy of a run up to each of the steps, every time from the files on disk."""
    copy = Run(Path(shutil.copytree(run.path, folder)))
    losses = []
    for last in stops:
        done = 0
        # Ruff's B023 does not apply: the function is called only in this iteration.
        for event in train_run(copy, lambda: "stopped" if done >= last else None, **length):  # noqa: B023
            if isinstance(event, Step):
                done = event.step
                losses.append((event.step, event.loss, event.grad_norm))
    newest = checkpoint.newest(copy.checkpoints).path
    return Outcome(losses, [sha256(newest / name) for name in FILES])
