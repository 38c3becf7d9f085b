"""Read a run folder incrementally: loss curves, newest samples and progress. Independent of Gradio."""

from __future__ import annotations

import glob
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.errors import Error
from gpt2demo.memory import in_units
from gpt2demo.runs.folder import Run, State
from gpt2demo.storage import TEMPORARY
from gpt2demo.training.jobs import Job

POINTS = 240
SAMPLES = 20
Point = tuple[float, float]


class Curve:
    """A loss curve of bounded size: when it is full, neighbouring points are averaged.

    Args:
        limit: maximum number of points, an even number.

    """

    def __init__(self, limit: int = POINTS) -> None:
        self._limit = limit
        self._stride = 1  # steps per point
        self._points: list[Point] = []
        self._pending: list[Point] = []

    def add(self, step: float, loss: float) -> None:
        """Append a step."""
        self._pending.append((step, loss))
        if len(self._pending) < self._stride:
            return
        self._points.append(_mean(self._pending))
        self._pending = []
        if len(self._points) >= self._limit:
            self._points = [_mean(self._points[at : at + 2]) for at in range(0, len(self._points), 2)]
            self._stride *= 2

    @property
    def points(self) -> list[Point]:
        """The curve so far: pairs of step and mean loss around that step."""
        return [*self._points, _mean(self._pending)] if self._pending else self._points


def _mean(points: list[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


@dataclass(frozen=True)
class Progress:
    """Progress of a run, for the line above the plot.

    Attributes:
        name: the run's name.
        status: `preparing`, `stopping` or a status of the run.
        step, total: steps done, and steps in total.
        facts: short phrases: losses, speed.
        left: estimated time left while the run is running, otherwise empty.
        error: the error message of a failed run.

    """

    name: str
    status: str
    step: int = 0
    total: int = 0
    facts: tuple[str, ...] = ()
    left: str = ""
    error: str | None = None


class RunWatcher:
    """The state of one run as one browser shows it; `read` updates it.

    Args:
        run: the run; its folder may not exist yet.

    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.state: State | None = None
        self._writer: object = "not read yet"
        self._reset()

    def _reset(self) -> None:
        self.curve = Curve()
        self.validation: list[Point] = []
        self.samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES)
        self._last: dict[str, Any] = {}
        self._seconds: deque[float] = deque(maxlen=20)  # per step, newest steps
        self._tokens_per_step = 0
        self._offsets = {self.run.metrics: 0, self.run.samples: 0}

    def read(self) -> tuple[bool, bool]:
        """Read new records; return whether there are new losses, and new samples."""
        self.state = self.run.state() if self.run.exists else None
        writer = (self.state.pid, self.state.pid_started) if self.state else None
        if new_writer := writer != self._writer:  # a resumed run has removed the records after its checkpoint: start over
            self._writer = writer
            self._reset()
            self._tokens_per_step = _tokens_per_step(self.run)
        losses, samples = self._new(self.run.metrics), self._new(self.run.samples)
        for record in losses:
            self._add(record)
        self.samples.extend(samples)
        return new_writer or bool(losses), new_writer or bool(samples)

    def _new(self, path: Path) -> list[dict[str, Any]]:
        records, self._offsets[path] = self.run.records(path, self._offsets[path])
        return records

    def _add(self, record: dict[str, Any]) -> None:
        """Add a record of metrics.jsonl."""
        split, step, loss = record.get("split"), record.get("step", 0), record.get("loss", 0.0)
        if split == "batch":
            self.curve.add(step, loss)
            self._last = record
            self._seconds.append(self._tokens_per_step / max(record.get("tokens_per_second", 0.0), 1e-9))
        elif split == "validation":
            self.validation.append((step, loss))

    def progress(self, job: Job | None) -> Progress:
        """Return the current progress, given the job that was started last."""
        job = job if job and job.run == self.run.name else None
        status = job.status() if job else self.state.status if self.state else "failed"
        error = job.error() if job else self.state.error if self.state else None
        stage = (_stage(self.run),) if status == "preparing" else ()
        if self.state is None:
            return Progress(self.run.name, status, facts=stage, error=error)
        if status == "running" and self.run.stop_file.exists():
            status = "stopping"
        step, total = max(self.state.step, int(self._last.get("step", 0))), self.state.total_steps
        pace = sum(self._seconds) / len(self._seconds) if status == "running" and self._seconds else 0.0
        left = f"{duration(pace * (total - step))} left" if pace else ""
        return Progress(self.run.name, status, step, total, (*stage, *self._facts(pace)), left, error)

    def _facts(self, pace: float) -> list[str]:
        """Return the losses and, while running, speed and memory. `pace` is in seconds per step."""
        facts = []
        if points := self.curve.points:
            facts.append(f"training loss {points[-1][1]:.3f}")
        if self.validation:
            facts.append(f"validation loss {self.validation[-1][1]:.3f}")
        if pace:
            facts.append(f"{self._tokens_per_step / pace:,.0f} tokens/s")
        if pace and (memory := self._last.get("memory")):  # older versions do not record it
            facts.append(in_units(memory))
        return facts


def _stage(run: Run) -> str:
    """Return what a training that is preparing does now: each stage ends with a file or folder."""
    if run.has_state:
        return "loading the checkpoint"
    if run.exists:
        return "building the model"
    unfinished = run.path.parent.glob(f"{TEMPORARY}{glob.escape(run.path.name)}-*")
    folders = [path for path in (run.path, *unfinished) if path.is_dir()]
    if any(Run(path).tokenizer.exists() for path in folders):
        return "encoding the text"
    return "reading the text and training the tokenizer" if folders else "starting"


def _tokens_per_step(run: Run) -> int:
    """Return the number of tokens per optimizer step; 0 if run.json cannot be used."""
    try:
        info = run.info()
        train, model = TrainConfig.create(**info["train"]), ModelConfig.create(**info["model"])
    except (Error, KeyError, TypeError):
        return 0
    return train.batch_size * train.grad_accumulation * model.n_positions


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(42), duration(200), duration(5000)
    ('42 s', '3 min', '1 h 23 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
