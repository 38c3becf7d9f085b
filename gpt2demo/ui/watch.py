"""What a browser shows of a run: loss curves, newest texts, one line of progress. Read from the run folder, bit by bit.

Knows nothing of Gradio.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.errors import Error
from gpt2demo.runs.folder import Run, State
from gpt2demo.training.jobs import Job

POINTS = 240
SAMPLES = 20
PREPARING = ("the text is read, the tokenizer made",)
Point = tuple[float, float]


class Curve:
    """A loss curve that stays small however long the run is: when it is full, neighbours are averaged.

    Args:
        limit: the most points it keeps, an even number.

    """

    def __init__(self, limit: int = POINTS) -> None:
        self._limit = limit
        self._stride = 1  # steps that make one point
        self._points: list[Point] = []
        self._open: list[Point] = []

    def add(self, step: float, loss: float) -> None:
        """One more step."""
        self._open.append((step, loss))
        if len(self._open) < self._stride:
            return
        self._points.append(_mean(self._open))
        self._open = []
        if len(self._points) >= self._limit:
            self._points = [_mean(self._points[at : at + 2]) for at in range(0, len(self._points), 2)]
            self._stride *= 2

    @property
    def points(self) -> list[Point]:
        """The curve up to now: step, mean loss of the steps around it."""
        return [*self._points, _mean(self._open)] if self._open else self._points


def _mean(points: list[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


@dataclass(frozen=True)
class Progress:
    """How a run stands, for the line above the plot.

    Attributes:
        status: `preparing`, `stopping` or a run's status.
        step, total: steps done and to do.
        facts: short phrases: losses, speed.
        left: the time left while it runs, or nothing.
        error: why it failed.

    """

    name: str
    status: str
    step: int = 0
    total: int = 0
    facts: tuple[str, ...] = ()
    left: str = ""
    error: str | None = None


class Watch:
    """One run, as one browser sees it. `read` takes in what is new.

    Args:
        run: the run; its folder may not be there yet.

    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.state: State | None = None
        self._writer: object = "not read yet"
        self._forget()

    def _forget(self) -> None:
        self.curve = Curve()
        self.validation: list[Point] = []
        self.samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES)
        self._last: dict[str, Any] = {}
        self._seconds: deque[float] = deque(maxlen=20)  # of the newest steps
        self._tokens_per_step = 0
        self._offsets = {self.run.metrics: 0, self.run.samples: 0}

    def read(self) -> tuple[bool, bool]:
        """Take in what is new; whether there are new losses, and new texts."""
        self.state = self.run.state() if self.run.exists else None
        writer = (self.state.pid, self.state.pid_started) if self.state else None
        if another := writer != self._writer:  # who takes a run up again has dropped what came after its checkpoint
            self._writer = writer
            self._forget()
            self._tokens_per_step = _tokens_per_step(self.run)
        losses, texts = self._new(self.run.metrics), self._new(self.run.samples)
        for record in losses:
            self._take(record)
        self.samples.extend(texts)
        return another or bool(losses), another or bool(texts)

    def _new(self, path: Any) -> list[dict[str, Any]]:
        records, self._offsets[path] = self.run.records(path, self._offsets[path])
        return records

    def _take(self, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        split, step, loss = record.get("split"), record.get("step", 0), record.get("loss", 0.0)
        if split == "batch":
            self.curve.add(step, loss)
            self._last = record
            self._seconds.append(self._tokens_per_step / max(record.get("tokens_per_second", 0.0), 1e-9))
        elif split == "validation":
            self.validation.append((step, loss))

    def progress(self, job: Job | None) -> Progress:
        """How it stands now, given the job that was started last."""
        job = job if job and job.run == self.run.name else None
        status = job.status() if job else self.state.status if self.state else "failed"
        error = job.error() if job else self.state.error if self.state else None
        if self.state is None:
            return Progress(self.run.name, status, facts=PREPARING if status == "preparing" else (), error=error)
        if status == "running" and self.run.stop_file.exists():
            status = "stopping"
        step, total = max(self.state.step, int(self._last.get("step", 0))), self.state.total_steps
        pace = sum(self._seconds) / len(self._seconds) if status == "running" and self._seconds else 0.0
        left = f"{duration(pace * (total - step))} left" if pace else ""
        return Progress(self.run.name, status, step, total, tuple(self._facts(pace)), left, error)

    def _facts(self, pace: float) -> list[str]:
        """Losses; while it runs also the speed, from the seconds that a step takes."""
        facts = []
        if points := self.curve.points:
            facts.append(f"training loss {points[-1][1]:.3f}")
        if self.validation:
            facts.append(f"validation loss {self.validation[-1][1]:.3f}")
        if pace:
            facts.append(f"{self._tokens_per_step / pace:,.0f} tokens/s")
        return facts


def _tokens_per_step(run: Run) -> int:
    """What one optimizer step reads."""
    try:
        info = run.info()
        train, model = TrainConfig.create(**info["train"]), ModelConfig.create(**info["model"])
    except (Error, KeyError, TypeError):
        return 0
    return train.batch_size * train.grad_accumulation * model.n_positions


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(42), duration(200), duration(5000)
    ('42 s', '3 min', '1 h 23 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
