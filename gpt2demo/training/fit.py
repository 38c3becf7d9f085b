"""What a training needs: memory, time and disk, measured with a few steps in another process; and the largest batch that fits."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.errors import SettingError, TrainingError
from gpt2demo.memory import in_units
from gpt2demo.progress import task
from gpt2demo.runs.folder import runs_dir
from gpt2demo.training.schedule import total_steps

RESERVE = {"cuda": 0.1, "cpu": 0.2}
"""Fraction of the available memory that stays free. On a CPU, other programs need more while a training runs."""
QUICK = 5e10  # floating-point operations of a micro-batch: up to here, larger ones are measured, which predict better


@dataclass(frozen=True)
class Measurement:
    """A few steps of up to two micro-batches.

    Attributes:
        batch_size: sequences per micro-batch.
        memory: the most that the process had, in bytes.
        micro_batch_seconds, evaluation_seconds: of a batch in training and in evaluation.
        state: bytes of the optimizer state.
    """

    batch_size: int
    memory: int
    micro_batch_seconds: float
    evaluation_seconds: float
    state: int


@dataclass(frozen=True)
class Estimate:
    """What a training would need.

    Attributes:
        parameters: of the model.
        device, dtype: of the computation.
        batch_size, grad_accumulation: the settings.
        tokens_per_step: of an optimizer step.
        steps: of the whole run, or None if that depends on a text that is not known.
        memory: the most that a process will have, in bytes: measured if it fits, else predicted, if one sequence fits.
        available: bytes that it may have.
        step_seconds: of an optimizer step, or None if it does not fit.
        seconds: until the end, with evaluations, or None if not known.
        disk: bytes of the checkpoints that exist at the same time.
        disk_free: bytes on the disk of the runs.
        advice: options that fit if these do not, or None if there are none or these fit.
    """

    parameters: int
    device: str
    dtype: str
    batch_size: int
    grad_accumulation: int
    tokens_per_step: int
    steps: int | None
    memory: int | None
    available: int
    step_seconds: float | None
    seconds: float | None
    disk: int
    disk_free: int
    advice: str | None

    @property
    def fits(self) -> bool:
        """True if memory and disk are enough."""
        return self.memory is not None and self.memory <= self.available and self.disk <= self.disk_free


class Probe:
    """A process that measures steps.

    Attributes:
        device, dtype: of the computation.
        available: bytes that a training may have.
    """

    def __init__(self, process: subprocess.Popen[str], model: ModelConfig, train: TrainConfig, processes: int) -> None:
        assert process.stdin
        assert process.stdout
        self._input, self._output = process.stdin, process.stdout
        found = self._ask({"model": model.model_dump(), "train": train.model_dump()})
        if found is None:
            raise TrainingError("the process that measures memory has ended; set --batch-size to a number")
        self.device, self.dtype = str(found["device"]), str(found["dtype"])
        share = 1 if self.device == "cuda" else processes
        self.available = int(found["available"] * (1 - RESERVE.get(self.device, RESERVE["cpu"]))) // share

    def measure(self, batch_size: int, steps: int = 1) -> Measurement | None:
        """Measure steps, or return None if memory ran out. After that, the process can measure no more.

        Raises:
            TrainingError: a step failed for another reason.
        """
        found = self._ask([batch_size, steps])
        return Measurement(batch_size, **found) if found else None

    def _ask(self, request: object) -> dict[str, Any] | None:
        """Send a request; return the answer, or None if there is none: the system ends a process that takes too much memory."""
        try:
            print(json.dumps(request), file=self._input, flush=True)
        except BrokenPipeError:
            return None
        answer: dict[str, Any] | None = json.loads(self._output.readline() or "null")
        if answer and "error" in answer:
            raise TrainingError(answer["error"])
        return answer


@contextmanager
def probe(model: ModelConfig, train: TrainConfig, processes: int = 1) -> Iterator[Probe]:
    """Start a process that measures steps, and end it after the block.

    Args:
        model: the shape.
        train: training settings; `batch_size` is ignored.
        processes: number of processes that share the memory of a CPU.
    """
    command, pipe = [sys.executable, "-m", "gpt2demo.training.probe"], subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        try:
            yield Probe(process, model, train, processes)
        finally:
            process.kill()


class MemoryLine:
    """Predicts the memory of a batch size with a line through the two largest sizes that were measured.

    Before two are measured, the weights, their gradients and the optimizer state alone are the memory of a batch of none.

    Args:
        probe: measures sizes: 1, 2, and more while that is quick.
        model: the shape.
        largest: the largest size to predict.
    """

    def __init__(self, probe: Probe, model: ModelConfig, largest: int) -> None:
        self.measured: list[Measurement] = []
        self._least = 8 * model.n_parameters
        work, size = model.flops_per_token * model.n_positions, 1  # of a sequence
        while size <= largest and (size <= 2 or size * work < QUICK) and self._fits(size, probe.available):
            if (found := probe.measure(size)) is None:
                break
            self.measured.append(found)
            size *= 2

    def _fits(self, size: int, available: int) -> bool:
        return not self.measured or size in self.fitting([size], available)

    def predict(self, batch_size: int) -> int | None:
        """Return the memory of a process in bytes, or None if not even one sequence fits."""
        if not self.measured:
            return None
        last = self.measured[-1]
        size, memory = 0, min(last.memory, self._least + last.state)
        if len(self.measured) > 1:
            size, memory = self.measured[-2].batch_size, self.measured[-2].memory
        slope = (last.memory - memory) / (last.batch_size - size)
        return round(last.memory + slope * (batch_size - last.batch_size))

    def fitting(self, candidates: Sequence[int], available: int) -> list[int]:
        """Return the batch sizes that need at most the available memory, in bytes."""
        return [size for size in candidates if (predicted := self.predict(size)) is not None and predicted <= available]


def sizes(train: TrainConfig, processes: int) -> list[int]:
    """Return the batch sizes with the same sequences per step in equal parts for the processes, the largest first."""
    sequences = train.batch_size * train.grad_accumulation
    divisors = [size for size in range(1, sequences + 1) if sequences % size == 0]
    return [size for size in reversed(divisors) if sequences // size % processes == 0]


def with_size(train: TrainConfig, size: int) -> TrainConfig:
    """Return settings with another batch size and the same sequences per step."""
    return train.with_changes(batch_size=size, grad_accumulation=train.batch_size * train.grad_accumulation // size)


def largest_batch(model: ModelConfig, train: TrainConfig, processes: int = 1) -> tuple[TrainConfig, dict[str, Any]]:
    """Return settings with the largest batch that fits and the same sequences per step, and the numbers behind it.

    On an NVIDIA GPU the batch is tried; on a CPU, where that can take minutes, the prediction decides.

    Raises:
        SettingError: not even a batch of one sequence fits.
    """
    candidates = sizes(train, processes)
    with task("measuring memory", None), probe(model, train, processes) as measuring:
        line = MemoryLine(measuring, model, candidates[0])
        facts = {"available": measuring.available, "measured": {found.batch_size: found.memory for found in line.measured}}
    for size in line.fitting(candidates, measuring.available):
        if measuring.device != "cuda" or _works(model, train, size):
            return with_size(train, size), facts | {"predicted": line.predict(size)}
    needs = f"one sequence of {model.n_positions} positions and {model.n_parameters:,} parameters need more memory"
    advice = "" if train.checkpoint_activations else "--checkpoint-activations, "
    available = in_units(measuring.available)
    raise SettingError(f"batch_size='auto': {needs} than the {available} available; try {advice}a smaller --n-positions or model")


def _works(model: ModelConfig, train: TrainConfig, size: int) -> bool:
    """Try a batch size in a new process: one whose memory ran out measures no more."""
    with probe(model, train) as measuring:
        return measuring.measure(size) is not None


def estimate(model: ModelConfig, train: TrainConfig, windows: int | None = None, processes: int = 1) -> Estimate:
    """Return what a training would need.

    Args:
        model: its shape.
        train: its settings.
        windows: windows per epoch, or None if the text is not known.
        processes: their number; each is assumed to have the same device.

    Raises:
        TrainingError: a step failed, though memory was enough.
    """
    with task("measuring steps", None), probe(model, train, processes) as measuring:
        line = MemoryLine(measuring, model, train.batch_size)
        fits = bool(line.fitting([train.batch_size], measuring.available))
        found = measuring.measure(train.batch_size, steps=3) if fits else None
    steps = total_steps(train, windows or 0) if windows or train.steps else None
    step_seconds = found.micro_batch_seconds * train.grad_accumulation / processes if found else None
    state = line.measured[-1].state if line.measured else 0
    return Estimate(
        parameters=model.n_parameters,
        device=measuring.device,
        dtype=measuring.dtype,
        batch_size=train.batch_size,
        grad_accumulation=train.grad_accumulation,
        tokens_per_step=train.batch_size * train.grad_accumulation * model.n_positions,
        steps=steps,
        memory=found.memory if found else line.predict(train.batch_size),
        available=measuring.available,
        step_seconds=step_seconds,
        seconds=steps * step_seconds + _evaluation_seconds(train, steps, found) if steps and step_seconds and found else None,
        disk=(train.keep + 2) * (4 * model.n_parameters + state),  # the best one, and the one that is being written
        disk_free=_disk_free(runs_dir()),
        advice=None if found else _advice(model, train, line, measuring.available, processes),
    )


def _evaluation_seconds(train: TrainConfig, steps: int, found: Measurement) -> float:
    """Return the duration of all evaluations of a run, each of a number of batches of both splits."""
    evaluations = 1 + math.ceil(steps / (train.eval_every or max(1, steps // 10)))
    return evaluations * 2 * train.eval_batches * found.evaluation_seconds


def _disk_free(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which may not exist yet."""
    return shutil.disk_usage(next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())).free


def _advice(model: ModelConfig, train: TrainConfig, line: MemoryLine, available: int, processes: int) -> str | None:
    """Return the options that are closest to the settings and fit, or None."""
    candidates = sizes(train, processes)
    if fitting := line.fitting(candidates, available):
        return _options(with_size(train, fitting[0]))
    if train.checkpoint_activations:
        return None
    with probe(model, train.with_changes(checkpoint_activations=True), processes) as measuring:
        fitting = MemoryLine(measuring, model, candidates[0]).fitting(candidates, available)
    if not fitting:
        return None
    smaller = "" if fitting[0] == train.batch_size else " " + _options(with_size(train, fitting[0]))
    return f"--checkpoint-activations{smaller}"


def _options(train: TrainConfig) -> str:
    return f"--batch-size {train.batch_size} --grad-accumulation {train.grad_accumulation}"
