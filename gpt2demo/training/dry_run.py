"""What a training would do: the text is read and a few steps are measured, but no run is created."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.data.windows import open_windows
from gpt2demo.runs.folder import Run, refuse_taken, runs_dir
from gpt2demo.storage import temporary_folder
from gpt2demo.training.fit import Estimate, estimate
from gpt2demo.training.prepare import fill_run, plan_run


def dry_run(data: str | Path | Sequence[str | Path] = (), *, run: str | None = None, **settings: Any) -> Estimate:
    """Return what `gpt2demo.train` with the same arguments would need. Nothing is left behind, except the store of a large text.

    Raises:
        UserError: a setting, the data or the name is invalid.
        TrainingError: a step failed.
    """
    refuse_taken(run)
    plan = plan_run(data, **settings)
    existed = runs_dir().exists()
    with temporary_folder(runs_dir() / "dry-run") as folder:
        info = fill_run(plan, Run(folder))
        model, train = ModelConfig.create(**info["model"]), TrainConfig.create(**info["train"])
        windows = open_windows(Run(folder).data, "train", model, train).per_epoch
    if not existed:
        with suppress(OSError):  # a store is in it
            runs_dir().rmdir()
    return estimate(model, train, windows, plan.processes)
