"""Progress on the terminal: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gpt2demo import progress
from gpt2demo.events import Ended, Evaluation, Event, Sample, Saved, Started, Step
from gpt2demo.memory import in_units
from gpt2demo.terminal import console, one_line, print_message, printable

SECONDS_BETWEEN_LINES = 10  # of one task, without a bar
SAMPLE_LENGTH = 300  # characters


@contextmanager
def show_progress() -> Iterator[None]:
    """Display tasks inside the block: a bar with rate and remaining time on a terminal, an occasional line elsewhere."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    with bars, progress.use_display(partial(_bar, bars) if console.is_terminal else _lines):
        yield


@contextmanager
def _bar(bars: Progress, description: str, total: int | None) -> Iterator[progress.Advance]:
    task = bars.add_task(description, total=total)
    try:
        yield lambda amount: bars.advance(task, amount)
    finally:
        bars.remove_task(task)


@contextmanager
def _lines(description: str, total: int | None) -> Iterator[progress.Advance]:
    done, last_line = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, last_line
        done += amount
        if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            print_message(f"{description}: {done:,} of {total:,}" if total else f"{description}: {done:,}")

    yield advance


def show_training(events: Iterable[Event]) -> None:
    """Run a training to its end and display its events: a live bar on a terminal, plain lines elsewhere."""
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s  {task.fields[memory]}  {task.fields[left]} left"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        display = _TrainingDisplay(bar)
        for event in events:
            display.show(event)


class _TrainingDisplay:
    """Display of one training in a progress bar and in lines above it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("train", total=None, loss="–", speed="–", memory="–", left="–")

    def show(self, event: Event) -> None:
        """Display an event."""
        match event:
            case Started():
                self._start(event)
            case Step():
                self._advance(event)
            case Evaluation():
                self._print(
                    f"step {event.step}: training loss {event.train_loss:.4f}, validation loss {event.validation_loss:.4f}, "
                    f"perplexity {event.perplexity:.2f}, {event.bits_per_byte:.3f} bits per byte"
                )
            case Sample():
                self._print(f"  sample: {printable(one_line(event.text))[:SAMPLE_LENGTH]}")
            case Saved():
                self._print(f"  saved {event.path}")
            case Ended():
                self._print(f"{event.status} after step {event.step}{f': {event.reason}' if event.reason else ''}")

    def _print(self, text: str) -> None:
        self._bar.console.print(printable(text), markup=False)

    def _start(self, event: Started) -> None:
        self._bar.update(self._task, total=event.total_steps, completed=event.step)
        several = f", {event.processes} processes" if event.processes > 1 else ""
        tokens = ", ".join(f"{count:,} {split} tokens" for split, count in event.tokens.items())
        self._print(f"run {event.run}: {event.parameters:,} parameters, {tokens}, {event.device} {event.dtype}{several}")

    def _advance(self, event: Step) -> None:
        speed, left = f"{event.tokens_per_second:,.0f}", str(timedelta(seconds=round(event.seconds_left)))
        memory = in_units(event.memory)
        self._bar.update(self._task, completed=event.step, loss=f"{event.loss:.3f}", speed=speed, memory=memory, left=left)
        if not console.is_terminal and event.step % max(1, event.total_steps // 50) == 0:
            self._print(f"step {event.step}/{event.total_steps}: loss {event.loss:.3f}, {speed} tokens/s, {memory}, {left} left")
