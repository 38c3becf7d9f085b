"""Find the step from which a run overfits: its training loss falls on, its validation loss rises."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NOTABLE = 0.01
"""Nats per token by which a validation loss must exceed the lowest one; smaller differences are noise."""


def overfitting_since(records: Iterable[dict[str, Any]]) -> int | None:
    """Return the step of a run's lowest validation loss if the run has been overfitting since then, otherwise None.

    Args:
        records: the lines of metrics.jsonl.
    """
    losses: dict[str, dict[int, float]] = {"train": {}, "validation": {}}
    for record in records:
        if record["split"] in losses:
            losses[record["split"]][record["step"]] = record["loss"]
    train, validation = losses["train"], losses["validation"]
    steps = sorted(train.keys() & validation.keys())
    if not steps:
        return None
    best = min(steps, key=lambda step: (validation[step], step))
    rising = validation[steps[-1]] > validation[best] + NOTABLE
    return best if rising and train[steps[-1]] < train[best] else None
