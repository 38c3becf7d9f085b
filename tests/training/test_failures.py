"""A training that cannot continue stops before it changes the weights, and suggests other settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import SMALL, train_small

import gpt2demo
from gpt2demo.errors import TrainingError
from gpt2demo.events import Step
from gpt2demo.runs import checkpoint, weights
from gpt2demo.runs.find import find_run
from gpt2demo.training.step import OptimizerStep


def newest_step_with_finite_weights(name: str) -> int:
    """Return the step of a run's newest checkpoint, after checking that its weights are finite."""
    newest = checkpoint.newest(find_run(name).checkpoints)
    assert all(torch.isfinite(tensor).all() for tensor in weights.load_model(newest.path).state_dict().values())
    return newest.step


def test_divergence_stops_the_run_and_is_recorded(text_file: Path) -> None:
    settings = {"learning_rate": 1e3, "grad_clip": 0, "schedule": "constant", "save_every": 1, "steps": 400}
    with pytest.raises(TrainingError, match=r"step \d+: loss .*learning-rate"):
        train_small(text_file, run="a", **settings)
    assert find_run("a").state().status == "failed"
    assert find_run("a").state().error
    assert newest_step_with_finite_weights("a")


@pytest.mark.parametrize(("source", "saved"), [("loss", 4), ("gradient", 4), ("weight", 2)])
def test_a_nan_stops_the_run_before_the_update(text_file: Path, source: str, saved: int) -> None:
    """A NaN in a weight is found by the evaluation before the checkpoint of step 4 is written."""
    events = gpt2demo.train(text_file, run="a", save_every=2, **{**SMALL, "eval_every": 1, "sample_tokens": 0})
    with pytest.raises(TrainingError, match="step [45]: .*--learning-rate"):
        for event in events:
            if isinstance(event, Step) and event.step == 4:
                inject(events, source)
    assert newest_step_with_finite_weights("a") == saved


def inject(events: Iterator[Any], source: str) -> None:
    """Put a NaN or infinity into the running training."""
    generator: Any = events
    while "training" not in generator.gi_frame.f_locals:
        generator = generator.gi_yieldfrom or generator.gi_frame.f_locals["events"]
    training = generator.gi_frame.f_locals["training"]
    parameter = training.model.h[0].attn.c_attn.weight
    if source == "weight":
        parameter.data[0, 0] = float("nan")
    elif source == "gradient":
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    else:
        loss = training.optimizer_step._mean_loss
        training.optimizer_step._mean_loss = lambda windows: loss(windows) * float("nan")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_out_of_memory_names_the_sizes_and_smaller_ones(
    text_file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(OptimizerStep, "_take", fail)
    expected = "8 sequences of 32 positions and .* parameters; try --batch-size 4 --grad-accumulation 2"
    with pytest.raises(TrainingError, match=expected):
        train_small(text_file, run="a")
