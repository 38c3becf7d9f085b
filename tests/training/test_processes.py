"""A training in two processes equals the training in one: losses, weights, optimizer state and evaluations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from samples import SMALL

from gpt2demo.events import Evaluation, Step
from gpt2demo.runs import checkpoint
from gpt2demo.runs.folder import Run
from gpt2demo.training import prepare_run, train_run
from gpt2demo.training.processes import Group

Values = list[tuple[float, ...]]

SETTINGS: dict[str, Any] = {**SMALL, "threads": 1, "dtype": "fp32", "steps": 6, "eval_every": 3}


def train(run: Run, group: Group, **changes: Any) -> Values:
    """Train a run to its end; return losses and gradient norms of the steps, and losses of the evaluations."""
    values: Values = []
    for event in train_run(run, group=group, **changes):
        if isinstance(event, Step):
            values.append((event.step, event.loss, event.grad_norm))
        elif isinstance(event, Evaluation):
            values.append((event.step, event.train_loss, event.validation_loss))
    return values


def tensors(run: Run) -> dict[str, torch.Tensor]:
    """Return weights and optimizer state of the newest checkpoint."""
    newest = checkpoint.newest(run.checkpoints).path
    return load_file(newest / "model.safetensors") | load_file(newest / "trainer.safetensors")


def copy(run: Run, name: str) -> Run:
    return Run(Path(shutil.copytree(run.path, run.path.parent / name)))


def difference(left: Values, right: Values) -> float:
    """Return the largest relative difference."""
    assert len(left) == len(right)
    return max(abs(a - b) / max(abs(a), 1e-12) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True))


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


CASES: dict[str, tuple[dict[str, Any], float, float]] = {
    "replicas": ({"grad_accumulation": 2}, 0.0, 0.0),
    "replicas, dropout": ({"grad_accumulation": 2, "dropout": 0.1}, 0.0, 0.0),
    "replicas, bf16": ({"grad_accumulation": 2, "dropout": 0.1, "dtype": "bf16"}, 0.0, 0.0),
    "replicas, frozen": ({"grad_accumulation": 2, "freeze_layers": 1, "grad_clip": 0.1}, 0.0, 0.0),
    "replicas, accumulation": ({"grad_accumulation": 4, "batch_size": 4, "dropout": 0.1}, 1e-6, 1e-4),
    "shards": ({"grad_accumulation": 2, "dropout": 0.1, "shard": True, "vocab_size": 257}, 1e-6, 1e-4),
    "shards, frozen": ({"grad_accumulation": 2, "freeze_layers": 1, "grad_clip": 0.1, "shard": True}, 1e-6, 1e-4),
    "shards, accumulation": ({"grad_accumulation": 4, "batch_size": 4, "shard": True}, 1e-6, 1e-4),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(text_file: Path, tmp_path: Path, case: str) -> None:
    settings, loss_limit, weight_limit = CASES[case]
    run = prepare_run(text_file, run="one", **{**SETTINGS, **settings})
    two = copy(run, "two")
    alone = train(run, Group())
    results = on_ranks(tmp_path / "ranks", lambda group: train(two, group))
    print(case, difference(alone, results[0]), largest_difference(tensors(run), tensors(two)))
    assert results[0] == results[1]
    assert difference(alone, results[0]) <= loss_limit
    assert largest_difference(tensors(run), tensors(two)) <= weight_limit
