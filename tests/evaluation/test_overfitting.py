"""The step since which a run overfits."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2demo.evaluation.overfitting import overfitting_since


def records(train: list[float], validation: list[float]) -> list[dict[str, Any]]:
    """Return metrics with an evaluation every 10 steps."""
    steps = range(10, 10 * len(train) + 1, 10)
    lines = [{"step": step, "split": "train", "loss": loss} for step, loss in zip(steps, train, strict=True)]
    lines += [{"step": step, "split": "validation", "loss": loss} for step, loss in zip(steps, validation, strict=True)]
    return [*lines, {"step": 1, "split": "batch", "loss": 9.0}]


@pytest.mark.parametrize(
    ("train", "validation", "since"),
    [
        ([3, 2, 1.5, 1], [3, 2.2, 2.3, 2.5], 20),
        ([3, 2, 1.5, 1], [3, 2.2, 2.1, 2.0], None),  # still learning
        ([3, 2, 1.5, 1], [3, 2.2, 2.1, 2.105], None),  # within noise
        ([3, 2, 2.1, 2.5], [3, 2.2, 2.4, 2.6], None),  # both rise: the training diverges
        ([3, 2, 1.5, 1], [3, 2.2, 2.5, 2.1], None),  # recovered
        ([3], [3], None),
    ],
)
def test_a_run_overfits_if_only_its_training_loss_falls_on(
    train: list[float], validation: list[float], since: int | None
) -> None:
    assert overfitting_since(records(train, validation)) == since


def test_a_run_without_evaluations_does_not_overfit() -> None:
    assert overfitting_since([{"step": 1, "split": "batch", "loss": 9.0}]) is None
