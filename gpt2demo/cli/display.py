"""Progress on the terminal: bars where there is a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

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
from gpt2demo.terminal import console, one_line, print_message, printable

if TYPE_CHECKING:
    from gpt2demo.training.events import Evaluation, Event, Started, Step

SILENCE = 10  # seconds between two lines about a long work, where there is no bar


@contextmanager
def show_progress() -> Iterator[None]:
    """Within the block, long work is shown: as bars with rate and time on a terminal, as a line now and then elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    with bars, progress.use_display(partial(_bar, bars) if console.is_terminal else _lines):
        yield


@contextmanager
def _bar(bars: Progress, what: str, total: int | None) -> Iterator[progress.Advance]:
    task = bars.add_task(what, total=total)
    try:
        yield lambda amount: bars.advance(task, amount)
    finally:
        bars.remove_task(task)


@contextmanager
def _lines(what: str, total: int | None) -> Iterator[progress.Advance]:
    done, told = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, told
        done += amount
        if time.monotonic() - told > SILENCE:
            told = time.monotonic()
            print_message(f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}")

    yield advance


def show_training(events: Iterable[Event]) -> None:
    """Run a training to its end and show it: a live bar on a terminal, plain lines elsewhere."""
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s  {task.fields[left]} left"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        display = _Display(bar)
        for event in events:
            display.show(event)


class _Display:
    """Shows one event after the other."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("train", total=None, loss="–", speed="–", left="–")

    def show(self, event: Event) -> None:
        """Dispatch on the event's name; those without a method have nothing to show."""
        handler: Callable[[Event], None] = getattr(self, f"_{type(event).__name__.lower()}", lambda event: None)
        handler(event)

    def _say(self, text: str) -> None:
        self._bar.console.print(text, markup=False)

    def _started(self, event: Started) -> None:
        self._bar.update(self._task, total=event.total_steps, completed=event.step)
        tokens = ", ".join(f"{count:,} tokens for {name}" for name, count in event.tokens.items())
        self._say(f"run {event.run}: {event.parameters:,} parameters, {tokens}, {event.device} {event.dtype}")

    def _step(self, event: Step) -> None:
        left = str(timedelta(seconds=round(event.seconds_left)))
        self._bar.update(
            self._task, completed=event.step, loss=f"{event.loss:.3f}", speed=f"{event.tokens_per_second:,.0f}", left=left
        )
        if not console.is_terminal and event.step % max(1, event.total_steps // 50) == 0:
            self._say(
                f"step {event.step}/{event.total_steps}: loss {event.loss:.3f}, "
                f"{event.tokens_per_second:,.0f} tokens/s, {left} left"
            )

    def _evaluation(self, event: Evaluation) -> None:
        self._say(
            f"step {event.step}: training loss {event.train_loss:.4f}, validation loss {event.validation_loss:.4f}, "
            f"perplexity {event.perplexity:.2f}, {event.bits_per_byte:.3f} bits per byte"
        )

    def _sample(self, event: Event) -> None:
        self._say(f"  writes: {printable(one_line(getattr(event, 'text', '')))[:300]}")

    def _saved(self, event: Event) -> None:
        self._say(f"  saved {getattr(event, 'path', '')}")

    def _ended(self, event: Event) -> None:
        self._say(f"{getattr(event, 'status', '')} after step {getattr(event, 'step', '')}")
