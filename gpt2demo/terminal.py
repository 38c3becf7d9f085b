"""What the terminal shows and hears: a progress bar for a training, the chat, lists, signals. Messages go to stderr."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from gpt2demo import progress
from gpt2demo.errors import UserError
from gpt2demo.hookspecs import PROJECT

if TYPE_CHECKING:
    from gpt2demo.config import GenerateConfig
    from gpt2demo.events import Evaluation, Event, Started, Step
    from gpt2demo.generate import Model

messages = Console(stderr=True, highlight=False, soft_wrap=True)
SILENCE = 10  # seconds between two lines about a long work, where there is no bar


def say(text: str) -> None:
    """A message for people, on stderr; not markup."""
    messages.print(text, markup=False)


def line(text: str) -> str:
    """A text as one line."""
    return " ".join(text.split())


CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def printable(text: str) -> str:
    """A model's text without control characters: an untrained model can write sequences that upset a terminal."""
    return text.translate(CONTROLS)


def terminated(number: int, frame: FrameType | None) -> NoReturn:
    """A signal's handler: end as after any exception, with everything on the way cleaned up."""
    raise SystemExit(128 + number)


class Signals:
    """Which signal asked the training to end. A second one ends it at once, and so does one before the training.

    Attributes:
        training: whether there is something to save.
        received: the signal, or None.
    """

    def __init__(self) -> None:
        self.training = False
        self.received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if not self.training:
            say("stopped before the training began; nothing is kept")
            raise SystemExit(128 + number)
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        say("stopping after this step, with a checkpoint; once more to stop at once")

    def stop(self) -> Literal["interrupted"] | None:
        """What the trainer asks after each step."""
        return "interrupted" if self.received is not None else None

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells have it; 0 without one."""
        return 128 + self.received if self.received is not None else 0


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Turn SIGINT, SIGTERM and SIGHUP into a wish that the trainer sees."""
    caught = Signals()
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), caught) for name in names}
    try:
        yield caught
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


@contextmanager
def show_progress() -> Iterator[None]:
    """Within the block, long work is shown: as bars with rate and time on a terminal, as a line now and then elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bars = Progress(*columns, console=messages, disable=not messages.is_terminal, transient=True)
    with bars, progress.shown_by(partial(_bar, bars) if messages.is_terminal else _lines):
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
            say(f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}")

    yield advance


def show_training(events: Iterable[Event]) -> None:
    """Run a training to its end and show it: a live bar on a terminal, plain lines elsewhere."""
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s  {task.fields[left]} left"),
        console=messages,
        disable=not messages.is_terminal,
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
        if not messages.is_terminal and event.step % max(1, event.total_steps // 50) == 0:
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
        self._say(f"  writes: {printable(line(getattr(event, 'text', '')))[:300]}")

    def _saved(self, event: Event) -> None:
        self._say(f"  saved {getattr(event, 'path', '')}")

    def _ended(self, event: Event) -> None:
        self._say(f"{getattr(event, 'status', '')} after step {getattr(event, 'step', '')}")


def chat(model: Model, config: GenerateConfig) -> None:
    """Prompts until `quit` or the end of the input; each is continued by the model and streamed to stdout.

    Raises:
        UserError: a setting cannot be used.
    """
    model.check(config)
    engine = f"{model.engine.name} ({model.engine.provider})"
    say(f"{model.name} on {engine} continues your text; it does not follow instructions. `quit` ends.")
    while (prompt := _ask()) not in (None, "quit", "exit"):
        try:
            generation = model.generate(prompt or "", config)
            for piece in generation:
                print(printable(piece), end="", flush=True)
            print(flush=True)
            for note in generation.notes:
                say(f"gpt2demo: warning: {note}")
        except UserError as error:  # such as a character that the training text did not have
            say(f"gpt2demo: error: {error}")
        except KeyboardInterrupt:
            print(flush=True)


def _ask() -> str | None:
    """A line from the user, or None at the end of the input."""
    if sys.stdin.isatty():
        messages.print("> ", end="")
    typed = sys.stdin.readline()
    return typed.rstrip("\r\n") if typed else None


def print_list(rows: list[dict[str, Any]], as_json: bool) -> None:
    """A list as JSON, or as a table for people."""
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        say("nothing here yet")
        return
    columns = max(rows, key=len)  # what cannot be read is a row with less in it
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else 240).print(table, markup=False)


def print_documents(documents: list[str], as_json: bool) -> None:
    """Documents behind each other, or as a list in JSON."""
    if as_json:
        print(json.dumps(documents))
    for document in () if as_json else documents:
        print(document, end="" if document.endswith("\n") else "\n")


def print_corpus(made: dict[str, Any], as_json: bool) -> None:
    """What a text is, in a row, and what tokenizers make of it, side by side."""
    if as_json:
        print(json.dumps(made))
        return
    whole = {name: value for name, value in made.items() if not isinstance(value, list)}
    for rows in ([whole], made["tokenizers"]):
        empty = {name for name in rows[0] if all(row[name] is None for row in rows)}
        print_list([{name: value for name, value in row.items() if name not in empty} for row in rows], as_json=False)


def _cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, dict):
        return "; ".join(
            f"{key.removeprefix(PROJECT + '_')}: {', '.join(names)}" if names else key for key, names in value.items()
        )
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
