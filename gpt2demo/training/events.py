"""What a training tells, event by event: to the terminal, to the run folder's records, to plugins. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gpt2demo.runs.folder import Run, Status, now

StopRequest = Callable[[], Literal["stopped", "interrupted"] | None]
"""Asked after each step whether the training should end, and as what."""


@dataclass(frozen=True)
class Started:
    """The loop begins.

    Attributes:
        run: the run's name.
        step, total_steps: where it begins and ends.
        parameters: how many the model has.
        tokens: of each split.
        device, dtype: what computes, in which number format.
    """

    run: str
    step: int
    total_steps: int
    parameters: int
    tokens: dict[str, int]
    device: str
    dtype: str


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        step: its number, from 1.
        total_steps: the last one's.
        loss: mean of the batch, nats per token, before the update.
        learning_rate: that was used.
        grad_norm: before clipping.
        tokens_per_second: of this step.
        seconds_left: until the end at the present pace.
    """

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Evaluation:
    """Mean losses over fixed windows of both splits, nats per token; the perplexity and bits per byte of the validation split."""

    step: int
    train_loss: float
    validation_loss: float
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class Sample:
    """What the model writes now."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written and verified."""

    step: int
    path: Path
    validation_loss: float | None


@dataclass(frozen=True)
class Ended:
    """The last event: how it ended, after which step."""

    status: Status
    step: int


Event = Started | Step | Evaluation | Sample | Saved | Ended


def record(run: Run, event: Event) -> None:
    """Keep an event in the run folder: losses in metrics.jsonl, samples in samples.jsonl; the others have no place there."""
    if isinstance(event, Step):
        values = {"split": "batch", **asdict(event)}
        run.append(run.metrics, {**_without(values, "total_steps", "seconds_left"), "time": now()})
    elif isinstance(event, Evaluation):
        for split, loss in (("train", event.train_loss), ("validation", event.validation_loss)):
            run.append(run.metrics, {"step": event.step, "split": split, "loss": loss, "time": now()})
    elif isinstance(event, Sample):
        run.append(run.samples, {**asdict(event), "time": now()})


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
