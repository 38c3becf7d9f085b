"""Events of a training, for the terminal, plugins and the run folder's records. Plain data, without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gpt2demo.runs.folder import Run, Status, now

StopRequest = Callable[[], Literal["stopped", "interrupted"] | None]
"""Called before each step. A result other than None ends the training with this status and a checkpoint."""


@dataclass(frozen=True)
class Started:
    """The training loop starts.

    Attributes:
        run: the run's name.
        step, total_steps: the first step is `step` + 1, the last one `total_steps`.
        parameters: number of parameters of the model.
        tokens: number of tokens by split.
        device, dtype: of the computation.
        processes: number of processes that train together.
    """

    run: str
    step: int
    total_steps: int
    parameters: int
    tokens: dict[str, int]
    device: str
    dtype: str
    processes: int = 1


@dataclass(frozen=True)
class Step:
    """An optimizer step.

    Attributes:
        step: its number, from 1.
        total_steps: the last step's number.
        loss: mean over the batch before the update, in nats per token.
        learning_rate: of this step.
        grad_norm: before clipping.
        tokens_per_second: of this step.
        seconds_left: until the end, at the current pace.
        flops_per_second: `ModelConfig.flops_per_token` times `tokens_per_second`.
        utilization: `flops_per_second` as a fraction of the peak that the maker of the GPU states (model FLOPs utilization,
            Chowdhery et al. 2022, section 4.1); None if it is not known.
        memory: the most so far, in bytes: allocated on an NVIDIA GPU, else resident memory of the process.
    """

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    seconds_left: float
    flops_per_second: float
    utilization: float | None
    memory: int


@dataclass(frozen=True)
class Evaluation:
    """Mean losses over fixed windows of both splits, in nats per token; perplexity and bits per byte of the validation split."""

    step: int
    train_loss: float
    validation_loss: float
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class Sample:
    """Text sampled from the current weights."""

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
    """The last event.

    Attributes:
        status: the final status.
        step: the last step.
        reason: why the training stopped early by itself (`--patience`), or None.
    """

    status: Status
    step: int
    reason: str | None = None


Event = Started | Step | Evaluation | Sample | Saved | Ended


def record(run: Run, event: Event) -> None:
    """Append an event to the run folder: losses to metrics.jsonl, samples to samples.jsonl; ignore other events."""
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
